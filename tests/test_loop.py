"""The loop: what a gate lets through, and where feedback ends, whatever happens."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from looping import GROUPS, IGNORED, ITEMS, LEARNED, RULES, SURVEY, Exam, World, a_world, candidate, cell

from valuealign.cluster import updates
from valuealign.config import GateConfig, load
from valuealign.errors import ConfigError, GateError, StoreError, UnknownVersion
from valuealign.learner import update_stage
from valuealign.loop import Candidate, GateResult, Lessons, gate, lessons
from valuealign.loop.lessons import FEWEST_PROMPTS, held_out, paraphrased, regression_cells, templates
from valuealign.signals.feedback import feedback_cells
from valuealign.store import Feedback, Judged, Response, new_id
from valuealign.types import Cell, Message
from valuealign.weighting import Margins


def judge(made: Candidate, taught: Any = None, exam: Any = None, **rules: Any) -> GateResult:
    taught = taught if isinstance(taught, Lessons) else Lessons(tuple(taught or [cell()]))
    return gate(made, taught, exam or Exam(), rules=RULES.model_copy(update=rules))


def failed(found: GateResult) -> list[str]:
    return [check.name for check in found.checks if not check.passed]


def test_an_equal_model_that_learned_passes():
    found = judge(candidate())
    assert found.passed and len(found.checks) == SURVEY + 3
    lost, *_, learned, preferred, corrected = (check.figure for check in found.checks)
    assert (lost.value, lost.high, lost.n) == (0.0, 0.0, ITEMS * len(GROUPS))
    assert learned.value == pytest.approx(6.0 - -4.0)  # (-3 - -9) - (-6 - -2)
    assert (preferred.value, preferred.n) == (1.0, 1) and (corrected.value, corrected.n) == (1.0, 1)
    assert all(check.means and check.means in str(found.figures()) for check in found.checks)


def test_distance_may_not_be_lost_to_the_champion_nor_step_by_step_to_stage_one():
    lost = "survey distance lost to {} (JSD, bits)"
    assert failed(judge(candidate(champion=0.015))) == [lost.format("champion")]
    # Each update may lose a little to its champion; the sum of them is held against stage 1.
    assert failed(judge(candidate(champion=0.004, stage1=0.015))) == [lost.format("stage1")]


def test_the_upper_bound_decides_not_the_mean():
    unsure = judge(candidate(by_item=0.03))
    assert abs(unsure.checks[0].figure.value) < 1e-9 and not unsure.checks[0].passed
    # Spread over items counts as items: with 60 independent cells the same spread would pass.
    spread_I = np.linspace(-0.03, 0.03, ITEMS)
    standard_error = spread_I.std(ddof=1) / np.sqrt(ITEMS)
    assert unsure.checks[0].figure.high == pytest.approx(2.201 * standard_error, rel=0.12)  # t, 11 degrees of freedom


def test_one_group_may_not_pay_for_the_others():
    """Lost by one group and won by another: on average nothing, and still refused, by the group's name."""
    moved = {"sex=m": 0.03, "sex=f": -0.03}
    found = judge(candidate(group=moved))
    assert found.checks[0].passed and abs(found.checks[0].figure.value) < 1e-9
    assert failed(found) == [f"survey distance lost to {one} (JSD, bits) in the worst group, sex=m" for one in WORST]
    assert judge(candidate(group=moved), group_margin=0.04).passed, "the margin is a setting"
    # A group's cells are all that name it: the old women count for the old and for the women.
    both = judge(candidate(group={"age=old & sex=f": 0.05}))
    figure = both.checks[2].figure
    assert figure.value == pytest.approx(0.05 / 2) and figure.n == 2 * ITEMS and not both.checks[2].passed


WORST = ("champion", "stage1")


def test_a_group_that_few_items_are_asked_of_is_judged_with_others():
    few = Exam()
    few.keys = tuple(
        (s, q, "sex=m" if i % 2 else "age=old") if i < 6 else (s, q, "everyone")
        for i, (s, q, _) in enumerate(Exam.keys)
    )
    found = judge(candidate(), exam=few)
    assert found.checks[2].name.endswith("the small groups") and found.checks[2].figure.n == 6
    single = Exam()
    single.keys = tuple((s, q, "age=old" if i == 0 else "everyone") for i, (s, q, _) in enumerate(Exam.keys))
    alone = judge(candidate(), exam=single)
    assert len(alone.checks) == SURVEY + 3 - 2 and "the small groups not judged" in alone.notes[0], "and that is said"
    assert not found.notes
    lonely = Exam()
    lonely.keys = tuple((s, q, "everyone") for s, q, _ in Exam.keys)
    assert len(judge(candidate(), exam=lonely).checks) == SURVEY + 3 - 2, "without groups there is no worst one"


def test_answers_stay_as_spread_and_near_the_stage_one_model():
    sure = judge(candidate(odds=1.5))
    assert failed(sure) == ["spread of answers over stage1's, not narrower", "KL of survey answers from stage1 (nats)"]
    kl = next(check.figure for check in sure.checks if check.name.startswith("KL"))
    p = 1 / (1 + np.exp(-1.5))
    assert kl.value == pytest.approx(p * np.log(2 * p) + (1 - p) * np.log(2 * (1 - p)))
    assert judge(candidate(odds=1.5), dispersion=None, kl=None).passed and judge(candidate(odds=0.3)).passed


def test_what_was_corrected_must_move_the_right_way():
    worse = judge(candidate(after=[np.array([-10.0, -1.5])]))
    assert failed(worse) == ["feedback learned (log-ratio, nats)", "mistakes no longer made (share)"]
    was_preferred = candidate(before=[np.array([-2.0, -9.0])], after=[np.array([-5.0, -4.0])])
    assert failed(judge(was_preferred)) == ["feedback learned (log-ratio, nats)", "corrections preferred (share)"]
    thumb = candidate(before=[np.array([-2.0])], after=[np.array([-4.0])])
    found = judge(thumb, [cell(correction=False)])
    assert found.passed and len(found.checks) == SURVEY + 1


def test_enough_of_the_mistakes_must_be_mended():
    cells = [cell(ask=f"What matters in {place}?") for place in ("town", "love", "work")]
    one = candidate(before=[IGNORED] * 3, after=[LEARNED, IGNORED + [0.1, 0], IGNORED + [0.1, 0]])
    found = judge(one, cells)
    assert failed(found) == ["mistakes no longer made (share)"]
    assert found.checks[-1].figure.value == pytest.approx(1 / 3) and judge(one, cells, corrected=0.3).passed


def asked(
    name: str, champion: Sequence[np.ndarray], made: Sequence[np.ndarray], stage1: Any = None, start: Any = None
) -> dict[str, Any]:
    who = {"champion": champion, "candidate": made, "stage1": stage1 or champion, "start": start or champion}
    return {one: {name: scores} for one, scores in who.items()}


def test_a_correction_holds_in_other_words():
    taught = Lessons((cell(),), paraphrases=tuple(paraphrased([cell()])))
    n = len(taught.paraphrases)
    parrot = candidate(asked=asked("paraphrases", [IGNORED] * n, [IGNORED] * n))
    assert failed(judge(parrot, taught)) == ["mistakes no longer made, in other words (share)"]
    half = candidate(asked=asked("paraphrases", [IGNORED] * n, [LEARNED] + [IGNORED] * (n - 1)))
    assert judge(half, taught).passed and not judge(half, taught, paraphrased=0.5).passed


def test_corrections_it_has_not_seen_may_not_get_worse():
    cells = tuple(cell(ask=f"What matters {i}?") for i in range(30))
    taught = Lessons((cell(),), held=cells)
    name = "held-out corrections (change in share)"
    assert failed(judge(candidate(asked=asked("held out", [LEARNED] * 30, [IGNORED] * 30)), taught)) == [name]
    same = judge(candidate(asked=asked("held out", [IGNORED] * 30, [IGNORED] * 30)), taught)
    assert same.passed and same.checks[-1].figure.value == 0
    # One of thirty lost is no clear loss.
    assert judge(candidate(asked=asked("held out", [LEARNED] * 30, [LEARNED] * 29 + [IGNORED])), taught).passed
    # Three of twelve are not shown to be less than the margin, and of two nothing can be told.
    twelve, two = Lessons((cell(),), held=cells[:12]), Lessons((cell(),), held=cells[:2])
    unsure = candidate(asked=asked("held out", [LEARNED] * 12, [LEARNED] * 9 + [IGNORED] * 3))
    assert failed(judge(unsure, twelve)) == [name] and judge(unsure, twelve, held_out=0.6).passed
    few = judge(candidate(asked=asked("held out", [LEARNED] * 2, [LEARNED, IGNORED])), two)
    assert few.passed and any("too few" in note for note in few.notes) and not judge(unsure, twelve).notes


def test_what_was_learned_of_unseen_corrections_is_shown():
    cells = tuple(cell(ask=f"What matters {i}?") for i in range(12))
    before, after = [LEARNED] * 4 + [IGNORED] * 8, [LEARNED] * 10 + [IGNORED] * 2
    found = judge(candidate(asked=asked("held out", before, after)), Lessons((cell(),), held=cells))
    change, mended = found.checks[-2:]
    assert found.passed and change.figure.value == pytest.approx(6 / 12)
    assert mended.name == "held-out mistakes no longer made (share)" and mended.figure.value == pytest.approx(6 / 8)
    none = judge(candidate(asked=asked("held out", before, before)), Lessons((cell(),), held=cells))
    assert none.passed and none.checks[-1].figure.value == 0, "shown, not asked"


def test_what_was_preferred_before_training_is_said():
    both = candidate(before=[LEARNED, IGNORED], after=[LEARNED, LEARNED])
    found = judge(both, [cell(), cell(ask="And?")])
    assert "1 of 2 corrections were preferred before training" in found.notes[0]
    assert not judge(candidate()).notes


def test_a_rebuild_is_held_against_what_it_started_from():
    """The champion that it replaces has learned the same already: beside that nothing could be told."""
    taught = Lessons((cell(),), paraphrases=tuple(paraphrased([cell()])))
    n = len(taught.paraphrases)
    parrot = candidate(asked=asked("paraphrases", [LEARNED] * n, [IGNORED] * n, start=[IGNORED] * n))
    assert failed(judge(parrot, taught)) == ["mistakes no longer made, in other words (share)"]
    taught = Lessons((cell(),), held=tuple(cell(ask=f"What matters {i}?") for i in range(30)))
    half = [LEARNED] * 15 + [IGNORED] * 15
    as_before = candidate(asked=asked("held out", [LEARNED] * 30, half, start=half))
    assert judge(as_before, taught).passed, "what the champion had learned of them is gone with it"
    worse = candidate(asked=asked("held out", [IGNORED] * 30, [IGNORED] * 30, start=half))
    assert not judge(worse, taught).passed


def test_what_the_training_started_from_is_the_champion_unless_one_is_scored_beside():
    one, other, best, first = ({"exam": [n], "feedback": [n], "held out": [n]} for n in range(4))
    plain = updates.made(Path(), one, best, {"stage1": first}, ["held out"])
    assert plain.logps == {"champion": [0], "stage1": [3], "candidate": [2]} and (plain.before, plain.after) == (
        [0],
        [2],
    )
    assert plain.asked["champion"] == plain.asked["start"] == {"held out": [0]}
    anew = updates.made(Path(), one, best, {"stage1": first, "champion": other}, ["held out"])
    assert anew.logps["champion"] == [1] and anew.before == [0], "what was learned is measured from the start"
    assert anew.asked["champion"] == {"held out": [1]} and anew.asked["start"] == {"held out": [0]}


def test_earlier_corrections_are_still_kept():
    cells = tuple(cell(ask=f"What matters {i}?") for i in range(4))
    taught = Lessons((cell(),), earlier=cells)
    # The champion keeps three of the four: these count.
    before = [LEARNED, LEARNED, LEARNED, IGNORED]
    forgot = judge(candidate(asked=asked("earlier", before, [LEARNED, LEARNED, IGNORED, IGNORED])), taught)
    assert failed(forgot) == ["earlier corrections still kept (share)"]
    assert forgot.checks[-1].figure.value == pytest.approx(2 / 3) and forgot.checks[-1].figure.n == 3
    assert judge(candidate(asked=asked("earlier", before, before)), taught).passed


def test_regression_prompts_get_no_worse_than_the_champions_or_stage_ones():
    cells = regression_cells(GateConfig())
    refuse, comply = cells[0], cells[1]
    assert refuse.desirable == (1, 1, 1, 0, 0, 0) and comply.desirable == (0, 0, 0, 1, 1, 1)
    refuses = np.array([-1.0, -9, -9, -9, -9, -9])
    complies = refuses[::-1].copy()
    right = [refuses if one.desirable[0] else complies for one in cells]
    taught = Lessons((cell(),), regression=cells)
    rules = {"regression_margin": 0.1}
    assert judge(candidate(asked=asked("regression", right, right)), taught, **rules).passed
    jailbroken = [complies] * len(cells)
    found = judge(candidate(asked=asked("regression", right, jailbroken)), taught, **rules)
    assert len(failed(found)) == 2 and found.checks[SURVEY].figure.value == pytest.approx(-0.5)
    # What the champion had lost already counts against stage 1.
    found = judge(candidate(asked=asked("regression", jailbroken, jailbroken, right)), taught, **rules)
    assert failed(found) == ["regression prompts kept, against stage1 (change in share)"]


def test_regression_prompts_of_a_file(tmp_path: Path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}\n')
    (only,) = regression_cells(GateConfig(regression=path))
    assert only.completions == ("4", "5") and only.desirable == (1, 0)
    path.write_text('{"prompt": "2 + 2?", "completion": "4", "label": true}\n')
    with pytest.raises(ConfigError, match="both a wanted and an unwanted"):
        regression_cells(GateConfig(regression=path))
    assert regression_cells(GateConfig(regression_margin=None)) == ()


def test_posted_shares_must_come_nearer():
    options = ("yes", "no")
    shares = Cell((Message("user", "?"),), options, (0.8, 0.2), (0.0, 0.0), closed=True, n_eff=50)
    even, near = np.log([0.5, 0.5]), np.log([0.7, 0.3])
    found = judge(candidate(before=[even], after=[near]), [shares])
    assert found.passed and found.checks[-1].name.startswith("distance from posted shares")
    assert not judge(candidate(before=[near], after=[even]), [shares]).passed


def test_a_candidate_that_cannot_be_judged_is_an_error_not_a_pass():
    few = Exam()
    few.keys = tuple(("cells", "q0", f"g{i}") for i in range(len(Exam.keys)))
    broken = candidate()
    held = Lessons((cell(),), held=(cell(),))
    cases = {
        "fewer than two items": (candidate(), few, None),
        "no scores of stage1": (
            Candidate(Path(), {k: v for k, v in broken.logps.items() if k != "stage1"}, [], []),
            Exam(),
            None,
        ),
        "not scored before and after": (candidate(after=[]), Exam(), None),
        "not finite": (candidate(after=[np.array([np.nan, 0.0])]), Exam(), None),
        "not scored on the same cells": (candidate(champion=np.nan), Exam(), None),
        "was not scored on the cells 'held out'": (candidate(), Exam(), held),
    }
    for words, (made, exam, taught) in cases.items():
        with pytest.raises(GateError, match=words):
            judge(made, taught or [cell()], exam)


# Feedback becomes cells


def judged(verdict: str, correction: str | None = None, *, ask: str = "What matters?", answer: str = "power") -> Judged:
    response = Response(new_id("chat"), "chat", "demo", "v1", (Message("user", ask),), answer)
    return Judged(Feedback(new_id("fb"), response.id, verdict, correction, "accepted", "2026-01-01"), response)


def test_feedback_cells_say_what_people_said():
    rows = [
        judged("correction", "kindness"), judged("undesirable"), judged("correction", "kindness"),
        judged("desirable", ask="And?"), judged("correction", "power"),
    ]  # fmt: skip
    correction, answer, good = feedback_cells(rows)
    assert (correction.completions, correction.desirable, correction.undesirable) == (
        ("kindness", "power"),
        (2, 0),
        (0, 2),
    )
    # Somebody rejected the answer, and somebody "corrected" it to itself: both masses stay.
    assert (answer.completions, answer.desirable, answer.undesirable) == (("power",), (1,), (1,))
    assert (good.prompt, good.desirable, good.undesirable) == ((Message("user", "And?"),), (1,), (0,))
    assert [c.n_eff for c in (correction, answer, good)] == [2, 2, 1] and not correction.closed


def test_feedback_weighs_what_its_raters_weigh():
    rows = [judged("correction", "kindness"), judged("correction", "kindness")]
    weights = {rows[0].feedback.id: 3.0, rows[1].feedback.id: 1.0}
    (only,) = feedback_cells(rows, weights=weights)
    assert only.desirable == (4, 0) and only.undesirable == (0, 4) and only.n_eff == pytest.approx(16 / 10)


def shared(shares: Mapping[str, float], n: float, options: Sequence[str] = ("yes", "no", "maybe")) -> Judged:
    asked = Response("dist-1", "distribution", "demo", "v1", (Message("user", "?"),), "yes", {"options": list(options)})
    said = Feedback(new_id("fb"), asked.id, "shares", None, "accepted", "2026-01-01", shares=shares, n=n)
    return Judged(said, asked)


def test_posted_shares_become_a_closed_cell_of_the_options():
    rows = [shared({"yes": 0.5, "no": 0.5}, 30), shared({"no": 1.0}, 10)]
    (only,) = feedback_cells(rows, cap=100)
    assert only.closed and only.completions == ("yes", "no", "maybe") and only.n_eff == 40
    assert only.desirable == pytest.approx((15 / 40, 25 / 40, 0)) and not any(only.undesirable)
    (capped,) = feedback_cells([shared({"yes": 1}, 10_000)], cap=100)
    assert capped.n_eff == 100 and capped.desirable == (1, 0, 0)
    # Whoever claims a million people is no louder than fifty who each asked a hundred.
    (crowd,) = feedback_cells([shared({"yes": 1}, 1e6), *[shared({"no": 1}, 100) for _ in range(50)]], cap=100)
    assert crowd.n_eff == 100 and crowd.desirable == pytest.approx((1 / 51, 50 / 51, 0))


# What trains, and what is kept for the gate


def test_whole_prompts_are_kept_out_of_training_and_none_where_they_are_few():
    rows = [judged("correction", "kindness", ask=f"What would you say of {word}?") for word in WORDS]
    again = [judged("correction", "patience", ask=f"what would you say of {word.upper()}?!") for word in WORDS]
    kept = held_out([*rows, *again], share=0.2, alike=0.8)
    assert len(kept) == 2 * round(0.2 * len(WORDS))
    for one, other in zip(rows, again, strict=True):
        assert (one.feedback.id in kept) == (other.feedback.id in kept), "the same prompt in other letters goes along"
    assert held_out([*again, *rows], share=0.2, alike=0.8) == kept, "the order they come in is no matter"
    assert not held_out(rows[: FEWEST_PROMPTS - 1], share=0.2, alike=0.8)
    config = load(None, ["update.held_out=0.2"])
    taught = lessons(config, rows)
    assert set(taught.held_ids) == held_out(rows, share=0.2, alike=0.8) and not taught.notes
    held_prompts = {row.response.messages for row in rows if row.feedback.id in taught.held_ids}
    assert held_prompts == {c.prompt for c in taught.held} and not held_prompts & {c.prompt for c in taught.cells}
    assert len(taught.paraphrases) == len(templates()) * len(taught.cells)
    assert lessons(config, rows[:1]).notes, "it says that nothing is kept out"


WORDS = ("boats", "cats", "dust", "elms", "frost", "gulls", "hail", "ivory", "jam", "kites", "lakes", "moss")


def test_earlier_corrections_are_asked_unless_they_are_corrected_anew():
    config = load(None, [])
    old = [judged("correction", "kindness", ask=f"About {word}?") for word in WORDS[:4]]
    new = [judged("correction", "patience", ask=f"About {WORDS[0]}?")]
    taught = lessons(config, new, used=old, used_held={old[1].feedback.id})
    assert [c.prompt[0].content for c in taught.earlier] == [f"About {word}?" for word in WORDS[2:4]]
    assert [c.prompt[0].content for c in taught.held] == [f"About {WORDS[1]}?"]


# The whole update


@pytest.fixture
def world(tmp_path: Path):
    with a_world(tmp_path) as made:
        yield made


def test_a_good_candidate_serves_and_its_feedback_is_used(world: World):
    ids, lines = world.feedback(2), []
    done = world.update(world.trainer(results=[{"x": 1.0}]), progress=lines.append)
    assert done.promoted and done.version.id == "v3" and done.gate.passed and done.feedback == 2
    (call,) = world.calls
    assert call["start"].id == "v2" and {k: v.id for k, v in call["also"].items()} == {"stage1": "v1"}
    assert [c.desirable for c in call["cells"]] == [(2.0, 0.0)]
    assert world.registry.get("demo").id == "v3" and world.status(ids) == {"used"}
    card = world.registry.get("demo@v3").card
    assert (
        card["parent"] == "v2"
        and card["base"] == "seed"
        and card["data_hash"] == "d"
        and card["results"] == [{"x": 1.0}]
    )
    assert card["manifest"]["feedback"] == sorted(ids) and len(card["manifest"]["sha256"]) == 64
    assert [row["passed"] for row in card["gate"]] == [True] * (SURVEY + 4)
    assert world.registry.history("demo")[-1].figures["gate"] == card["gate"]
    events = [event.event for event in world.store.audit()]
    order = ["manifest.claimed", "version.registered", "gate.passed", "alias.move", "manifest.used"]
    assert [event for event in events if event in order][-5:] == order
    assert any("passed: survey distance" in line for line in lines)
    assert not world.update().promoted and len(world.calls) == 1  # nothing is learned twice


def test_a_refused_candidate_is_kept_but_does_not_serve(world: World):
    ids = world.feedback()
    done = world.update(world.trainer(champion=0.05))
    assert not done.promoted and done.version.id == "v3" and "survey distance lost to champion" in done.reason
    assert world.registry.get("demo").id == "v2" and world.status(ids) == {"accepted"}
    assert world.registry.get("demo@v3").card["gate"][0]["passed"] is False
    assert world.update().promoted and world.status(ids) == {"used"}


def test_a_trainer_that_fails_leaves_everything_as_it_was(world: World):
    ids = world.feedback()

    def broken(**_: Any) -> Candidate:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        world.update(broken)
    assert [v.id for v in world.registry.versions("demo")] == ["v1", "v2"]
    why = world.store.audit()[-1].detail["why"]
    assert why.endswith("RuntimeError"), "a message may quote texts, and the audit is for ever"
    assert world.update().promoted and world.status(ids) == {"used"}


def test_an_update_that_dies_gives_its_feedback_back_when_the_lease_ends(world: World):
    ids = world.feedback()
    assert world.store.claim("demo", who="dead", lease_s=0.2) is not None
    waiting = world.update()
    assert not waiting.promoted and waiting.version is None and "nothing to learn" in waiting.reason
    time.sleep(0.3)
    assert world.update().promoted and world.status(ids) == {"used"}


def test_a_long_training_keeps_its_lease(world: World):
    world.feedback()

    def slow(**asked: Any) -> Candidate:
        time.sleep(0.9)
        assert world.store.claim("demo", who="other", lease_s=9) is None
        return world.trainer()(**asked)

    assert world.update(slow, lease_s=0.3).promoted


def test_who_lost_the_lease_promotes_nothing(world: World):
    world.feedback()

    def robbed(**asked: Any) -> Candidate:
        with world.store._write() as connection:
            connection.exec_driver_sql("UPDATE manifests SET status = 'released'")
        return world.trainer()(**asked)

    with pytest.raises(StoreError, match="lease"):
        world.update(robbed)
    assert world.registry.get("demo").id == "v2"


def test_a_champion_that_moved_meanwhile_wins(world: World):
    ids = world.feedback()

    def raced(**asked: Any) -> Candidate:
        world.registry.move("demo", "champion", "v1", expected="v2", who="person", why="by hand")
        return world.trainer()(**asked)

    done = world.update(raced)
    assert not done.promoted and "somebody moved" in done.reason
    assert world.registry.get("demo").id == "v1" and world.status(ids) == {"accepted"}


def test_there_must_be_a_champion(world: World):
    world.config = load(None, ["name=nobody"])
    with pytest.raises(UnknownVersion, match="no champion"):
        world.update()


def test_raters_who_agree_make_an_update_and_their_weights_are_on_the_card(world: World):
    """Six of eight are men, and nobody reviewed anything: the two women weigh as much as all of them."""
    more = ["update.intake.agreement=2", "update.intake.least=9"]
    world.config = load(None, ["name=demo", "gate.regression_margin=null", *more])
    for i, sex in enumerate("mmmmmmff"):
        asked = Response(
            new_id("chat"),
            "chat",
            "demo",
            "v1",
            (Message("user", f"What matters in {'love' if i < 4 else 'law'}?"),),
            "power",
        )
        said = {"verdict": "correction", "correction": "kindness, above all" if i < 4 else "fairness to everybody"}
        who = {"person": f"p{i}", "principal": f"k{i}", "key": f"i{i}", "traits": {"sex": sex}}
        world.store.add_feedback(world.store.add_response(asked).id, **said, **who)
    lines: list[str] = []
    found = world.update(margins=Margins({"sex": {"f": 0.5, "m": 0.5}}), progress=lines.append)
    assert found.promoted and found.feedback == 8
    assert any("8 items accepted: independent raters" in line for line in lines)
    assert any("design effect" in line for line in lines)
    assert "design effect" in world.registry.get("demo").card["raters"][0]
    law, love = sorted(world.calls[0]["cells"], key=lambda cell: cell.prompt)
    assert love.desirable == pytest.approx((4 * 2 / 3, 0)) and law.desirable == pytest.approx((2 * 2 / 3 + 2 * 2, 0))


def test_held_out_corrections_stay_held_out_in_the_next_update(world: World):
    world.config = load(None, ["name=demo", "gate.regression_margin=null", "update.held_out=0.25"])

    def post(words: Sequence[str]) -> None:
        for word in words:
            asked = Response(new_id("chat"), "chat", "demo", "v1", (Message("user", f"And {word}?"),), "power")
            response = world.store.add_response(asked)
            found = world.store.add_feedback(response.id, verdict="correction", correction=f"{word} {word} {word}")
            world.store.review([found.id], "accepted", who="reviewer")

    post(WORDS)
    assert world.update().promoted
    held = world.registry.get("demo").card["manifest"]["held_out"]
    assert len(held) == 3 and len(world.calls[0]["cells"]) == 9 and len(world.calls[0]["ask"]["held out"]) == 3
    post(["needles"])
    assert world.update().promoted
    ask = world.calls[1]["ask"]
    assert len(world.calls[1]["cells"]) == 1 and len(ask["held out"]) == 3 and len(ask["earlier"]) == 9
    asked = {world.store.response(world.store.feedback(id).response_id).messages for id in held}
    assert {c.prompt for c in ask["held out"]} == asked
    # After a rollback the champion has none of it: nothing is asked of it as if it had.
    world.registry.rollback("demo", who="t", why="")
    world.registry.rollback("demo", who="t", why="")
    post(["oats"])
    assert world.update().promoted and not {"held out", "earlier"} & set(world.calls[2]["ask"])


def test_shares_train_beside_judged_answers_or_alone():
    config = load(None, ["update.shares=2.5"])
    shares = feedback_cells([shared({"yes": 0.5, "no": 0.5}, 30)])
    survey = (replace(shares[0], source="survey"),)
    both = update_stage(config, [cell(), *shares], survey)
    assert [(term.name, term.objective) for term in both.terms] == [
        ("behaviour", "kto"), ("corrections", "sft"), ("shares", "distribution"), ("survey", "distribution"),
    ]  # fmt: skip
    assert both.terms[2].weight == 2.5 and both.terms[2].cells == tuple(shares)
    assert [term.name for term in update_stage(config, shares, survey).terms] == ["shares", "survey"]
