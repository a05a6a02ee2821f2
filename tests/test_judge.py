"""Figures that count some of the cells only: of how many they are, and what they are compared on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from valuealign.evaluate import BASELINE, FLOOR, HALF
from valuealign.evaluate.judge import Judge, Panel
from valuealign.evaluate.record import Row
from valuealign.metrics import jsd_bits

ORDINAL, NOMINAL, GROUPS, K, B = 2, 18, 6, 4, 300
GUESS, SCALE = "guess", "wasserstein"


def panel(items: int, rng: np.random.Generator) -> tuple[Panel, np.ndarray]:
    """Questions to groups, and a model's log-probabilities: the people differ by question, the model is off by each."""
    truth_CK = rng.dirichlet(np.ones(K) * 3, size=items * GROUPS)
    resampled_BCK = rng.multinomial(80, truth_CK, size=(B, len(truth_CK))) / 80
    half_CK = rng.multinomial(80, truth_CK) / 80
    off_CK = rng.normal(0, 0.6, (items, K)).repeat(GROUPS, axis=0)
    of = tuple(f"q{i:02}" for i in range(items) for _ in range(GROUPS))
    groups = tuple(f"g{g}" for _ in range(items) for g in range(GROUPS))
    one = Panel(
        split="cells", part="report", cell_C=np.arange(len(of)), items=of, groups=groups, truth_CK=truth_CK,
        n_eff_C=np.full(len(of), 80.0), resampled_BCK=resampled_BCK.astype(np.float32),
        nulls={BASELINE["cells"]: np.full_like(truth_CK, 1 / K)}, half_CK=half_CK, silent_C=np.zeros(len(of)),
    )  # fmt: skip
    return one, np.log(truth_CK) + off_CK


def first(one: Panel, cells: int) -> Panel:
    """The panel's first cells alone."""
    return replace(
        one,
        cell_C=one.cell_C[:cells],
        items=one.items[:cells],
        groups=one.groups[:cells],
        truth_CK=one.truth_CK[:cells],
        n_eff_C=one.n_eff_C[:cells],
        resampled_BCK=one.resampled_BCK[:, :cells],
        nulls={name: shares_CK[:cells] for name, shares_CK in one.nulls.items()},
        half_CK=one.half_CK[:cells],
        silent_C=one.silent_C[:cells],
    )


def judged(one: Panel, positions_CK: np.ndarray, logps: dict[str, np.ndarray]) -> dict[tuple[str, str], Row]:
    donor_C = np.roll(np.arange(len(one.items)), 1)
    return {(row.who, row.metric): row for row in Judge(one, positions_CK, donor_C, seed=3).rows(logps)}


def test_a_figure_of_few_questions_is_as_wide_as_those_alone_make_it() -> None:
    """Two questions on a scale among eighteen without one: Wasserstein is of two, and its interval says so."""
    one, logp_CK = panel(ORDINAL + NOMINAL, np.random.default_rng(0))
    cells = ORDINAL * GROUPS
    positions_CK = np.tile(np.arange(K, dtype=float), (len(one.items), 1))
    positions_CK[cells:] = np.nan
    mixed = judged(one, positions_CK, {"model": logp_CK})
    lone = judged(first(one, cells), positions_CK[:cells], {"model": logp_CK[:cells]})
    for key in (("model", SCALE), ("model", f"gain({SCALE})"), (f"model - {BASELINE['cells']}", SCALE), (FLOOR, SCALE)):
        some, alone = mixed[key].estimate, lone[key].estimate
        assert some.n == alone.n == cells, key
        assert some.value == pytest.approx(alone.value), key
        assert (some.high - some.low) == pytest.approx(alone.high - alone.low, rel=0.2), key
    assert mixed["model", "jsd_bits"].estimate.n == len(one.items)


def test_a_figure_is_of_what_was_answered() -> None:
    """A model asked three questions of twenty is not known as well as one asked all."""
    one, logp_CK = panel(20, np.random.default_rng(1))
    positions_CK = np.tile(np.arange(K, dtype=float), (len(one.items), 1))
    few_CK = logp_CK.copy()
    few_CK[3 * GROUPS :] = np.nan
    rows = judged(one, positions_CK, {"all": logp_CK, "few": few_CK})
    assert rows["few", "jsd_bits"].estimate.n == rows["few", "raw_mass"].estimate.n == 3 * GROUPS
    # The same answers where both were asked: they are not apart, though their means over all cells are.
    assert rows["few", "jsd_bits"].estimate.value != pytest.approx(rows["all", "jsd_bits"].estimate.value, abs=1e-3)
    apart = rows["few - all", "jsd_bits"]
    assert (
        apart.estimate.value == 0 and apart.estimate.n == 3 * GROUPS and "the 18 cells that both answer" in apart.note
    )


def test_what_is_compared_with_the_split_half_are_the_cells_that_it_has() -> None:
    one, logp_CK = panel(12, np.random.default_rng(2))
    half_CK = one.half_CK.copy()
    half_CK[::3] = np.nan
    one = replace(one, half_CK=half_CK)
    positions_CK = np.tile(np.arange(K, dtype=float), (len(one.items), 1))
    rows = judged(one, positions_CK, {"model": logp_CK})
    model_CK = np.exp(logp_CK) / np.exp(logp_CK).sum(1, keepdims=True)
    apart_C = jsd_bits(model_CK, one.truth_CK) - jsd_bits(half_CK, one.truth_CK)
    row = rows[f"model - {HALF}", "jsd_bits"]
    assert row.estimate.value == pytest.approx(np.nanmean(apart_C)) and row.estimate.n == 48
    assert row.estimate.low < row.estimate.value < row.estimate.high
    whole = rows["model", "jsd_bits"].estimate.value - rows[HALF, "jsd_bits"].estimate.value
    assert row.estimate.value != pytest.approx(whole, abs=1e-4), "other cells would be compared"


def test_the_worst_group_is_of_its_own_cells() -> None:
    one, logp_CK = panel(10, np.random.default_rng(4))
    positions_CK = np.tile(np.arange(K, dtype=float), (len(one.items), 1))
    row = judged(one, positions_CK, {"model": logp_CK})["model", "worst_group_jsd_bits"]
    assert row.estimate.n == 10 and row.note in one.groups


def test_a_slope_that_an_item_does_not_count_in_is_still_paired() -> None:
    """The same answers but for one question, which one model splits evenly: what they share does not vary apart."""
    one, logp_CK = panel(12, np.random.default_rng(6))
    even_CK = logp_CK.copy()
    even_CK[:GROUPS] = np.log(1 / K)
    positions_CK = np.tile(np.arange(K, dtype=float), (len(one.items), 1))
    rows = judged(one, positions_CK, {"sure": logp_CK, "even": even_CK})
    apart, alone = rows["even - sure", "calibration_slope"].estimate, rows["even", "calibration_slope"].estimate
    assert rows["even", "calibration_slope"].estimate.n == 11 * GROUPS
    assert apart.high - apart.low < 0.7 * (alone.high - alone.low)


def test_a_gain_over_no_room_has_no_interval() -> None:
    """The null is a perfect model: it lies above the floor by chance at most."""
    one, logp_CK = panel(12, np.random.default_rng(7))
    one = replace(one, nulls={BASELINE["cells"]: one.half_CK * 0.2 + one.truth_CK * 0.8})
    positions_CK = np.tile(np.arange(K, dtype=float), (len(one.items), 1))
    gain = judged(one, positions_CK, {"model": logp_CK})["model", "gain(jsd_bits)"]
    assert np.isnan(gain.estimate.low) and ("no interval" in gain.note or "no gain is possible" in gain.note)
