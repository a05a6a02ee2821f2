"""How a closed question is put to somebody, and what may stand before it: wordings, which are data.

The built-in ones are in ``prompts.yaml``; a run may add a file of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from valuealign.config import PromptsConfig
from valuealign.errors import ConfigError, nearest
from valuealign.types import Group, Item, Message

BUILT_IN = Path(__file__).with_name("prompts.yaml")
DEFAULT = "chat"
SLOT = re.compile(r"\{(\w+)\}")
# The texts of a template and a statement, each with the slots that it may hold.
QUESTION_TEXTS = {
    "system": ("question", "options", "who"),
    "user": ("question", "options", "who"),
    "who": ("group",),
    "option": ("option", "number"),
    "between": (),
}
STATEMENT_TEXTS = {
    "text": ("question", "answers", "who"),
    "who": ("group",),
    "answer": ("count", "option"),
    "between": (),
}
CONTEXT_TEXTS = {
    "answer": ("question", "answer"),
    "value": ("value", "degree"),
    "battery": ("first", "last", "answer"),
}
OPTIONAL_SLOTS = ("number",)


@dataclass(frozen=True)
class Template:
    """A way to put a closed question to somebody; ``prompts.yaml`` says what the texts and their slots are."""

    name: str
    user: str
    who: str
    system: str = ""
    option: str = "- {option}"
    between: str = "\n"

    def messages(
        self, question: str, options: Sequence[str], group: str = "", *, context: str = ""
    ) -> tuple[Message, ...]:
        """The question as a chat. ``group`` is a phrase ("a woman aged 25 to 34"; empty: everyone);
        ``context`` goes before the user's turn."""
        lines = (_fill(self.option, option=text, number=str(n)) for n, text in enumerate(options, start=1))
        slots = {"question": question, "options": self.between.join(lines), "who": _named(self.who, group)}
        turns = (
            Message("system", _fill(self.system, **slots)),
            Message("user", context + _fill(self.user, **slots)),
        )
        return tuple(turn for turn in turns if turn.content)


@dataclass(frozen=True)
class Statement:
    """A way to say in a document what 100 people answered."""

    name: str
    text: str
    who: str
    answer: str
    between: str = ", "

    def document(self, question: str, counts: Sequence[tuple[str, int]], group: str = "") -> str:
        """The statement that of 100 people of ``group`` so many gave each answer: ``counts`` of (option, people)."""
        answers = (_fill(self.answer, option=option, count=str(count)) for option, count in counts)
        return _fill(self.text, question=question, answers=self.between.join(answers), who=_named(self.who, group))


@dataclass(frozen=True)
class Context:
    """What a question may be preceded by; see ``prompts.yaml``."""

    answer: str
    value: str
    battery: str
    degrees: tuple[str, ...]

    def answered(self, question: str, answer: str) -> str:
        """An answer given before, as a line."""
        return _fill(self.answer, question=question, answer=answer)

    def valued(self, value: str, place: int) -> str:
        """How important a value is, as a line; ``place`` counts the degrees from the lowest."""
        return _fill(self.value, value=value, degree=self.degrees[place])

    def tending(self, options: Sequence[str], answer: str) -> str:
        """What is answered on average to items with these options, as a line."""
        return _fill(self.battery, first=options[0], last=options[-1], answer=answer)


@dataclass(frozen=True)
class Wordings:
    """All that a file of wordings holds, by name."""

    questions: Mapping[str, Template]
    statements: Mapping[str, Statement]
    context: Context


def survey_messages(
    item: Item, group: Group, template: Template | None = None, *, context: str = ""
) -> tuple[Message, ...]:
    """The chat that asks ``item`` of ``group``; no group is named for everyone."""
    return ask(item.text, [option.text for option in item.options], group.text, template, context=context)


def ask(
    question: str, options: Sequence[str], group: str = "", template: Template | None = None, *, context: str = ""
) -> tuple[Message, ...]:
    """A closed question as a chat, by ``template`` (None: the default one); see ``Template.messages``."""
    template = template or wordings().questions[DEFAULT]
    return template.messages(question, options, group, context=context)


def train_templates(config: PromptsConfig) -> tuple[Template, ...]:
    """The templates of training prompts; the first is the one that the service asks by.

    Raises ConfigError for an unknown name (with the nearest) and for a broken ``prompts.file``.
    """
    return _chosen(config, config.train, "prompts.train")


def evaluate_templates(config: PromptsConfig) -> tuple[Template, ...]:
    """The templates of evaluation, the first of which the headline figures are of. Raises as ``train_templates``."""
    return _chosen(config, config.evaluate or config.train[:1], "prompts.evaluate")


def _chosen(config: PromptsConfig, names: Sequence[str], where: str) -> tuple[Template, ...]:
    known = wordings(config.file).questions
    for name in names:
        if name not in known:
            raise ConfigError(f"no template is called '{name}'", where=where, mend=nearest(name, known))
        if names.count(name) > 1:
            raise ConfigError(f"'{name}' stands here twice", where=where, mend=f"write '{name}' once")
    return tuple(known[name] for name in names)


@cache
def wordings(file: Path | None = None) -> Wordings:
    """The built-in wordings, with those of a file of the user's own added.

    Raises ConfigError naming file and line: for what is no YAML of this form, a text that lacks a
    slot or has one that it cannot fill, and a name that a built-in wording has already.
    """
    own = _read(BUILT_IN) if file is None else _read(file)
    built_in = None if file is None else wordings()
    questions = _templates(own, "questions", Template, QUESTION_TEXTS, built_in.questions if built_in else {})
    statements = _templates(own, "statements", Statement, STATEMENT_TEXTS, built_in.statements if built_in else {})
    return Wordings(questions, statements, _context(own["context"]) if built_in is None else built_in.context)


def _fill(text: str, **slots: str) -> str:
    """The text with its slots filled, once: what stands in braces in a question stays as it is."""
    return SLOT.sub(lambda found: slots[found[1]], text)


def _named(who: str, group: str) -> str:
    return _fill(who, group=group) if group else ""


@dataclass(frozen=True)
class _Node:
    """A YAML value of ``path``, so that a mistake is named where it stands."""

    path: Path
    raw: yaml.Node

    def fail(self, what: str, mend: str) -> ConfigError:
        return ConfigError(what, where=f"{self.path}, line {self.raw.start_mark.line + 1}", mend=mend)

    def pairs(self, known: Iterable[str] | None = None) -> dict[str, _Node]:
        """Keys and values of a mapping; keys that are not ``known`` or stand twice are refused."""
        if not isinstance(self.raw, yaml.MappingNode):
            raise self.fail("'name: value' lines are wanted here", "indent them below the name")
        found: dict[str, _Node] = {}
        for key, value in self.raw.value:
            name = str(key.value)
            if name in found:
                raise _Node(self.path, key).fail(f"'{name}' stands here twice", "keep one of them")
            if known is not None and name not in known:
                raise _Node(self.path, key).fail(f"unknown key '{name}'", nearest(name, known))
            found[name] = _Node(self.path, value)
        return found

    def text(self, may: Sequence[str]) -> str:
        """A text whose slots are all among ``may``."""
        if not isinstance(self.raw, yaml.ScalarNode):
            raise self.fail("a text is wanted here", "write one text, in quotes")
        text = str(self.raw.value)
        for slot in SLOT.findall(text):
            if slot not in may:
                mend = nearest(slot, may) if may else "leave it out"
                raise self.fail(f"nothing fills the slot {{{slot}}} here", mend)
        return text


def _read(path: Path) -> dict[str, _Node]:
    """The sections of a file of wordings."""
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        mend = "name an existing YAML file"
        raise ConfigError(f"cannot read the templates ({error.strerror})", where=str(path), mend=mend) from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        line = f", line {mark.line + 1}" if (mark := getattr(error, "problem_mark", None)) else ""
        mend = "save it as UTF-8; put a text that holds ':' or '{' in quotes"
        raise ConfigError("not valid YAML", where=f"{path}{line}", mend=mend) from None
    if root is None:
        raise ConfigError("the file holds no templates", where=str(path), mend="add 'questions:' (docs/training.md)")
    return _Node(path, root).pairs(("questions", "statements", "context"))


def _templates(
    sections: Mapping[str, _Node], section: str, kind: type[Any], texts: Mapping[str, tuple[str, ...]],
    built_in: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """The built-in entries of a section and the file's own, checked."""
    found = dict(built_in)
    for name, node in (sections[section].pairs() if section in sections else {}).items():
        if name in found:
            raise node.fail(f"'{name}' is a built-in name", "give it another name")
        given = {key: value.text(texts[key]) for key, value in node.pairs(texts).items()}
        found[name] = _whole(kind, name, given, texts, node)
    return found


def _whole(
    kind: type[Any], name: str, given: Mapping[str, str], texts: Mapping[str, tuple[str, ...]], node: _Node
) -> Any:
    """The entry, if it has all texts and every slot of the cell has a place."""
    needed = [field.name for field in fields(kind) if field.default is MISSING and field.name != "name"]
    for key in needed:
        if key not in given:
            raise node.fail(f"'{name}' lacks '{key}'", f"add '{key}: ...' (prompts.yaml shows how)")
    entry = kind(name, **given)
    whole = "".join(getattr(entry, key) for key in texts)
    for slot in dict.fromkeys(slot for may in texts.values() for slot in may):
        if f"{{{slot}}}" not in whole and slot not in OPTIONAL_SLOTS:
            raise node.fail(f"'{name}' has no place for {{{slot}}}", f"write {{{slot}}} where it belongs")
    return entry


def _context(node: _Node) -> Context:
    pairs = node.pairs((*CONTEXT_TEXTS, "degrees"))
    degrees = tuple(str(value.value) for value in pairs.pop("degrees").raw.value)
    return Context(**{key: value.text(CONTEXT_TEXTS[key]) for key, value in pairs.items()}, degrees=degrees)
