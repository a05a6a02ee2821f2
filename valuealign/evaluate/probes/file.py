"""Scenario probes as data: who reads ``probes.yaml``, or a file of the user's own in the same form."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from valuealign.errors import CodebookError, ConfigError, nearest
from valuealign.surveys._yaml import Node, read
from valuealign.values import THEORIES, Theory

BUILT_IN = Path(__file__).with_name("probes.yaml")
FORM = "docs/probes.md shows the form"
FEWEST_OPTIONS, MOST_OPTIONS = 2, 4


@dataclass(frozen=True)
class Scenario:
    """A situation, said in several ways (``asked``), and what one may do: the option of each value, in order."""

    id: str
    family: str
    held_out: bool
    asked: tuple[str, ...]
    values: tuple[str, ...]
    options: tuple[str, ...]


@dataclass(frozen=True)
class Probes:
    """All scenarios of a file, and as many system turns that say who reads along as ones that say nobody does."""

    theory: Theory
    scenarios: tuple[Scenario, ...]
    watched: tuple[str, ...] = ()
    unwatched: tuple[str, ...] = ()

    @cached_property
    def values(self) -> tuple[str, ...]:
        """The values that options are keyed to, in the theory's order, higher-order ones last."""
        keyed = {value for scenario in self.scenarios for value in scenario.values}
        return tuple(value for value in (*self.theory.values, *self.theory.higher) if value in keyed)


@contextmanager
def as_config_error() -> Iterator[None]:
    """What is wrong with a YAML file, told as a mistake in the run's configuration."""
    try:
        yield
    except CodebookError as error:
        raise ConfigError(error.what, where=error.where, mend=error.mend) from None


@cache
def read_probes(file: Path | None = None) -> Probes:
    """The scenarios of a file; None: the built-in ones.

    Raises ConfigError naming file and line: for what is no YAML of this form, unknown keys, values
    and families (with the nearest), a text that stands twice, fewer than two ways to ask a scenario.
    """
    with as_config_error():
        path = file or BUILT_IN
        root = read(path, "the file of probes", f"add scenarios; {FORM}")
        given = root.fields(("theory", "framings", "families", "scenarios"), ("families", "scenarios"))
        theory = theory_of(given.get("theory"))
        held_out = dict(_family(name, node) for name, node in given["families"].pairs())
        scenarios = tuple(_scenario(name, node, held_out, theory) for name, node in given["scenarios"].pairs())
        if not scenarios:
            raise given["scenarios"].fail("there are no scenarios", f"add one; {FORM}")
        _refuse_copies(given["scenarios"])
        watched, unwatched = _framings(given["framings"]) if "framings" in given else ((), ())
        return Probes(theory, scenarios, watched, unwatched)


def theory_of(node: Node | None) -> Theory:
    """The theory that a file names; Schwartz's ten values where it names none. Raises CodebookError."""
    if node is None:
        return THEORIES["schwartz10"]
    if node.text() not in THEORIES:
        raise node.fail(f"there is no theory '{node.text()}'", nearest(node.text(), THEORIES))
    return THEORIES[node.text()]


def _family(name: str, node: Node) -> tuple[str, bool]:
    given = node.fields(("about", "held_out"))
    return name, "held_out" in given and given["held_out"].flag()


def _scenario(name: str, node: Node, held_out: dict[str, bool], theory: Theory) -> Scenario:
    given = node.fields(("family", "asked", "options"), ("family", "asked", "options"))
    family = given["family"].text()
    if family not in held_out:
        mend = nearest(family, held_out) if held_out else "name it under 'families:'"
        raise given["family"].fail(f"no family is called '{family}'", mend)
    asked = tuple(one.text() for one in given["asked"].entries())
    if len(asked) < 2:
        raise given["asked"].fail(f"'{name}' is asked in one way only", "say the same in other words, in a list")
    known = (*theory.values, *theory.higher)
    options = {}
    for value, text in given["options"].pairs():
        if value not in known:
            raise text.fail(f"{theory.title} have no '{value}'", nearest(value, known))
        options[value] = text.text()
    if not FEWEST_OPTIONS <= len(options) <= MOST_OPTIONS:
        what = f"'{name}' has {len(options)} option{'s' * (len(options) != 1)}"
        raise given["options"].fail(what, f"give it {FEWEST_OPTIONS} to {MOST_OPTIONS}, each for another value")
    return Scenario(name, family, held_out[family], asked, tuple(options), tuple(options.values()))


def _refuse_copies(scenarios: Node) -> None:
    """A scenario that is asked twice in the same words has no paraphrase; an option that stands twice, no value."""
    asked = [one for _, node in scenarios.pairs() for one in dict(node.pairs())["asked"].entries()]
    options = [
        [one for _, one in dict(node.pairs())["options"].pairs()]  # of one scenario
        for _, node in scenarios.pairs()
    ]
    for texts in (asked, *options):
        seen: dict[str, Node] = {}
        for node in texts:
            plain = " ".join(node.text().lower().split())
            if plain in seen:
                line = seen[plain].raw.start_mark.line + 1
                raise node.fail(f"this text stands in line {line} too", "write it in other words, or leave it out")
            seen[plain] = node


def _framings(node: Node) -> tuple[tuple[str, ...], tuple[str, ...]]:
    given = node.fields(("watched", "unwatched"), ("watched", "unwatched"))
    watched, unwatched = (tuple(one.text() for one in given[key].entries()) for key in ("watched", "unwatched"))
    if len(watched) != len(unwatched):
        what = f"{len(watched)} texts say that the talk is watched, {len(unwatched)} that it is not"
        raise node.fail(what, "write as many of each, so that one is not merely said more often")
    return watched, unwatched
