"""Ways to read answers: a model that is known must be read as what it is, in each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from known_public import World, the_world

from valuealign import config as configuration
from valuealign.errors import ConfigError
from valuealign.evaluate import (
    READOUTS,
    Questions,
    Readout,
    Row,
    build_exam,
    cell_sets,
    exam_of,
    hear,
    judge_as_read,
    readouts,
)
from valuealign.evaluate.readouts import DECLINING, SAMPLES, read_out, stated
from valuealign.prompts import wordings
from valuealign.surveys.table import Survey
from valuealign.types import EVERYONE, Cell, Message

CHAT = wordings().questions["chat"]


@pytest.fixture(scope="module")
def world() -> World:
    return the_world()


class Model:
    """Answers a question with the public's shares for its group, ``first`` more on what is listed first."""

    def __init__(self, world: World, *, first: float = 0.0, mass: float = 0.9, silent: float = 0.0) -> None:
        self.world, self.first, self.mass, self.silent = world, first, mass, silent

    def shares(self, cell: Cell) -> np.ndarray:
        item = cell.source.removeprefix("survey:")
        shares = self.world.population(item, cell.group)
        if self.first:
            listed = [line.removeprefix("- ") for line in cell.prompt[-1].content.splitlines()[1:]]
            texts = list(cell.completions)
            tilt = np.array([self.first if text == listed[0] else 0.0 for text in texts])
            shares = shares * (1 - self.first) + tilt
        return shares

    def score(self, version: str | None, cells: Sequence[Cell]) -> list[np.ndarray]:
        found = []
        for cell in cells:
            if cell.completions[-1] == DECLINING[-1]:
                shares = (1 - self.silent) * self.world.population(cell.source.removeprefix("survey:"), cell.group)
                shares = np.concatenate([shares, [self.silent / 2] * 2])
            else:
                shares = self.shares(cell)
            found.append(np.log(self.mass * shares))
        return found


def judged(world: World, name: str, model: Model) -> tuple[Readout, dict[str, list[np.ndarray | None]], list[Row]]:
    way = READOUTS[name](world.exam, CHAT)
    scores = {way.how: {"m": model.score(None, way.asked.cells)}}
    reworded, rows = read_out([way], scores)
    return way, reworded.get(way.how, {}), rows


def test_letters_stand_for_their_options(world: World) -> None:
    way, read, _ = judged(world, "letters", Model(world))
    cell, given = way.asked.cells[0], world.exam.cells[0]
    assert cell.completions == ("A", "B", "C", "D")[: len(given.completions)]
    lines = cell.prompt[-1].content.splitlines()
    assert lines[1:] == [f"{letter}. {text}" for letter, text in zip("ABCD", given.completions, strict=False)]
    evaluation = world.exam.judge({"m": world.answers()}, reworded={way.how: read})
    same = evaluation.figure("cells", "m").value
    assert evaluation.figure("cells", "m (by letter)").value == pytest.approx(same, abs=1e-12)


def test_per_byte_divides_by_length_and_keeps_no_mass(world: World) -> None:
    way, read, _ = judged(world, "per_byte", Model(world))
    for cell, got, logp in zip(world.exam.cells, read["m"], Model(world).score(None, world.exam.cells), strict=True):
        want = np.exp(logp / [len(text) for text in cell.completions])
        assert got is not None and np.exp(got) == pytest.approx(want / want.sum())


def test_orders_average_away_what_hangs_on_the_place(world: World) -> None:
    way, read, rows = judged(world, "orders", Model(world))
    figures = {(row.metric): row.estimate for row in rows}
    assert figures["order_effect"].value == pytest.approx(0, abs=1e-12)
    assert figures["listed_first"].value == pytest.approx(0, abs=1e-12)
    for got, want in zip(read["m"], world.answers(), strict=True):
        assert got is not None and np.exp(got) == pytest.approx(0.9 * np.exp(want)), "shares and mass stay"
    tilted = Model(world, first=0.4)
    way, read, rows = judged(world, "orders", tilted)
    figures = {(row.metric): row.estimate for row in rows}
    assert figures["order_effect"].value > 0.15 and figures["listed_first"].low > 0.2
    evaluation = world.exam.judge({"m": tilted.score(None, world.exam.cells)}, reworded={way.how: read})
    assert evaluation.figure("everyone", "m (in other orders)").value < evaluation.figure("everyone", "m").value
    listed = {cell.prompt[-1].content for cell in way.asked.cells}
    assert len(listed) > 3 * len({cell.prompt[-1].content for cell in world.exam.cells})


def test_no_answer_is_kept_as_an_outcome(world: World) -> None:
    _, read, rows = judged(world, "declined", Model(world, silent=0.3))
    assert not read
    figures = {(row.metric[10:-1], row.who): row.estimate.value for row in rows}
    assert figures["everyone", "m"] == pytest.approx(0.3) and figures["everyone", "people"] == 0.0
    assert {split for split, _ in figures} == {panel.split for panel in world.exam.panels}


def test_people_who_chose_no_option_are_counted(world: World) -> None:
    book = world.survey.codebook
    silent = np.arange(len(world.survey.people)) % 5 == 0
    people = world.survey.people.with_columns(
        pl.when(pl.Series(silent)).then(pl.lit(-1, pl.Int16)).otherwise(pl.col(item.id)).alias(item.id)
        for item in book.items
    )
    survey = Survey(replace(book, outcomes=("don't know",)), people)
    exam = build_exam(survey, np.ones(len(people)), world.groups, world.splits, bootstrap=20, seed=7)
    way = READOUTS["declined"](exam, CHAT)
    _, rows = read_out([way], {way.how: {"m": Model(world, silent=0.2).score(None, way.asked.cells)}})
    (people_row,) = [row for row in rows if (row.metric, row.who) == ("no_answer(everyone)", "people")]
    assert people_row.kind == "people" and people_row.estimate.value == pytest.approx(0.2, abs=0.02)


class Writer(Model):
    """A host that writes answers: options by the public's shares, now and then something else."""

    def generate(self, version: str | None, messages: Sequence[Message], **settings: object) -> object:
        (cell,) = [c for c in self.world.exam.cells if c.prompt == tuple(messages) and c.group == EVERYONE.name]
        rng = np.random.default_rng(settings["seed"])  # type: ignore[arg-type]
        draw = rng.random()
        if draw < 0.1:
            text = "I do not know."
        elif draw < 0.15:
            text = "Bananas"
        else:
            text = rng.choice(cell.completions, p=self.shares(cell)).upper() + "."
        return type("Answer", (), {"text": text})


def test_sampled_answers_are_counted(world: World) -> None:
    way = READOUTS["sampled"](world.exam, CHAT)
    asked = [c for c, (_, group) in enumerate(world.exam.asked) if group == EVERYONE]
    assert len(way.asked.chats) == len(asked) and way.asked.samples == SAMPLES
    said: list[str] = []
    heard = hear(Writer(world), {"m": None}, {"x": way.asked}, seed=1, say=said.append)["x"]  # type: ignore[arg-type]
    assert len(heard.texts["m"]) == SAMPLES * len(asked) and "written answers" in said[0]
    reworded, rows = read_out([way], {}, {way.how: heard.texts})
    figures = {row.metric: row.estimate for row in rows}
    assert figures["declined"].value == pytest.approx(0.1, abs=0.025)
    assert figures["other"].value == pytest.approx(0.05, abs=0.025)
    read = reworded[way.how]["m"]
    assert [c for c, one in enumerate(read) if one is not None] == asked
    evaluation = world.exam.judge({"m": world.answers()}, reworded=reworded)
    who = "m (sampled)"
    # Forty answers a question are as noisy as forty people: K - 1 over 8 n ln 2.
    assert evaluation.figure("everyone", who).value == pytest.approx(
        evaluation.figure("everyone", "m").value + 2.75 / (8 * 34 * np.log(2)), rel=0.5
    )
    assert evaluation.figure("everyone", who, "raw_mass").value == pytest.approx(0.85, abs=0.03)
    assert not [row for row in evaluation.rows if row.who == who and row.split == "cells"]


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("agree: 30\nagree strongly: 50\nneither: 20", [0.3, 0.5, 0.2]),
        ("Agree strongly - 50 %, agree - 30 %, neither - 20 %", [0.3, 0.5, 0.2]),
        ("agree strongly: 50, agree: 30, neither: 15", [30 / 95, 50 / 95, 15 / 95]),
        ("agree: 0\nagree strongly: 100\nneither: 0", [0, 1, 0]),
        ("agree strongly: 50, agree: 30", None),
        ("agree: 3\nagree strongly: 5\nneither: 2", None),
        ("", None),
    ],
)
def test_shares_said_in_words(text: str, shares: list[float] | None) -> None:
    got = stated(text, ["agree", "agree strongly", "neither"])
    assert (got is None) == (shares is None) and (shares is None or got == pytest.approx(shares))


@pytest.mark.parametrize("text", ["not wrong: 60\nright: 40", "unright: 40\nwrong: 60", "right: 40\nwrongly: 60"])
def test_a_denied_or_longer_word_is_not_the_option(text: str) -> None:
    assert stated(text, ["wrong", "right"]) is None
    assert stated("wrong - 60 %\nright = 40", ["wrong", "right"]) == pytest.approx([0.6, 0.4])
    assert stated("not wrong: 60\nwrong: 40", ["wrong", "not wrong"]) == pytest.approx([0.4, 0.6])


def test_verbalised_shares_are_the_answers(world: World) -> None:
    way = READOUTS["verbalised"](world.exam, CHAT)
    asked = [item for item, group in world.exam.asked if group == EVERYONE]
    items = {item.id: item for item in world.exam.items}
    texts = []
    for n, item in enumerate(asked):
        shares = world.population(item, "everyone")
        lines = [f"{o.text}: {100 * s:.1f}" for o, s in zip(items[item].options, shares, strict=True)]
        texts.append("I cannot say." if n == 0 else "\n".join(lines))
    reworded, rows = read_out([way], {}, {way.how: {"m": texts}})
    (row,) = [row for row in rows if row.metric == "could_be_read"]
    assert row.estimate.value == pytest.approx(1 - 1 / len(asked))
    known = [one for one in reworded[way.how]["m"] if one is not None]
    assert len(known) == len(asked) - 1
    evaluation = world.exam.judge({"m": world.answers()}, reworded=reworded)
    assert evaluation.figure("everyone", "m (verbalised)").value == pytest.approx(
        evaluation.figure("everyone", "m").value, rel=0.3
    )


def test_a_run_asks_for_read_outs_by_name(world: World) -> None:
    run = configuration.load(None, ["evaluate.readouts=[letters, sampled]", "prompts.evaluate=[chat, card]"])
    exam = exam_of(run, world.survey, world.weights, world.groups, world.splits)
    ways = readouts(exam, run)
    assert [way.how for way in ways] == ["asked as card, never trained", "by letter", "sampled"]
    assert list(cell_sets(ways)) == ["asked as card, never trained", "by letter"], "what needs nothing written"
    with pytest.raises(ConfigError, match="no read-out is called 'leters'.*\n?.*letters"):
        wrong = configuration.load(None, ["evaluate.readouts=[leters]"])
        exam_of(wrong, world.survey, world.weights, world.groups, world.splits)


@pytest.mark.parametrize("name", READOUTS)
def test_every_read_out_asks_something_and_makes_something(world: World, name: str) -> None:
    way = READOUTS[name](world.exam, CHAT)
    assert isinstance(way.asked, Questions) and (way.asked.cells or way.asked.chats) and (way.read or way.sheet)
    assert all(abs(sum(cell.desirable) - 1) < 1e-9 or not cell.closed for cell in way.asked.cells), "no truth in it"
    assert read_out([way], {}) == ({}, [])


def test_shares_that_sum_to_1_by_construction_have_no_mass_on_the_options(world: World) -> None:
    ways = [READOUTS[name](world.exam, CHAT) for name in ("letters", "per_byte", "verbalised")]
    logps = {way.how: {"m": [np.log(np.full(len(c.completions), 0.2)) for c in way.asked.cells]} for way in ways[:2]}
    items = {item.id: item for item in world.exam.items}
    said = [
        "\n".join(f"{option.text}: {100 / len(items[item].options):.1f}" for option in items[item].options)
        for item, group in world.exam.asked
        if group == EVERYONE
    ]
    judged = judge_as_read(world.exam, {"m": world.answers()}, ways, logps, {"verbalised": {"m": said}})
    assert {row.who for row in judged.rows if row.metric == "raw_mass"} == {"m", "m (by letter)"}
    for who in ("m (per byte)", "m (verbalised)", "m (by letter)"):
        assert judged.figure("everyone", who).value > 0, "its distances stay"
    assert judged.row("verbalised", "m", "could_be_read").estimate.value == 1, "and so do a way's own figures"
