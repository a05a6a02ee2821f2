"""Prompts come from data: today's form byte for byte, every built-in one usable, broken ones named by line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny import make_tiny

from valuealign import config as configuration
from valuealign.config import PromptsConfig, RunConfig
from valuealign.errors import ConfigError
from valuealign.models.load import load_base
from valuealign.prompts import (
    BUILT_IN,
    DEFAULT,
    ask,
    completion_ids,
    evaluate_templates,
    prompt_ids,
    render,
    survey_messages,
    train_templates,
    wordings,
)
from valuealign.types import EVERYONE, Cell, Group, Item, Message, Option

WOMEN = Group((("sex", "f"),), "a woman aged 25 to 34")
ITEM = Item("q", "How {important} is {options} to you?", (Option(0, "{group}"), Option(1, "Not at all")))
GOOD = """
questions:
  mine:
    user: "{who}{question} ({options})"
    who: "{group} says: "
    option: "{option}"
    between: "/"
"""


def test_the_default_is_the_form_of_always() -> None:
    """What the seed model is pretrained on, and what versions of before were trained on."""
    asked = Message("user", "How {important} is {options} to you?\n- {group}\n- Not at all")
    assert survey_messages(ITEM, WOMEN) == (Message("system", "Answer as a woman aged 25 to 34."), asked)
    assert survey_messages(ITEM, EVERYONE) == (asked,)
    assert ask(" a ", ["b\n", ""], "c") == (Message("system", "Answer as c."), Message("user", " a \n- b\n\n- "))
    assert train_templates(PromptsConfig()) == evaluate_templates(PromptsConfig()) == (wordings().questions[DEFAULT],)


@pytest.mark.parametrize("name", wordings().questions)
def test_a_template_tells_question_options_and_group(name: str) -> None:
    """Each once, as they are (braces in a question are no slots), and for everyone no trace of a group."""
    template = wordings().questions[name]
    said = "\n".join(turn.content for turn in survey_messages(ITEM, WOMEN, template))
    for part in (ITEM.text, "{group}", "Not at all", WOMEN.text):
        assert said.count(part) == 1, (name, part)
    assert said.index("{group}") < said.index("Not at all")
    whole = survey_messages(ITEM, EVERYONE, template)
    assert whole[-1].role == "user" and all(turn.content.strip() == turn.content for turn in whole)
    without = "\n".join(turn.content for turn in whole)
    assert WOMEN.text not in without and ITEM.text in without
    with_context = survey_messages(ITEM, WOMEN, template, context="Before: x\n")
    assert with_context[-1].content == "Before: x\n" + survey_messages(ITEM, WOMEN, template)[-1].content


def test_templates_differ_from_each_other() -> None:
    templates = wordings().questions.values()
    assert len({survey_messages(ITEM, group, t) for t in templates for group in (WOMEN, EVERYONE)}) == 2 * len(
        templates
    )


@pytest.mark.parametrize("name", wordings().statements)
def test_a_statement_tells_all_it_was_given(name: str) -> None:
    said = wordings().statements[name].document("Tea?", [("Yes", 63), ("No", 37)], WOMEN.text)
    assert all(part in said for part in ("Tea?", "Yes", "63", "No", "37", WOMEN.text))
    assert said.index("63") < said.index("37")
    assert "woman" not in wordings().statements[name].document("Tea?", [("Yes", 63), ("No", 37)])


def test_context_lines() -> None:
    context = wordings().context
    assert len(context.degrees) == 5
    assert context.valued("power", 0) != context.valued("power", 4) and "power" in context.valued("power", 0)
    line = context.tending(["low", "mid", "top"], "mid")
    assert all(word in line for word in ("low", "mid", "top")) and line.endswith("\n")
    assert context.answered("Tea?", "Yes") == "Asked before: Tea? Answer: Yes\n"


def test_a_run_names_its_templates(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(GOOD)
    run = configuration.load(None, ["prompts.train=[qa, mine]", "prompts.evaluate=card", f"prompts.file={file}"])
    assert [t.name for t in train_templates(run.prompts)] == ["qa", "mine"]
    assert [t.name for t in evaluate_templates(run.prompts)] == ["card"]
    mine = train_templates(run.prompts)[1]
    assert ask("Tea?", ["yes", "no"], "she", mine) == (Message("user", "she says: Tea? (yes/no)"),)
    assert ask("Tea?", ["yes", "no"], "", mine) == (Message("user", "Tea? (yes/no)"),)
    assert [t.name for t in evaluate_templates(PromptsConfig(train=("qa", "chat")))] == ["qa"]
    assert configuration.load(None, [f"prompts.file={file.name}"]).prompts.file == Path(file.name).absolute()


@pytest.mark.parametrize(
    ("prompts", "where", "says"),
    [
        ({"train": ("caht",)}, "prompts.train", "did you mean 'chat'?"),
        ({"evaluate": ("chat", "inteview")}, "prompts.evaluate", "did you mean 'interview'?"),
        ({"train": ("qa", "qa")}, "prompts.train", "once"),
    ],
)
def test_an_unknown_template_is_refused(prompts: dict[str, tuple[str, ...]], where: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        train_templates(PromptsConfig(**prompts))
        evaluate_templates(PromptsConfig(**prompts))
    assert error.value.where == where and says in error.value.mend


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("{question} ", "", 4, "no place for {question}"),
        ("({options})", "", 4, "no place for {options}"),
        ("{who}", "", 4, "no place for {who}"),
        ("{group} says", "They say", 4, "no place for {group}"),
        ('"{option}"', '"x"', 4, "no place for {option}"),
        ("{question}", "{qestion}", 4, "nothing fills the slot {qestion}"),
        ("between:", "betwen:", 7, "unknown key 'betwen'"),
        ("    user:", "    between: 'x'\n    user:", 8, "stands here twice"),
        ('    who: "{group} says: "\n', "", 4, "'mine' lacks 'who'"),
        ("  mine:", "  chat:", 4, "built-in name"),
        ("questions:", "qestions:", 2, "unknown key 'qestions'"),
        ('"{option}"', "[a]", 6, "a text is wanted"),
        ("  mine:", "  mine: {", 0, "not valid YAML"),
    ],
)
def test_a_broken_template_is_named_by_file_and_line(tmp_path: Path, old: str, new: str, line: int, says: str) -> None:
    file = tmp_path / "own.yaml"
    assert GOOD.count(old) == 1
    file.write_text(GOOD.replace(old, new))
    with pytest.raises(ConfigError) as error:
        wordings(file)
    assert says in error.value.what and error.value.mend
    assert error.value.where.startswith(str(file)) and (not line or error.value.where == f"{file}, line {line}")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot read"):
        wordings(tmp_path / "none.yaml")
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(ConfigError, match="holds no templates"):
        wordings(tmp_path / "empty.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"\xff\xfe\x00x")
    with pytest.raises(ConfigError, match="not valid YAML"):
        wordings(tmp_path / "latin.yaml")
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(ConfigError, match="line 1: 'name: value'"):
        wordings(tmp_path / "list.yaml")


def test_no_turns_are_the_start_of_a_plain_text(tmp_path: Path) -> None:
    tokenizer = load_base(str(make_tiny(tmp_path)), progress=lambda _: None).tokenizer
    assert prompt_ids((), tokenizer) == [tokenizer.bos_token_id]
    tokenizer.bos_token = None  # some models have none: their texts are parted by EOS
    assert prompt_ids((), tokenizer) == [tokenizer.eos_token_id]
    assert completion_ids("a", tokenizer)[-1] == tokenizer.eos_token_id


def test_a_text_is_tokenised_once_and_a_changed_template_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Trials of a sweep and sets of a run share token ids; masses stay each cell's own."""
    tokenizer = load_base(str(make_tiny(tmp_path / "tiny"))).tokenizer
    one = Cell((Message("user", "Is it?"),), ("yes", "no"), (1.0, 3.0), (0.0, 0.0), closed=True)
    other = replace(one, desirable=(2.0, 2.0), completions=("no", "yes"))
    first = render(one, tokenizer)
    turned = render(other, tokenizer)
    assert turned.cell is other and turned.prompt_ids == first.prompt_ids
    assert turned.completion_ids == first.completion_ids[::-1]
    assert first.prompt_ids == tuple(prompt_ids(one.prompt, tokenizer))
    with monkeypatch.context() as broken:
        broken.setattr(type(tokenizer), "encode", lambda *_, **__: pytest.fail("tokenised again"))
        assert render(one, tokenizer).completion_ids == first.completion_ids
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}!{% endfor %}"
    assert render(one, tokenizer).prompt_ids != first.prompt_ids


def test_the_wordings_are_package_data() -> None:
    assert BUILT_IN.name == "prompts.yaml" and BUILT_IN.is_file()
    assert RunConfig().prompts.train == ("chat",)
