"""A leak is named, loudly; a split of the project's own never has one."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from valuealign.config import SplitsConfig, load
from valuealign.errors import SplitError
from valuealign.prepared import prepare
from valuealign.splits import (
    Leak,
    Splits,
    check_leaks,
    item_leaks,
    leaks,
    other_survey,
    pairs_frame,
    people_frame,
    prompt_leaks,
    read_splits,
    refuse_leaks,
    refuse_same_prompts,
    refuse_shared_people,
    split,
    without,
)
from valuealign.splits.units import content
from valuealign.surveys.codebook import Codebook, Trait
from valuealign.surveys.table import Survey
from valuealign.types import EVERYONE, Cell, Group, Item, Message, Option

PEOPLE = 120
SCALES = (("never", "seldom", "often"), ("yes", "no"), ("a lot", "a little", "not at all"))
GROUPS = (EVERYONE, *(Group((("sex", sex),), f"a {sex}") for sex in ("woman", "man", "person")))
CONFIG = SplitsConfig(items=0.3, groups=0.3, cells=0.1)


def item(name: str, text: str, scale: tuple[str, ...] = SCALES[0], family: str = "") -> Item:
    return Item(name, text, tuple(Option(k, word) for k, word in enumerate(scale)), family=family)


def survey(items: list[Item]) -> Survey:
    """120 people who answered all of it at random."""
    rng = np.random.default_rng(0)
    answers = {one.id: rng.integers(0, len(one.options), PEOPLE).astype(np.int16) for one in items}
    levels = tuple(group.traits[0][1] for group in GROUPS[1:])
    people = {"person": [f"p{n}" for n in range(PEOPLE)], "weight": np.ones(PEOPLE), "sex": [*levels] * (PEOPLE // 3)}
    traits = (Trait("sex", "sex", levels, {level: level for level in levels}),)
    return Survey(Codebook("test", "A test", tuple(items), traits), pl.DataFrame({**people, **answers}))


def divide(of: Survey, seed: int = 0) -> Splits:
    return split(of, np.ones(PEOPLE), GROUPS, CONFIG, seed=seed)


PLAIN = [item(f"q{i}", f"Do you care about thing{i} and matter{i} of place{i}?") for i in range(12)]


@given(seed=st.integers(0, 10_000))
@hypothesis_settings(max_examples=40, deadline=None)
def test_a_split_of_our_own_never_leaks(seed: int) -> None:
    """Whatever the items: batteries, near-duplicates, chains of them, families, scales turned round."""
    rng = random.Random(seed)
    words = [f"word{i}" for i in range(rng.choice((12, 30, 80)))]
    stem = " ".join(rng.sample(words, 6))
    items: list[Item] = []
    for i in range(rng.randint(12, 30)):
        text = " ".join([*(stem.split() if rng.random() < 0.5 else ()), *rng.sample(words, rng.randint(1, 5))])
        if items and rng.random() < 0.3:
            text = rng.choice(items).text + rng.choice(("", f" {rng.choice(words)}"))
        items.append(item(f"q{i}", text, rng.choice(SCALES), rng.choice(("", "", "", "kin"))))
    asked = survey(items)
    try:
        splits = divide(asked, seed)
    except SplitError:
        return  # near-duplicates count once: too few units to hold any out
    check_leaks(asked, splits, threshold=CONFIG.near_duplicates)


def test_a_near_duplicate_across_the_split_is_named() -> None:
    splits = divide(survey(PLAIN))
    held = next(i for i, _ in splits.pairs["items", "report"])
    asked = survey([*PLAIN, item("twin", next(one.text for one in PLAIN if one.id == held).upper())])
    leaky = replace(splits, train=(*splits.train, ("twin", EVERYONE)))
    with pytest.raises(SplitError, match=rf"splits.items \(report\): a leak.*'{held}' shares 100% .* 'twin'"):
        check_leaks(asked, leaky, threshold=0.9)
    check_leaks(survey(PLAIN), splits, threshold=0.9)


def test_the_threshold_of_another_configuration_finds_what_was_not_tied() -> None:
    """'really' added to 3 content words of 4: .8 overlap, which .9 does not tie and .7 does."""
    items = [item(f"q{i}", f"thing{i} matter{i} place{i} house{i}") for i in range(12)]
    items += [item(f"r{i}", f"thing{i} matter{i} place{i} house{i} really{i}") for i in range(12)]
    asked = survey(items)
    splits = divide(asked)
    check_leaks(asked, splits, threshold=0.9)
    with pytest.raises(SplitError, match=r"a leak.*'[qr]\d+' shares 80% of its words with '[qr]\d+'"):
        check_leaks(asked, splits, threshold=0.7)


def test_tables_of_splits_that_leak_are_not_read() -> None:
    asked, splits = survey(PLAIN), divide(survey(PLAIN))
    people, pairs = people_frame(asked, splits), pairs_frame(splits)
    assert read_splits(people, pairs, asked, GROUPS, CONFIG).train == splits.train
    edited = pairs.with_columns(
        pl.when(pl.col("split") == "items").then(pl.lit("train")).otherwise(pl.col(name)).alias(name)
        for name in ("split", "part")
    )
    leaky = pl.concat([pairs, edited.filter(edited["split"] != pairs["split"])])
    with pytest.raises(SplitError, match="splits.items .*: a leak"):
        read_splits(people, leaky, asked, GROUPS, CONFIG)


@pytest.mark.parametrize("name", ["items", "groups", "cells"])
def test_what_is_trained_or_seen_by_choices_leaks(name: str) -> None:
    asked, splits = survey(PLAIN), divide(survey(PLAIN))
    for part in ("select", "report"):
        pair = splits.pairs[name, part][0]
        with pytest.raises(SplitError, match=rf"splits.{name} \({part}\): a leak"):
            check_leaks(asked, replace(splits, train=(*splits.train, pair)), threshold=0.9)
    both = {**splits.pairs, (name, "report"): splits.pairs[name, "select"]}
    with pytest.raises(SplitError, match=rf"splits.{name} \(report\): a leak"):
        check_leaks(asked, replace(splits, pairs=both), threshold=0.9)


def test_a_person_in_two_parts_leaks() -> None:
    asked = survey(PLAIN)
    twice = Survey(asked.codebook, pl.concat([asked.people, asked.people]))  # two waves
    splits = split(twice, np.ones(2 * PEOPLE), GROUPS, CONFIG, seed=0)
    check_leaks(twice, splits, threshold=0.9)
    moved = splits.person_P.copy()
    moved[0] = (moved[0] + 1) % 3
    with pytest.raises(SplitError, match=r"a leak: 'p0' trains and judges \(1 such people in all\)"):
        check_leaks(twice, replace(splits, person_P=moved), threshold=0.9)
    refuse_shared_people({"a", "b"}, {"c"}, where="--on")


def test_texts_against_texts_by_hand() -> None:
    trained = {"t1": "Wealth matters greatly in my life", "t2": "Rain is likely tomorrow morning"}
    asked = {
        "same": "wealth MATTERS, greatly: my life!",
        "near": "Wealth matters in my life",  # 4 of 5 content words
        "far": "Wealth is not what matters",
        "none": "...",
        "t2": "Snow is likely tomorrow morning",
    }
    assert leaks(trained, asked, threshold=0.8) == (Leak("t1", "same", 1.0), Leak("t1", "near", 0.8))
    assert leaks(trained, asked, threshold=0.81) == (Leak("t1", "same", 1.0),)
    assert leaks(trained, {}, threshold=0.1) == leaks({}, asked, threshold=0.1) == ()
    # The nearest of several, whatever the order; copies all leak.
    more = {"far": "wealth matters my life also", "near": "wealth matters my life"}
    assert leaks(more, {"x": "wealth matters my life", "y": "my life: wealth matters"}, threshold=0.5) == (
        Leak("near", "x", 1.0),
        Leak("near", "y", 1.0),
    )


def test_a_battery_is_no_leak() -> None:
    text = "Thinking of life here over the past twelve months, how much confidence can people like you place in {}?"
    bodies = ("the press", "the courts", "the police", "trade unions", "banks", "the army", "schools")
    trained = {body: text.format(body) for body in bodies[:4]}
    asked = {body: text.format(body) for body in bodies[4:]}
    assert leaks(trained, asked, threshold=0.8) == ()
    assert [
        one.asked for one in leaks(trained, {**asked, "twin": text.format("really the courts")}, threshold=0.7)
    ] == ["twin"]


@given(seed=st.integers(0, 10_000), threshold=st.sampled_from((0.3, 0.5, 0.75, 1.0)))
@hypothesis_settings(max_examples=40, deadline=None)
def test_plain_loops_agree(seed: int, threshold: float) -> None:
    """Rare words alone, so that no text has a stem: without the battery rule the overlap alone decides."""
    rng = random.Random(seed)
    trained, asked = {}, {}
    for i in range(20):
        words = [f"a{i}x{k}" for k in range(rng.randint(1, 6))]
        trained[f"t{i}"] = " ".join(words)
        other = [word for word in words if rng.random() < 0.8] + [f"b{i}x{k}" for k in range(rng.randint(0, 2))]
        asked[f"a{i}"] = " ".join(rng.sample(other, len(other)) if rng.random() < 0.5 else other)
    found = {leak.asked: leak for leak in leaks(trained, asked, threshold=threshold, stems=False)}
    for name, text in asked.items():
        mine = set(content(text))
        overlaps = {t: len(mine & set(content(told))) / len(mine | set(content(told))) for t, told in trained.items()}
        nearest = max(overlaps, key=lambda t: overlaps[t])
        assert (name in found) == (bool(mine) and overlaps[nearest] >= threshold)
        assert name not in found or found[name] == Leak(nearest, name, overlaps[nearest])
    some = leaks(trained, asked, threshold=threshold)
    assert all(found[leak.asked] == leak for leak in some) and (threshold == 1 or len(some) <= len(found))


def test_a_thousand_against_a_thousand_with_a_long_stem() -> None:
    """Half a million pairs that share a stem's words, and ten that are the same but for one."""
    stem = " ".join(f"stem{i}" for i in range(20))
    own = [" ".join(f"word{i}x{k}" for k in range(5)) for i in range(2000)]
    trained = {f"t{i}": f"{stem} {own[i]}" for i in range(1000)}
    asked = {f"a{i}": f"{stem} {own[1000 + i]}" for i in range(990)}
    asked |= {f"twin{i}": f"{stem} {own[i]} extra{i}" for i in range(10)}
    found = leaks(trained, asked, threshold=0.9)
    assert [(leak.seen, leak.asked) for leak in found] == [(f"t{i}", f"twin{i}") for i in range(10)]
    assert all(leak.overlap == pytest.approx(25 / 26, abs=1e-6) for leak in found)


def test_another_survey_leaves_out_what_was_trained() -> None:
    trained = [one for one in PLAIN if one.id in {i for i, _ in divide(survey(PLAIN)).train}]
    again = item("again", trained[0].text.upper(), SCALES[2])  # another scale: the same question
    forced = item("forced", "Which is closer to your own view?", ("war", "peace"))
    fresh = [
        item("fresh", "Is bread better than wine?"),
        replace(forced, id="other", options=item("", "", ("tea", "salt")).options),
    ]
    found = item_leaks([*trained, forced], [again, *fresh], threshold=0.9)
    assert found == (Leak(trained[0].id, "again", 1.0),)
    unscaled = replace(again, options=item("", "", ("yes", "no")).options, ordinal=False)
    assert item_leaks(trained, [unscaled], threshold=0.9) == found, "yes and no in place of the scale"
    other = survey([again, *fresh])
    splits = other_survey(other, np.ones(PEOPLE), GROUPS, CONFIG, seed=0)
    kept = without(splits, found)
    assert {i for pairs in kept.pairs.values() for i, _ in pairs} == {"fresh", "other"}
    assert without(splits, ()).pairs == splits.pairs
    with pytest.raises(SplitError, match=r"--on: all that it asks was trained \(3 questions\)"):
        without(splits, [Leak("x", one.id, 1.0) for one in (again, *fresh)])


def ask(text: str, *before: Message, source: str = "survey:q", group: str = "everyone") -> Cell:
    return Cell((*before, Message("user", text)), ("yes",), (1.0,), (0.0,), group=group, source=source)


def test_prompts() -> None:
    woman = Message("system", "Answer as a woman.")
    held = ask("Do you care?", woman, group="sex=f")
    refuse_same_prompts([ask("Do you care?"), ask("Do you mind?", woman)], [held])
    with pytest.raises(
        SplitError, match=r"'survey:q of sex=f' shares 100% of its words with 'survey:q of gender=f'"
    ) as caught:
        refuse_same_prompts([ask("Do you care?", woman, group="gender=f")], [held])
    assert "give each a text of its own in the codebook" in caught.value.mend, "anew the splits would leak again"
    long = "Which present would please a grandmother living alone beside the harbour?"
    found = prompt_leaks(
        [ask(long), ask("What is the tallest tree?")], [ask(long.lower()), ask("How tall is a tree?")], threshold=0.9
    )
    assert found == (Leak(long, long.lower(), 1.0),)


def test_prompts_of_feedback_that_nearly_repeat_are_said_of_both_parts(tmp_path: Path) -> None:
    """Forty prompts, each put twice: a part is drawn by the letters, so that some fall apart."""
    things = ("a bridge", "the harbour", "my bicycle", "old letters", "a stray cat", "bread", "the choir", "snow")
    asks = (
        "May I sell {}",
        "Who looks after {}",
        "Should we insure {}",
        "How do I describe {}",
        "Is it rude to mock {}",
    )
    prompts = [one.format(thing) + end for thing in things for one in asks for end in ("?", " ?!")]
    file = tmp_path / "marks.jsonl"
    rows = [{"prompt": p, "completion": c, "label": c == "Yes."} for p in prompts for c in ("Yes.", "No.")]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    said: list[str] = []
    config = load(None, ["survey.people=300", "groups.crossings=0", "splits.groups=0", f"feedback.file={file}"])
    prepared = prepare(config, said.append)
    letters = {part: {c.prompt[0].content.rstrip("?! ") for c in cells} for part, cells in prepared.behaviour.items()}
    for part in ("select", "report"):
        count = len(letters[part] & letters["train"])
        name = f"warning: held-out prompts ({part}) that nearly repeat a trained one"
        assert count and prepared.facts[name].startswith(f"{count} of {len(prepared.behaviour[part])}: '")
        assert any(line.startswith(f"{name}: {count} of ") and "keep one of such prompts" in line for line in said)
    once = [row for row in rows if str(row["prompt"]).endswith("!")]
    file.write_text("\n".join(map(json.dumps, once)), encoding="utf-8")
    assert not any("nearly repeat" in fact for fact in prepare(config, lambda _: None).facts)


def test_a_message_names_a_few_and_counts_the_rest() -> None:
    refuse_leaks([], where="here")
    many = [Leak(f"t{i}", "x" * 200 if i == 0 else f"a{i}", 0.9) for i in range(12)]
    with pytest.raises(SplitError) as caught:
        refuse_leaks(many, where="here")
    assert re.search(r"'a4' shares 90% of its words with 't4' and 7 more", caught.value.what) and caught.value.mend
    assert "x" * 87 + "..." in caught.value.what and "x" * 91 not in caught.value.what
