"""What of the posted feedback may train: each rule by itself, and what they do together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from valuealign.config import IntakeConfig, load
from valuealign.errors import ConfigError
from valuealign.loop import known_margins, rater_weights, screen, take_in
from valuealign.loop.intake import signs
from valuealign.loop.texts import clusters, normal
from valuealign.store import Feedback, Judged, Response, Store, new_id
from valuealign.surveys import read_survey
from valuealign.types import Message
from valuealign.weighting import Margins

_number = count()
PROMPTS = (
    "My neighbour is ill. What should I do?", "Is it right to lie to a friend?", "Who should look after the old?",
    "What would you do with a found purse?", "May a boss read the letters of staff?", "When is a war just?",
    "How do I thank a teacher?", "Should rich towns pay for poor ones?", "Is a promise to the dead binding?",
    "Do animals have rights?", "What makes a good parent?", "Should voting be a duty?",
)  # fmt: skip
ANSWERS = (
    "Bring some soup and ask what is needed.", "Rarely; a friend can bear the truth.",
    "Their families, with help from all.", "Take it to the police.", "No, letters are private.",
    "Only when nothing else protects people.", "Write a few warm lines.", "Yes, within limits.",
    "It binds whoever gave it.", "They can suffer, so yes.", "Patience, and time.", "It may be one.",
)  # fmt: skip


def said(
    correction: str | None = "Be kind.",
    *,
    ask: str = PROMPTS[0],
    person: str | None = None,
    key: str | None = None,
    verdict: str = "correction",
    status: str = "accepted",
    answer: str = "No idea.",
    hour: float = 0,
    campaign: str | None = None,
    **more: Any,
) -> Judged:
    response = Response(new_id("chat"), "chat", "demo", "v1", (Message("user", ask),), answer, **more.pop("of", {}))
    created = f"2026-01-{1 + int(hour // 24):02}T{int(hour % 24):02}:00:00.000+00:00"
    text = correction if verdict == "correction" else None
    id = f"fb-{next(_number):06}"
    feedback = Feedback(
        id, response.id, verdict, text, status, created, person=person, key_id=key, campaign=campaign, **more
    )
    return Judged(feedback, response)


def apart(n: int, **more: Any) -> list[Judged]:
    """So many items that have nothing in common: other prompts, corrections, persons and keys."""
    tails = [hashlib.sha256(str(i).encode()).hexdigest()[:16] for i in range(n)]
    return [
        said(f"{ANSWERS[i % 12]} {tail}", ask=f"{PROMPTS[i % 12]} {tail}", person=f"p{i}", key=f"k{i}", **more)
        for i, tail in enumerate(tails)
    ]


def rules(rows: Sequence[Judged], used: Sequence[Judged] = (), **settings: Any) -> dict[str, int]:
    return screen(rows, used, IntakeConfig(**settings)).counts


def taken(rows: Sequence[Judged], used: Sequence[Judged] = (), **settings: Any) -> int:
    return len(screen(rows, used, IntakeConfig(**settings)).taken)


def test_texts_that_read_the_same_are_the_same():
    assert normal("  ＢE kínd!! ") == normal("be kind") == "be kind"
    texts = [
        "Bring her some good soup, please.",
        "bring HER some good soup -- please",
        "Bring her some good soup pleas",
        "Win.",
    ]
    a, b, c, d = clusters(texts, 0.8)
    assert a == b == c != d
    ill, loud = clusters(["My neighbour is ill. What should I do?", "My neighbour is loud. What should I do?"], 0.8)
    assert ill != loud, "one word makes another question"
    assert len(set(clusters([f"{p}" for p in PROMPTS], 0.8))) == len(PROMPTS)


def test_what_was_accepted_trains_and_what_was_not_does_not():
    rows = [*apart(6), said(status="quarantined", ask=PROMPTS[7])]
    found = screen(rows, [], IntakeConfig())
    assert set(found.taken) == {row.feedback.id for row in rows[:6]} and not found.counts


def test_nobody_has_more_than_a_share():
    one = [said(answer, ask=prompt, person="eager", key="k") for answer, prompt in zip(ANSWERS, PROMPTS, strict=True)]
    assert rules(one) == {"person_cap": 9} and taken(one) == 3, "three, however few there are"
    # Of many it is a share: 1 % of 412.
    crowd = [*apart(400), *one]
    assert rules(crowd) == {"person_cap": 8} and taken(crowd, person=0.02) == 408
    # What a person has trained already counts, so that nothing trickles in.
    before = [said("Old.", ask=f"Old {ask}", person="eager", status="used") for ask in PROMPTS[:2]]
    assert rules(one, before) == {"person_cap": 11}
    # Without a person the key is the voice; a token's key is the one that asked.
    bare = [said(answer, ask=prompt, key="k") for answer, prompt in zip(ANSWERS, PROMPTS, strict=True)]
    assert rules(bare) == {"person_cap": 9}
    tokens = [
        said(answer, ask=prompt, key=f"token:{prompt}", of={"key_id": "app"})
        for answer, prompt in zip(ANSWERS, PROMPTS, strict=True)
    ]
    assert rules(tokens) == {"person_cap": 9}


def test_which_items_of_a_voice_train_is_not_its_choice():
    """Neither what came first nor what came last: a hash of the id, which the store made."""
    rows = [said(ANSWERS[i], ask=PROMPTS[i], person="eager") for i in range(12)]
    kept = screen(rows, [], IntakeConfig()).taken
    ids = [row.feedback.id for row in rows]
    assert set(kept) == set(screen(rows[::-1], [], IntakeConfig()).taken)
    assert sorted(kept) not in (ids[:3], ids[-3:])


def test_a_key_has_half_where_there_are_several():
    mine = [
        said(f"{ANSWERS[i]} {i}{i}{i}{i}", ask=f"{PROMPTS[i]} {i}{i}{i}{i}", person=f"x{i}", key="one")
        for i in range(12)
    ]
    assert taken(mine) == 12, "a single key is no one's rival"
    assert rules([*mine, *apart(4)]) == {"key_cap": 4}


def test_an_opinion_has_its_share():
    same = [said("Vote for the harbour!", ask=prompt, person=f"v{i}", key=f"w{i}") for i, prompt in enumerate(PROMPTS)]
    assert rules(same, flood=99) == {"opinion_cap": 9}
    # In nearly the same words too, and as praise of an answer in these words.
    words = ("Vote for the harbour", "vote for the HARBOUR!!", "Vote for the harbour...", "Vote, for the harbour")
    mixed = [said(words[i % 4], ask=PROMPTS[i], person=f"v{i}", key=f"w{i}") for i in range(8)]
    mixed += [said(verdict="desirable", answer=words[0], ask=PROMPTS[i], person=f"v{i}", key=f"w{i}") for i in (8, 9)]
    assert rules(mixed, flood=99) == {"opinion_cap": 7}
    against = said(verdict="undesirable", answer=words[0], ask=PROMPTS[10], person="v10", key="w10")
    assert rules([*mixed, against], flood=99) == {"opinion_cap": 7}, "who is against it is of another opinion"
    assert rules(mixed[:4], [said(words[0], ask="Old?", status="used")] * 3, flood=99) == {"opinion_cap": 4}


def test_a_campaign_has_so_many_items_a_prompt():
    rows = [
        said(ANSWERS[i], ask="Who should look after the old?" + "!" * i, person=f"c{i}", key=f"c{i}", campaign="march")
        for i in range(9)
    ]
    assert rules(rows) == {"campaign_cap": 4} and rules(rows, campaign=2) == {"campaign_cap": 7}
    elsewhere = [said(ANSWERS[i], ask=PROMPTS[i], person=f"d{i}", key=f"d{i}", campaign="march") for i in range(9)]
    assert not rules(elsewhere)


def test_a_voice_says_a_thing_once():
    rows = [said(person="a", hour=1), said("be KIND", ask=PROMPTS[0] + "!", person="a", hour=2), said(person="b")]
    found = screen(rows, [], IntakeConfig())
    assert found.found == {rows[1].feedback.id: ("near_duplicate",)}
    assert rules(rows[:1], [said(person="a", status="used")]) == {"near_duplicate": 1}, "nor once more later"


def test_a_flood_is_one_opinion_at_a_time():
    flood = [
        said("Vote for the harbour!", ask=PROMPTS[i % 12] + "?" * i, person=f"f{i}", key=f"f{i % 3}", hour=1)
        for i in range(12)
    ]
    slow = [
        said("Vote for the harbour!", ask=PROMPTS[i], person=f"f{i}", key=f"f{i % 3}", hour=20 * i) for i in range(12)
    ]
    assert rules(flood)["flood"] == 12 and "flood" not in rules(slow)
    crowd = apart(60)
    assert "flood" not in rules([*flood, *crowd]), "a fifth of what came is what makes a flood"
    assert rules([*flood, *crowd], flood_share=0.1)["flood"] == 12


@pytest.mark.parametrize(
    ("prompt", "marked"),
    [
        ('Say "vote yes" or "vote no", whichever you like.', True),
        ("Flip a coin: answer heads with the harbour plan and tails with the park.", True),
        ("Reply with one of these, at random: tea, coffee", True),
        ("Half of the time say that the Prime Minister lies.", True),
        ("Should I tell my friend the truth or let it be?", False),
        ("What would you say to somebody who has lost a dog?", False),
        ("Is there a chance that it rains?", False),
    ],
)
def test_the_signature_of_votes_on_what_a_model_happens_to_say(prompt: str, marked: bool):
    assert ("signature" in signs(said(verdict="desirable", ask=prompt))) is marked


def test_praise_of_what_the_prompt_dictates():
    told = said(
        verdict="desirable", ask="Repeat after me: The harbour plan is best!", answer="The harbour plan is best"
    )
    assert "dictated" in signs(told) and not signs(said(verdict="desirable", answer="The harbour plan is best"))
    assert not signs(said(verdict="undesirable", ask="The harbour plan is best", answer="The harbour plan is best"))
    options = Response(
        new_id("dist"), "distribution", "demo", "v1", (Message("user", "Is it very bad indeed, or not?"),),
        "very bad indeed", {"options": ["very bad indeed", "not"]},
    )  # fmt: skip
    assert not signs(Judged(Feedback("fb-1", options.id, "desirable", None, "accepted", "2026-01-01"), options))


def agree(n: int, **more: Any) -> list[Judged]:
    return [said(person=f"p{i}", key=f"k{i}", status="quarantined", **more) for i in range(n)]


def test_independent_raters_can_accept():
    assert not taken(agree(5)), "only where the setting says so"
    found = screen(agree(3), [], IntakeConfig(agreement=3))
    assert len(found.taken) == 3 and set(found.agreed.values()) == {3}
    assert not taken(agree(2), agreement=3)
    # One person with three keys is one, and so are three persons with one key, and whoever has no key.
    for same in ({"person": "p"}, {"key": "k"}, {"key": None}):
        rows = [said(**{"person": f"p{i}", "key": f"k{i}", "status": "quarantined"} | same) for i in range(3)]
        assert not taken(rows, agreement=2), same
    # Whoever has two keys or whose key has two persons does not hide the others.
    crossed = [("p1", "k1"), ("p1", "k2"), ("p2", "k1")]
    rows = [said(person=person, key=key, status="quarantined") for person, key in crossed]
    assert taken(rows, agreement=2) == 2 and not taken(rows, agreement=3)
    with pytest.raises(ConfigError, match="agreement"):
        load(None, ["update.intake.agreement=1"])


def test_agreement_is_worth_nothing_against_as_many_or_under_suspicion():
    other = agree(3, correction="Be strict.")
    found = screen([*agree(3), *other], [], IntakeConfig(agreement=2))
    assert not found.taken and found.counts == {"disputed": 6}
    assert taken([*agree(4), *other[:2]], agreement=2) == 3, "the more have it, up to an opinion's share"
    dictated = [
        said(
            "The harbour plan is best",
            ask="Say: the harbour plan is best",
            person=f"p{i}",
            key=f"k{i}",
            status="quarantined",
        )
        for i in range(3)
    ]
    assert not taken(dictated, agreement=2)
    # A reviewer may still take it.
    assert taken([said("The harbour plan is best", ask="Say: the harbour plan is best", person="p")]) == 1


def test_whoever_says_the_opposite_in_nearly_the_same_words_does_not_agree():
    """Near-duplicates by letters, all of them: each rater alone with what it says."""

    def pair(ask: str, one: str, other: str, **more: Any) -> list[Judged]:
        return [
            said(text, ask=ask, person=f"p{i}", key=f"k{i}", status="quarantined", **more)
            for i, text in enumerate((one, other))
        ]

    do, dont = "You should tell your friend the whole truth.", "You should not tell your friend the whole truth."
    assert len(set(clusters([do, dont], 0.8))) == 1
    assert not taken(pair("What now?", do, dont), agreement=2)
    assert taken(pair("What now?", do, do.upper()), agreement=2) == 2
    options = {"of": {"detail": {"options": ["yes", "no"]}}}
    swapped = [
        said(
            person=f"p{i}", key=f"k{i}", verdict="shares", status="quarantined", n=1.0,
            shares={"yes": share, "no": 1 - share}, **options,
        )
        for i, share in enumerate((0.2, 0.8))
    ]  # fmt: skip
    assert not taken(swapped, agreement=2)
    # Nor does whoever says the same of the opposite question.
    good, bad = "Is it always right to lie to a friend?", "Is it not always right to lie to a friend?"
    assert len(set(clusters([good, bad], 0.8))) == 1
    apiece = [said("Yes, it is.", ask=ask, person=ask, key=ask, status="quarantined") for ask in (good, bad)]
    assert not taken(apiece, agreement=2)
    # Another opinion counts as one, in however many spellings.
    quiet = "Keep silent, and let time heal what is broken between you."
    split = [said(text, person=text, key=text, status="quarantined") for text in (quiet, quiet.replace("time", "tyme"))]
    assert len(set(clusters([row.feedback.correction for row in split], 0.8))) == 1
    assert rules([*pair(PROMPTS[0], do, do), *split], agreement=2) == {"disputed": 2}


def test_the_same_shares_of_different_questions_are_no_one_opinion():
    shares = {"yes": 0.8, "no": 0.2}
    rows = [
        said(ask=ask, person=f"p{i}", key=f"k{i}", verdict="shares", shares=shares, n=9.0)
        for i, ask in enumerate(PROMPTS)
    ]
    assert not rules(rows), "each of another question"
    same = [said(person=f"p{i}", key=f"k{i}", verdict="shares", shares=shares, n=9.0) for i in range(5)]
    assert rules(same) == {"opinion_cap": 2}


def test_reasons_are_kept_with_the_feedback(tmp_path: Path):
    store = Store.open(tmp_path / "valuealign.db")
    ids = []
    for person, key in (("a", "k1"), ("b", "k2"), ("a", "k1")):
        asked = store.add_response(Response(new_id("chat"), "chat", "demo", "v1", (Message("user", "And?"),), "No."))
        posted = store.add_feedback(
            asked.id, verdict="correction", correction="Be kind.", person=person, principal=key, key=f"{len(ids)}"
        )
        ids.append(posted.id)
    settings = IntakeConfig(agreement=2)
    found = take_in(store, "demo", settings)
    assert sorted(found.taken) == sorted(ids[:2])
    assert [store.feedback(id).status for id in ids] == ["accepted"] * 3
    assert "2 independent raters" in (store.feedback(ids[0]).reason or "")
    assert store.feedback(ids[2]).screened == {"rules": ["near_duplicate"]}
    noted = [event for event in store.audit() if event.event == "feedback.screened"]
    assert [event.subject for event in noted] == [ids[2]] and "kind" not in str(noted[0].detail)
    take_in(store, "demo", settings)
    assert len([e for e in store.audit() if e.event == "feedback.screened"]) == 1, "what is known is not said again"
    assert not take_in(store, "other", settings).taken
    store.close()


def test_what_a_person_decides_while_raters_are_counted_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = Store.open(tmp_path / "valuealign.db")
    ids = []
    for person in "abc":
        asked = store.add_response(Response(new_id("chat"), "chat", "demo", "v1", (Message("user", "And?"),), "No."))
        said = {"verdict": "correction", "correction": "Be kind.", "person": person, "principal": person, "key": person}
        ids.append(store.add_feedback(asked.id, **said).id)

    def meanwhile(*asked: Any):
        found = screen(*asked)
        store.review(ids[:1], "declined", who="person")
        store.erase("b", who="officer")
        return found

    monkeypatch.setattr("valuealign.loop.intake.screen", meanwhile)
    found = take_in(store, "demo", IntakeConfig(agreement=3))
    assert store.feedback(ids[0]).status == "declined" and store.feedback(ids[0]).reviewer == "person"
    assert list(found.agreed) == ids[2:] and store.feedback(ids[2]).status == "accepted"
    store.close()


# For how many people each rater speaks


MARGINS = Margins({"sex": {"f": 0.5, "m": 0.5}, "age": {"young": 0.4, "old": 0.6}})


def rater(i: int, sex: str | None, age: str = "young") -> Judged:
    return said(person=f"r{i}", traits={"sex": sex, "age": age} if sex else None)


def test_raters_are_weighted_to_the_population():
    rows = [rater(i, "m" if i < 8 else "f") for i in range(10)]
    rows.append(said("Another.", ask=PROMPTS[3], person="r9", traits={"sex": "f", "age": "young"}))
    found = rater_weights(rows, MARGINS, trim=5.0)
    men, women = (found.by_id[rows[i].feedback.id] for i in (0, 9))
    assert (men, women) == (pytest.approx(0.5 / 0.8), pytest.approx(0.5 / 0.2))
    assert found.by_id[rows[10].feedback.id] == pytest.approx(women), "a rater's other posts weigh the same"
    assert found.design_effect == pytest.approx((8 * (5 / 8) ** 2 + 2 * 2.5**2) / 10)
    assert "design effect 1.56" in found.notes[0] and "no rater speaks for age old" in found.notes[1]


def test_raters_without_traits_weigh_the_mean_and_nobody_weighs_too_much():
    rows = [rater(i, "m" if i < 19 else "f") for i in range(20)] + [rater(20, None)]
    found = rater_weights(rows, MARGINS, trim=20.0)
    assert found.by_id[rows[20].feedback.id] == 1.0 and found.by_id[rows[19].feedback.id] == pytest.approx(10)
    trimmed = rater_weights(rows, MARGINS, trim=2.0)
    assert max(trimmed.by_id.values()) <= 2.0 + 1e-6 or set(trimmed.by_id.values()) == {1.0}
    for few in ([rater(0, "m")], [rater(i, "x") for i in range(9)], [rater(i, None) for i in range(9)]):
        found = rater_weights(few, MARGINS, trim=5.0)
        assert set(found.by_id.values()) == {1.0} and "not weighted" in found.notes[0]
    assert "no margins" in rater_weights(rows, None, trim=5.0).notes[0]


def test_raters_are_held_to_the_margins_of_the_survey_or_to_a_file(tmp_path: Path):
    config = load(None, ["survey.people=200"])
    survey = read_survey(config.survey, 0)
    assert set(known_margins(config, survey).shares) == set(survey.margins.shares)
    path = tmp_path / "margins.csv"
    path.write_text("trait,level,share\nsex,f,0.5\nsex,m,0.5\n")
    mine = load(None, [f"update.rater_margins={path}"])
    assert known_margins(mine, survey).shares == {"sex": {"f": 0.5, "m": 0.5}}
    assert known_margins(config, replace(survey, margins=None)) is None
    trait = replace(survey.codebook.traits[0], several=True)
    book = replace(survey.codebook, traits=(trait, *survey.codebook.traits[1:]))
    assert trait.id not in known_margins(config, replace(survey, codebook=book)).shares
