"""The evaluation's own intervals, through the whole exam: how often they hold what they are of."""

from __future__ import annotations

import numpy as np
import pytest
from typed import benchmark

KINDS = ("model", "difference", "null", "gain")
Figures = dict[str, dict[str, float]]


def worlds(*arguments: str) -> dict[str, Figures]:
    found: dict[str, Figures] = benchmark("judge_coverage", *arguments)[0]["worlds"]
    for figures in found.values():
        assert {name.split(":")[0] for name in figures} == {*KINDS, "noise floor", "floor over perfect"}
    return found


def of(figures: Figures, kinds: tuple[str, ...], key: str) -> list[float]:
    return [one[key] for name, one in figures.items() if name.split(":")[0] in kinds]


def test_intervals_hold_what_they_are_of() -> None:
    (figures,) = worlds("--replicates", "24", "--bootstrap", "60", "--world", "usual").values()
    assert np.mean(of(figures, KINDS, "held")) > 0.88 and min(of(figures, KINDS, "held")) > 0.7
    # Respondents and items resampled jointly would count the answers' noise twice, and be wider than that.
    assert np.median(of(figures, ("model", "null", "gain"), "width")) < 1.35
    assert of(figures, ("floor over perfect",), "floor") == pytest.approx([1, 1, 1], abs=0.15)


@pytest.mark.prove
def test_intervals_hold_what_they_are_of_in_full() -> None:
    found = worlds("--replicates", "300")
    for name, figures in found.items():
        assert min(of(figures, KINDS, "held")) > 0.85, name
        assert 0.92 < np.mean(of(figures, KINDS, "held")) < 0.985, name
        # A figure near its bound or over a small room is skewed; the median tells whether noise is counted twice.
        assert 0.9 < np.median(of(figures, ("model", "null", "gain"), "width")) < 1.35, name
        assert of(figures, ("floor over perfect",), "floor") == pytest.approx([1, 1, 1], abs=0.08), name
    asked = of(found["the same people"], ("noise floor",), "held")
    assert min(asked) > 0.88, "the floor of the people who were asked"
