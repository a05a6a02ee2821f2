"""Where an answer begins and ends: as the model's own chat template has it, whatever the family."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import CHATML, CONTROL, GEMMA, byte_tokenizer, make_tiny, survey_cells
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from valuealign.config import load
from valuealign.errors import ConfigError, ModelError
from valuealign.models.chat import bind, read_arguments, write_arguments
from valuealign.models.generate import generate
from valuealign.models.load import fingerprint
from valuealign.prompts import PLAIN_TEMPLATE, ask, completion_ids, prompt_ids, prompt_text, render, turn
from valuealign.types import Message

HEADERS = (  # Llama 3's way: a header, a blank line, the text
    "{{ bos_token }}{% for m in messages %}<|start|>{{ m.role }}<|stop|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|stop|>\n\n{% endif %}"
)
BRACKETS = (  # Llama 2's way: spaces around an answer, EOS behind it, no system turns
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}"
)
FIXED = (  # a prompt that thinks, a history that does not
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
FAMILIES = {  # template: what stands before an answer, behind it, and ends it
    "chatml": (CHATML, "<think>\n\n</think>\n\n", "", "<|im_end|>"),
    "gemma": (GEMMA, "", "", "<end_of_turn>"),
    "headers": (HEADERS, "", "", "<|eot_id|>"),
    "brackets": (BRACKETS, " ", " ", "</s>"),
    "none": (None, " ", "", "</s>"),
    "plain": (PLAIN_TEMPLATE, " ", "", "</s>"),
}


def history(tokenizer: Any, messages: list[Message]) -> str:
    """A chat as the template writes it when it is over."""
    text: str = tokenizer.apply_chat_template(
        [m._asdict() for m in messages], chat_template=tokenizer.chat_template or PLAIN_TEMPLATE, tokenize=False
    )
    return text


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_and_a_completion_are_the_templates_own_text(family: str) -> None:
    template, before, behind, end = FAMILIES[family]
    tokenizer = byte_tokenizer(template)
    how = turn(tokenizer)
    assert (how.opening, how.closing, tokenizer.decode([how.end_id])) == (before, behind, end)
    question = ask("Is rain good?", ["not at all", "a bit"])
    for option in ("not at all", "a bit"):
        ids = completion_ids(option, tokenizer)
        assert ids[-1] == how.end_id and how.end_id not in ids[:-1]
        said = tokenizer.decode([*prompt_ids(question, tokenizer), *ids])
        over = history(tokenizer, [*question, Message("assistant", option)])
        if end in over:
            assert over.startswith(said)
        else:  # the plain template ends a line where EOS stands
            assert over.rstrip("\n") == said.removesuffix(end)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_group_is_named_even_without_system_turns(family: str) -> None:
    tokenizer = byte_tokenizer(FAMILIES[family][0])
    text = prompt_text(survey_cells(2)[1].prompt, tokenizer)
    assert text.count("Answer as a farmer.") == 1 and text.index("a farmer") < text.index("Is rain good?")
    assert turn(tokenizer).system == (family not in ("gemma", "brackets"))


def test_thinking_switched_off_stands_in_the_prompt() -> None:
    on = byte_tokenizer(CHATML)
    off = bind(on, {"enable_thinking": False})
    assert turn(off).opening == "" and "answers begin with" in turn(on).remark and not turn(off).remark
    for cell in survey_cells(3):
        a, b = render(cell, on), render(cell, off)
        whole = [[*r.prompt_ids, *ids] for r in (a, b) for ids in r.completion_ids]
        assert whole[:3] == whole[3:], "the same text, shared with the prompt"
        assert len(a.prompt_ids) < len(b.prompt_ids)


def test_a_template_whose_history_is_written_otherwise_is_remarked_on() -> None:
    how = turn(byte_tokenizer(FIXED))
    assert how.opening == "" and how.remark.startswith("its chat template asks with") and "<think>" in how.remark


def test_chats_that_a_template_cannot_write_are_refused() -> None:
    with pytest.raises(ModelError, match="leaves out what the user says"):
        prompt_ids(
            survey_cells(2)[1].prompt, byte_tokenizer("{% for m in messages %}{{ m.content.text }}{% endfor %}!")
        )
    strict = byte_tokenizer(
        "{% if messages[0].role != 'user' %}{{ raise_exception('user first') }}{% endif %}" + CHATML
    )
    with pytest.raises(ModelError, match="cannot write this chat: user first"):
        prompt_ids([Message("assistant", "Hello")], strict)


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """A token a character; a space is put before whatever is tokenised, as Llama 2's tokenizer does."""
    characters = [chr(c) for c in range(33, 127)]
    pieces = ["<unk>", "<s>", "</s>", "▁", *(f"<0x{b:02X}>" for b in range(256)), *characters]
    tokenizer = Tokenizer(
        models.BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=[], unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("template", [PLAIN_TEMPLATE, BRACKETS, CHATML])
def test_no_space_is_made_up_where_an_option_begins(template: str) -> None:
    """Against the whole chat tokenised at once, by a tokenizer that puts a space before what it is given."""
    tokenizer = sentencepiece_like()
    tokenizer.chat_template = template
    question = [Message("user", "Good?")]
    over = history(tokenizer, [*question, Message("assistant", "a bit")])
    whole = tokenizer.encode(over, add_special_tokens=False)
    ids = [*prompt_ids(question, tokenizer), *completion_ids("a bit", tokenizer)[:-1]]
    assert whole[: len(ids)] == ids


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_stops_where_a_turn_ends(family: str, tmp_path: Path) -> None:
    """A model made to say a completion, then more: the answer is the option, and nothing behind it."""
    template, _, _, _ = FAMILIES[family]
    tokenizer = byte_tokenizer(template)
    model = AutoModelForCausalLM.from_pretrained(make_tiny(tmp_path)).eval()
    script = iter([*completion_ids("a bit", tokenizer), *tokenizer.encode(" and more")])

    def speak(_: Any, inputs: Any, output: Any) -> Any:
        output.logits = torch.zeros_like(output.logits)
        output.logits[:, -1, next(script)] = 100.0
        return output

    model.register_forward_hook(speak)
    answer = generate(model, tokenizer, [Message("user", "Good?")], max_tokens=60, temperature=0.0)
    assert (answer.text, answer.finish) == ("a bit", "stop")
    assert answer.completion_tokens == len(completion_ids("a bit", tokenizer))


def test_arguments_reach_the_template_as_they_are() -> None:
    shown = "\n  {% if a is defined %}{{ [a, b, c, d] }}{% endif %}" + CHATML
    values: dict[str, Any] = {"a": False, "b": 3, "c": -0.5, "d": 'it\'s "so" \\ é {{ x }}\n'}
    plain = byte_tokenizer(shown)
    text = prompt_text([Message("user", "Good?")], bind(plain, values))
    assert text.startswith("\n" + str(list(values.values()))), "typed, and the template's own first line break kept"
    assert text.endswith(prompt_text([Message("user", "Good?")], plain).lstrip())
    assert plain.chat_template == shown, "the tokenizer it was made from stays as it was"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("enable_thinkin", "does not know"),
        ("remark", "does not know"),
        ("messages", "cannot be set"),
        ("add_generation_prompt", "cannot be set"),
        ("eos_token", "cannot be set"),
        ("a b", "cannot be set"),
    ],
)
def test_arguments_that_the_template_does_not_take_are_refused(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        bind(byte_tokenizer(CHATML + "{# remark #}"), {name: True})


def test_of_several_templates_the_default_is_taken() -> None:
    several = byte_tokenizer()
    several.chat_template = {"default": CHATML, "tool_use": GEMMA}
    assert turn(bind(several, {})).end_id == turn(byte_tokenizer(CHATML)).end_id
    several.chat_template = {"rag": CHATML, "tool_use": GEMMA}
    with pytest.raises(ModelError, match="is the default: rag, tool_use"):
        bind(several, {})


def test_arguments_are_kept_beside_the_weights(tmp_path: Path) -> None:
    values: dict[str, Any] = {"enable_thinking": False, "date": "1 May", "level": 2}
    write_arguments(values, tmp_path / "a")
    assert read_arguments(tmp_path / "a") == values
    write_arguments({}, tmp_path / "a")
    assert read_arguments(tmp_path / "a") == {} and not list((tmp_path / "a").iterdir())
    run = load(None, ["model.chat_template_kwargs={enable_thinking: false, level: 2, date: 1 May}"])
    assert run.model.chat_template_kwargs == values and run.model.chat_template_kwargs["enable_thinking"] is False
    for value in ("[1]", ".nan", "null"):
        with pytest.raises(ConfigError, match="chat_template_kwargs"):
            load(None, [f"model.chat_template_kwargs={{enable_thinking: {value}}}"])


def test_another_template_is_another_model(tmp_path: Path) -> None:
    folder = make_tiny(tmp_path, "qwen3")
    before = fingerprint(folder)
    (folder / "chat_template.jinja").write_text(CHATML.replace("assistant", "helper"))
    assert fingerprint(folder) != before


@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="trl, whose copies of real templates this reads")
@pytest.mark.parametrize(
    ("name", "end", "arguments"),
    [
        ("qwen3", "<|im_end|>", {}),
        ("qwen3", "<|im_end|>", {"enable_thinking": False}),
        ("qwen2_5", "<|im_end|>", {}),
        ("llama3", "<|eot_id|>", {}),
        ("llama3_2", "<|eot_id|>", {"date_string": "1 May 2026"}),
        ("gemma", "<end_of_turn>", {}),
        ("gemma3", "<end_of_turn>", {}),
        ("phi3", "<|end|>", {}),
    ],
)
def test_real_templates(name: str, end: str, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.find_spec("trl")
    assert spec is not None and spec.origin is not None
    source = (Path(spec.origin).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
    monkeypatch.setattr("tiny.CONTROL", (*CONTROL, *(set(re.findall(r"<\|\w+\|>", source)) - set(CONTROL))))
    tokenizer = bind(byte_tokenizer(source), arguments)
    question = [Message("user", "Is rain good?")]
    said = tokenizer.decode([*prompt_ids(question, tokenizer), *completion_ids("a bit", tokenizer)])
    assert said.endswith("a bit" + end)
    assert history(tokenizer, [*question, Message("assistant", "a bit")]).startswith(said)
