"""The embedded population: its truth is exact, its sample biased and repaired, its feedback telling."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from valuealign.config import GroupsConfig, SurveyConfig, WeightingConfig
from valuealign.population import find_groups, repair, tabulate
from valuealign.surveys import embedded
from valuealign.types import EVERYONE, Group
from valuealign.weighting import weigh

CONFIG = SurveyConfig()


def test_margins_follow_from_the_cells_and_sum_to_one() -> None:
    assert embedded.cell_shares().sum() == pytest.approx(1)
    for levels in embedded.margins().shares.values():
        assert sum(levels.values()) == pytest.approx(1, abs=1e-12)
    assert embedded.margins().shares["age"] == pytest.approx(embedded.AGE)


def test_truth_equals_a_large_simulation_of_the_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the sampling bias, a large draw must answer as the closed form says, cell mixtures included."""
    monkeypatch.setattr(embedded, "SAMPLED", dict.fromkeys(embedded.SAMPLED, 1.0))
    people = 60_000
    public = embedded.draw.__wrapped__(people, 7)
    cells = embedded.cells()
    groups = [Group(), Group((("age", "65+"), ("region", "hills"))), Group((("sex", "male"),))]
    for i, item in enumerate(embedded.codebook().items):
        for group in groups:
            wanted = {level for _, level in group.traits}
            inside_C = np.array([wanted <= set(cell) for cell in cells])
            answers = public.answer_PI[inside_C[public.cell_P], i]
            answers = answers[answers >= 0]
            seen = np.bincount(answers, minlength=len(item.options)) / len(answers)
            true = embedded.true_shares(item, group)
            assert np.abs(seen - true).max() < 5 * 0.5 / np.sqrt(len(answers))
            assert sum(true) == pytest.approx(1)


def test_a_draw_is_fixed_by_people_and_seed() -> None:
    one, two = embedded.read(CONFIG, 3), embedded.read(CONFIG, 3)
    assert one.people.equals(two.people)
    assert not one.people.equals(embedded.read(CONFIG, 4).people)
    embedded.draw.cache_clear()
    assert one.people.equals(embedded.read(CONFIG, 3).people)
    assert embedded.read(SurveyConfig(rows=50), 3).people.equals(one.people.head(50))


@pytest.mark.parametrize("seed", range(3))
def test_raking_visibly_repairs_the_biased_sample(seed: int) -> None:
    survey = embedded.read(CONFIG, seed)
    weights = weigh(survey, survey.margins, WeightingConfig(), country=None, population_weights=False)
    mended = repair(survey, weights.weights_P)
    assert mended.before > 0.03
    assert mended.after < mended.before / 2
    assert 1.2 < weights.design_effect < 2


def test_groups_differ_beyond_what_single_traits_know() -> None:
    survey = embedded.read(CONFIG, 0)
    pairs = [group for group in find_groups(survey, np.ones(CONFIG.people), GroupsConfig()) if len(group.traits) == 2]
    far, crossed = [], []
    for item in survey.codebook.items:
        whole = np.array(embedded.true_shares(item, EVERYONE))
        for group in pairs:
            own = np.array(embedded.true_shares(item, group))
            additive = whole * np.prod([embedded.true_shares(item, Group((t,))) / whole for t in group.traits], axis=0)
            far.append(np.abs(own - whole).sum() / 2)
            crossed.append(np.abs(own - additive / additive.sum()).sum() / 2)
    assert np.mean(far) > 0.1
    assert np.mean(crossed) > 0.03


def test_items_are_short_plain_and_keyed() -> None:
    items = embedded.codebook().items
    assert len(items) == 24 and {value for item in items for value in item.values} == set(embedded.VALUES)
    assert sum(item.key < 0 for item in items) >= 3
    assert len([item for item in items if item.family]) >= 4
    for item in items:
        assert len(item.text.split()) <= 12
        assert all(len(option.text.split()) <= 4 for option in item.options)
        assert 3 <= len(item.options) <= 5


def test_opposite_values_are_held_by_different_people() -> None:
    """Neighbours in the circle go together, opposites conflict."""
    profile_PV = embedded.draw(4000, 0).profile_PV
    r_VV = np.corrcoef(profile_PV.T)
    count = len(embedded.VALUES)
    assert all(r_VV[i, (i + 1) % count] > 0.3 for i in range(count))
    assert all(r_VV[i, (i + 5) % count] < -0.3 for i in range(count))


def test_feedback_cells_are_open_weighted_and_tell_the_same_story_on_unseen_requests() -> None:
    cells = embedded.feedback(4000, 0)
    requests = embedded.requests()
    assert len(cells) == len(requests) == 60
    assert cells == embedded.feedback(4000, 0) and cells != embedded.feedback(4000, 1)
    for cell in cells:
        assert not cell.closed and 2 <= len(cell.completions) <= 4 and min(cell.desirable) > 0
        assert cell.n_eff > 100 and [message.role for message in cell.prompt] == ["user"]
        assert all(len(answer.split()) < 15 for answer in cell.completions)
    liked: dict[str, list[float]] = {}
    for half, request, cell in zip(range(60), requests, cells, strict=True):
        for value, d, u in zip(request.values, cell.desirable, cell.undesirable, strict=True):
            liked.setdefault(f"{value} {half % 2}", []).append(d / (d + u))
    means = {key: float(np.mean(shares)) for key, shares in liked.items()}
    one, two = (np.array([means[f"{value} {half}"] for value in embedded.VALUES]) for half in (0, 1))
    assert np.corrcoef(one, two)[0, 1] > 0.9


def test_feedback_masses_are_sums_of_the_weights_of_those_who_spoke() -> None:
    """Under weights that count only women, the masses are the women's alone."""
    survey = embedded.read(CONFIG, 0)
    women_P = (survey.people["sex"] == "female").to_numpy().astype(float)
    everyone = embedded.feedback(survey, 0, weights_P=np.ones(len(women_P)))
    women = embedded.feedback(survey, 0, weights_P=women_P)
    men = embedded.feedback(survey, 0, weights_P=1 - women_P)
    for whole, *parts in zip(everyone, women, men, strict=True):
        assert np.add(*(part.desirable for part in parts)) == pytest.approx(whole.desirable)
        assert np.add(*(part.undesirable for part in parts)) == pytest.approx(whole.undesirable)
        assert all(float(mass).is_integer() for mass in whole.desirable)


def test_requests_word_values_alike_across_requests() -> None:
    """Each value has words of its own, so that a text model can carry likings to unseen requests."""
    words: dict[str, dict[str, int]] = {value: {} for value in embedded.VALUES}
    for request in embedded.requests():
        for value, answer in zip(request.values, request.answers, strict=True):
            for word in set(answer.lower().replace(",", " ").replace(".", " ").split()):
                words[value][word] = words[value].get(word, 0) + 1
    for value, counts in words.items():
        own = [
            word
            for word, count in counts.items()
            if count >= 4 and count > 2 * max(words[other].get(word, 0) for other in words if other != value)
        ]
        assert len(own) >= 2, f"{value} has no words of its own"


def test_thresholds_rise() -> None:
    for item in embedded.codebook().items:
        cuts = embedded._thresholds(item)
        assert len(cuts) == len(item.options) - 1 and all(low < high for low, high in pairwise(cuts))


def test_design_weighted_table_of_the_sample_is_off_where_the_truth_says_so() -> None:
    survey = embedded.read(CONFIG, 0)
    table = tabulate(survey, survey.people["weight"].to_numpy(), (EVERYONE,))
    assert survey.truth is not None
    # The old are over-sampled and hold tradition high: customs must look too important before weighting.
    assert table.shares("keep_customs", EVERYONE)[-1] > survey.truth["keep_customs"][-1] + 0.02
