"""The seed model: same bytes each time, whole or absent, and one format with ``prompts``."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from random import Random

import pytest
import torch
from models_fixtures import tiny_seed as tiny_seed
from test_house import imports_of
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import enable_progress_bar

from valuealign import prompts
from valuealign.errors import ModelError
from valuealign.models import seed, seed_exam, seed_text
from valuealign.models.load import load_base
from valuealign.models.seed import SeedRecipe, ensure_seed, is_complete
from valuealign.models.seed_start import wire_copying
from valuealign.models.seed_words import TRAITS
from valuealign.types import Message

QA = prompts.wordings().questions["qa"]
TINY = SeedRecipe(
    vocabulary=400, hidden=32, layers=2, heads=2, intermediate=48, tokenizer_samples=100, steps=3, batch=2, row=160
)
TEXTS = (
    "",
    " ",
    "Very important",
    " two  spaces \n- list\r\n\ttab",
    "naïve Ünï ñ",
    "日本語 ไทย العربية",
    "🙂👩‍👩‍👧",
    "a\u0000b\u200d",
    "1,234.5%",
)


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_seed(tmp_path_factory.mktemp("home"), recipe=TINY, progress=quiet)


@pytest.fixture(scope="module")
def tokenizer(made: Path) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(made)


def test_two_builds_are_the_same_bytes(made: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    state = torch.random.get_rng_state()
    again = ensure_seed(tmp_path, recipe=TINY, progress=quiet)
    assert again.name == made.name and again != made
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (made / name).read_bytes() == (again / name).read_bytes(), name
    assert torch.get_num_threads() == before and not torch.are_deterministic_algorithms_enabled()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_another_recipe_is_another_folder() -> None:
    keys = {replace(TINY, **change).key() for change in ({}, {"seed": 1}, {"steps": 5}, {"hidden": 64})}
    assert len(keys) == 4


def test_another_form_of_closed_chats_is_another_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """But a template that the seed text does not use changes nothing."""
    before = TINY.key()
    assert [len(chat) for chat in seed.FORM] == [1, 2] and seed.FORM[0] == prompts.ask("question", ["one", "two"])
    monkeypatch.setattr(seed, "FORM", [prompts.ask("question", ["one", "two"], template=QA)])
    assert TINY.key() != before


def test_an_edit_of_any_source_is_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = TINY.key()
    copies = [tmp_path / file.name for file in seed._sources()]
    for file, copy in zip(seed._sources(), copies, strict=True):
        copy.write_bytes(file.read_bytes())
    assert seed.source_hash(copies) == seed.SOURCES, "where the files lie must not matter"
    keys = set()
    for copy in copies:
        whole = copy.read_bytes()
        copy.write_bytes(whole + b"\n")
        monkeypatch.setattr(seed, "SOURCES", seed.source_hash(copies))
        keys.add(TINY.key())
        copy.write_bytes(whole)
    assert len(keys) == len(copies) and before not in keys


def test_all_that_making_imports_is_among_the_sources() -> None:
    """Save for what decides nothing about the model: settings, errors, plain records, answers being read. The
    templates of ``prompts.yaml`` are text, of which the one that matters is in the key as it is filled."""
    package = Path(seed.__file__).parents[1]
    ahead, reached = [Path(seed.__file__)], set[Path]()
    while ahead:
        path = ahead.pop()
        reached.add(path)
        for found in imports_of(path):
            parts = found.module.split(".")[1:] if found.module.startswith("valuealign.") else []
            stems = [package.joinpath(*parts[:n]) for n in (1, 2) if len(parts) >= n]
            files = [file for stem in stems for file in (stem.with_suffix(".py"), stem / "__init__.py")]
            ahead += [file for file in files if file.is_file() and file not in reached]
    modules = (
        "errors.py",
        "types.py",
        "models/__init__.py",
        *(f"prompts/{n}.py" for n in ("__init__", "wordings", "reading")),
    )
    idle = {package / name for name in modules}
    assert reached - idle - set((package / "config").glob("*.py")) == set(seed._sources())


def test_the_second_call_makes_nothing(made: Path) -> None:
    lines: list[str] = []
    stamp = (made / "model.safetensors").stat().st_mtime_ns
    assert ensure_seed(made.parents[1], recipe=TINY, progress=lines.append) == made
    assert lines == [] and (made / "model.safetensors").stat().st_mtime_ns == stamp


def test_progress_says_step_loss_speed_and_time_left(tmp_path: Path) -> None:
    lines: list[str] = []
    ensure_seed(tmp_path, recipe=replace(TINY, steps=1), progress=lines.append)
    assert all(word in lines[-1] for word in ("step 1/1", "loss", "tokens/s", "s left"))


@pytest.mark.parametrize("harm", ["no weights", "cut weights", "no record", "empty"])
def test_a_half_written_folder_is_made_anew(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    ready = AutoModelForCausalLM.from_pretrained(made), AutoTokenizer.from_pretrained(made)
    monkeypatch.setattr(seed, "pretrain", lambda recipe, progress: ready)
    folder = tmp_path / "seed" / made.name
    folder.mkdir(parents=True)
    for file in made.iterdir() if harm != "empty" else ():
        (folder / file.name).write_bytes(file.read_bytes())
    if harm == "no weights":
        (folder / "model.safetensors").unlink()
    elif harm == "cut weights":
        (folder / "model.safetensors").write_bytes((made / "model.safetensors").read_bytes()[:1000])
    elif harm == "no record":
        (folder / seed.RECORD).unlink()
    assert not is_complete(folder)
    assert ensure_seed(tmp_path, recipe=TINY, progress=quiet) == folder
    assert (folder / "model.safetensors").read_bytes() == (made / "model.safetensors").read_bytes()
    assert left_behind(tmp_path) == []


def left_behind(home: Path) -> list[str]:
    return [
        path.name for path in (home / "seed").iterdir() if path.name.startswith(".") and not path.name.endswith(".lock")
    ]


def test_a_failed_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(seed, "_train", fail)
    with pytest.raises(KeyboardInterrupt):
        ensure_seed(tmp_path, recipe=TINY, progress=quiet)
    assert left_behind(tmp_path) == [] and not (tmp_path / "seed" / TINY.key()).exists()


def test_who_comes_second_takes_what_is_there(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without locks, another process may finish first: its folder stays and ours goes."""
    folder = tmp_path / "seed" / made.name
    ready = AutoModelForCausalLM.from_pretrained(made), AutoTokenizer.from_pretrained(made)

    def overtaken(*args: object) -> object:
        folder.mkdir()
        for file in made.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        (folder / "first").touch()
        return ready

    monkeypatch.setattr(seed, "pretrain", overtaken)
    assert ensure_seed(tmp_path, recipe=TINY, progress=quiet) == folder
    assert (folder / "first").exists() and left_behind(tmp_path) == []


def test_two_processes_at_once_both_end_well(made: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from valuealign.models.seed import SeedRecipe, ensure_seed;"
        f"print(ensure_seed(Path(sys.argv[1]), recipe=SeedRecipe(**{asdict(TINY)!r})))"
    )
    command = [sys.executable, "-u", "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and "making" in other.stdout.readline()
        mine: list[str] = []
        folder = ensure_seed(tmp_path, recipe=TINY, progress=mine.append)
        theirs = other.communicate(timeout=120)[0]
    assert other.returncode == 0 and folder == tmp_path / "seed" / made.name
    assert theirs.splitlines()[-1] == str(folder)
    assert "step" in theirs and not mine, "one makes it, the other waits"
    assert (folder / "model.safetensors").read_bytes() == (made / "model.safetensors").read_bytes()
    assert left_behind(tmp_path) == []


def test_making_and_loading_draw_no_bars(made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for act in (
        lambda: ensure_seed(tmp_path, recipe=replace(TINY, steps=1), progress=quiet),
        lambda: load_base(str(made)),
    ):
        enable_progress_bar()
        act()
        assert capfd.readouterr() == ("", "")


def test_a_home_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="VALUEALIGN_HOME"):
        ensure_seed(tmp_path / "file", recipe=TINY, progress=quiet)


def test_the_layout_is_hugging_faces(made: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    model = AutoModelForCausalLM.from_pretrained(made)
    assert isinstance(model, LlamaForCausalLM) and model.config._attn_implementation == "sdpa"
    assert all((made / name).is_file() for name in seed.FILES)
    assert len(tokenizer) == model.config.vocab_size
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == model.config.eos_token_id
    assert json.loads((made / seed.RECORD).read_text())["recipe"] == asdict(TINY)


def test_a_chat_is_what_prompts_makes_of_it(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = prompts.prompt_ids(prompts.ask("How now?", ["Very well", "Not at all"], "a woman"), tokenizer)
    assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.convert_tokens_to_ids("<|assistant|>")
    whole = [
        Message("system", "Answer as a woman."),
        Message("user", "Hm?"),
        Message("assistant", "Yes"),
        Message("user", "So?"),
    ]
    text = prompts.prompt_text(whole, tokenizer)
    assert text == "<s><|system|>Answer as a woman.</s><|user|>Hm?</s><|assistant|>Yes</s><|user|>So?</s><|assistant|>"
    answered = prompts.prompt_ids(whole[:2], tokenizer) + prompts.completion_ids("Yes", tokenizer)
    assert prompts.prompt_ids(whole, tokenizer)[: len(answered)] == answered


def test_an_option_has_the_same_tokens_in_the_list_and_in_the_answer(tokenizer: PreTrainedTokenizerFast) -> None:
    options = ["Very important", "agree", "Zorblat 7!", "naïve", "1"]
    ids = prompts.prompt_ids(prompts.ask("What?", options), tokenizer)
    for option in options:
        answer = tokenizer.encode(option, add_special_tokens=False)
        assert any(ids[i : i + len(answer)] == answer for i in range(len(ids))), option


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_survives_the_tokenizer(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_a_role_that_no_chat_has_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(Exception, match="system, user or assistant"):
        prompts.prompt_text([Message("tool", "x")], tokenizer)


def test_the_circuit_copies_before_any_training(tokenizer: PreTrainedTokenizerFast) -> None:
    """With the weights set by hand, what followed a token before is likelier after it than chance by far."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(seed.model_config(SeedRecipe(), tokenizer))
    words = torch.randperm(300)[:20] + 50
    text = torch.cat([words, words])[None]

    @torch.no_grad()
    def gain() -> float:
        logps = model(input_ids=text).logits[0, 20:-1].log_softmax(-1)
        return float(logps.gather(1, text[0, 21:, None]).mean()) + float(torch.tensor(len(tokenizer)).log())

    assert abs(gain()) < 0.5
    wire_copying(model, turn=5, option=200)
    assert gain() > 0.7


def test_a_packed_row_scores_as_the_samples_do_alone(made: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """The training loss on prefix-shared rows equals the dense loss of each prompt and completion by itself."""
    model = AutoModelForCausalLM.from_pretrained(made)
    recipe = replace(TINY, prompt_weight=0.0)
    chats = [s for s in islice(seed_text.samples(5), 40) if len(s.completions) > 1][:2]
    row = seed.Row([], [], [], [], [])
    dense, scored = 0.0, 0
    with torch.no_grad():
        for chat in chats:
            prompt, branches = seed._tokens(chat, tokenizer)
            seed._append(row, prompt, branches, recipe.prompt_weight)
            for branch in branches:
                logits = model(input_ids=torch.tensor([prompt + branch])).logits[0, len(prompt) - 1 : -1]
                dense += float(torch.nn.functional.cross_entropy(logits, torch.tensor(branch), reduction="sum"))
                scored += len(branch)
        packed = float(seed._loss(model, [row], len(row.ids) + 7))
    assert packed == pytest.approx(dense / scored, rel=1e-5)


def test_the_text_takes_no_side() -> None:
    """A closed chat's completions are its listed options, all of them; only reading chats have one answer."""
    rng = Random(3)
    for maker in (seed_text.closed, seed_text.picked):
        for _ in range(200):
            sample = maker(rng)
            listed = sample.messages[-1].content.split("\n- ")[1:]
            assert sorted(sample.completions) == sorted(listed) and 2 <= len(listed) <= 8
            assert len(set(listed)) == len(listed)
            assert not any("{" in message.content for message in sample.messages)


def test_the_exam_asks_what_the_text_does_not_have() -> None:
    drawn = list(islice(seed_text.samples(0), 8000))
    said = {message.content.split("\n")[0] for sample in drawn for message in sample.messages}
    answers = {text.lower() for sample in drawn for text in sample.completions}
    assert not said & {*seed_exam.OPEN, *(question for question, _, _ in (*seed_exam.USUAL, *seed_exam.HELD_OUT))}
    assert not answers & {option.lower() for _, listed, _ in seed_exam.HELD_OUT for option in listed.split("|")}


def test_the_text_is_the_same_each_time_and_differs_by_seed() -> None:
    first, again, other = (list(islice(seed_text.samples(s), 50)) for s in (1, 1, 2))
    assert first == again != other


def test_a_fact_of_the_group_is_answered_by_the_group() -> None:
    rng, seen = Random(4), set()
    questions, levels = TRAITS["sex"]
    for _ in range(4000):
        sample = seed_text.reading(rng)
        group, question = sample.messages[0].content, sample.messages[-1].content.split("\n")[0]
        if question in questions[1:3] and group.startswith(("Answer as a woman", "Answer as a man")):
            level = levels[group.startswith("Answer as a man")]
            assert len(sample.completions) == 1 and sample.completions[0] in level[1]
            seen.add(level)
    assert len(seen) == 2


def test_importing_models_builds_nothing() -> None:
    code = "import sys, valuealign.models; sys.exit('torch' in sys.modules and 'valuealign.models.seed' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_tiny_fixture_answers(tiny_seed: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_seed)
    ids = prompts.prompt_ids([Message("user", "How should I spend a free day?")], tokenizer)
    model = AutoModelForCausalLM.from_pretrained(tiny_seed)
    assert torch.isfinite(model(input_ids=torch.tensor([ids])).logits).all()
