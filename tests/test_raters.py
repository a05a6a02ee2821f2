"""Raters: one person is one voice, and stands for as many people as the margins say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from valuealign.config import load
from valuealign.errors import ConfigError, SignalError, ValuealignError, WeightingError
from valuealign.signals import Mark, behaviour_parts, collapse, read_feedback
from valuealign.types import Message


def write(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def margins(folder: Path, *lines: str) -> Path:
    path = folder / "margins.csv"
    path.write_text("\n".join(["trait,level,share", *lines]) + "\n")
    return path


def row(rater: str | None, label: bool = True, prompt: str = "p", **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "completion": "y", "label": label, "rater": rater, **more}


def test_rows_of_one_rater_count_once() -> None:
    prompt = (Message("user", "p"),)
    rows = [("a", 1.0), ("a", 1.0), ("a", 2.0), ("b", 2.0), (None, 1.0), (None, 1.0)]
    (cell,) = collapse([Mark(prompt, f"y{n}", True, w, r) for n, (r, w) in enumerate(rows)], source="test")
    assert cell.mass == 8.0
    assert cell.n_eff == pytest.approx(8**2 / (4**2 + 2**2 + 1 + 1)), "a 4, b 2, and two who are not named"


def test_pairs_count_raters_too(tmp_path: Path) -> None:
    pair = {"prompt": "p", "chosen": "a", "rejected": "b"}
    rows = [{**pair, "rater": "x"}, {**pair, "rater": "x"}, {**pair, "rater": "y"}]
    (cell,) = read_feedback(write(tmp_path, rows)).cells
    assert cell.desirable == (3.0, 0.0) and cell.n_eff == pytest.approx(3**2 / (2**2 + 1))


def test_tiny_weights_are_worth_as_much_as_large_ones(tmp_path: Path) -> None:
    rows = [row("a", weight=1e-200), row("b", weight=3e-200), row("c", weight=0.0)]
    (cell,) = read_feedback(write(tmp_path, rows)).cells
    assert cell.n_eff == pytest.approx(4**2 / (1 + 3**2))


def test_one_margin_by_hand(tmp_path: Path) -> None:
    """Three women and a man where half are men: women weigh 2/3, the man 2; their own weights multiply these."""
    traits = [{"sex": "f"}, {"sex": "f"}, {"sex": "f"}, {"sex": "m"}]
    rows = [row(f"r{n}", n < 3, traits=has) for n, has in enumerate(traits)] + [row("r0", False, weight=3)]
    found = read_feedback(write(tmp_path, rows), margins=margins(tmp_path, "sex,f,0.5", "sex,m,0.5"))
    (cell,) = found.cells
    assert cell.desirable == pytest.approx((3 * 2 / 3,))
    assert cell.undesirable == pytest.approx((2 + 3 * 2 / 3,))
    each = [4 * 2 / 3, 2 / 3, 2 / 3, 2]  # r0 has two rows, of weight 1 and 3
    assert cell.n_eff == pytest.approx(sum(each) ** 2 / sum(w * w for w in each))
    deff = 4 * (3 * (2 / 3) ** 2 + 2**2) / 4**2
    assert f"design effect {deff:.3f}" in found.facts["feedback raters weighted"]
    assert "largest gap 25.00 points before, 0.00 after" in found.facts["feedback raters weighted"]
    assert found.facts["feedback"] == "5 marked answers to 1 prompts; weighted n_d 2, n_u 4"
    assert found.facts["feedback raters"].startswith("4; design effect")


def test_two_margins_by_hand(tmp_path: Path) -> None:
    """One rater in each of four cells: the raked weights are products of the margins, times four."""
    raters = {"a": ("f", "old"), "b": ("f", "young"), "c": ("m", "old"), "d": ("m", "young")}
    rows = [row(who, prompt=who, traits={"sex": sex, "age": age}) for who, (sex, age) in raters.items()]
    known = margins(tmp_path, "sex,f,0.6", "sex,m,0.4", "age,old,0.7", "age,young,0.3")
    cells = read_feedback(write(tmp_path, rows), margins=known).cells
    assert [cell.mass for cell in cells] == pytest.approx([4 * 0.42, 4 * 0.18, 4 * 0.28, 4 * 0.12])


def test_no_rater_outweighs_the_trim(tmp_path: Path) -> None:
    raters = [(f"r{n}", "m" if n == 0 else "f", "old" if n % 2 else "young") for n in range(12)]
    rows = [row(who, prompt=who, traits={"sex": sex, "age": age}) for who, sex, age in raters]
    known = margins(tmp_path, "sex,f,0.5", "sex,m,0.5")
    assert read_feedback(write(tmp_path, rows), margins=known, trim=None).cells[0].mass == pytest.approx(6.0)
    with pytest.raises(WeightingError, match="no weight above 5 times the mean"):
        read_feedback(write(tmp_path, rows), margins=known)


def test_traits_in_columns_and_a_joint_margin(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("prompt,completion,label,rater,sex,age\np1,y,1,1,f,18-34\np2,y,1,1,f,\np3,y,0,2, m ,35+\n")
    known = margins(tmp_path, "sex & age,f & 18-34,0.25", "sex & age,m & 35+,0.75")
    found = read_feedback(path, margins=known, traits=("sex", "age"))
    assert [cell.mass for cell in found.cells] == pytest.approx([0.5, 0.5, 1.5]), "a rater's empty field is no level"
    assert "feedback fields not used" not in found.facts
    assert read_feedback(path).facts["feedback fields not used"] == "sex, age"
    with pytest.raises(SignalError, match="no row has the column 'sexx'") as caught:
        read_feedback(path, margins=known, traits=("sexx",))
    assert "did you mean 'sex'" in caught.value.mend


def test_a_row_of_no_weight_says_nothing_of_the_raters(tmp_path: Path) -> None:
    rows = [row("a", traits={"sex": "f"}), row("b", traits={"sex": "m"}), row("c", traits={"sex": "x"}, weight=0)]
    (cell,) = read_feedback(write(tmp_path, rows), margins=margins(tmp_path, "sex,f,0.25", "sex,m,0.75")).cells
    assert cell.desirable == pytest.approx((2.0,))


@pytest.mark.parametrize(
    ("last", "kind", "says"),
    [
        (row("b", traits={"sex": "x"}), WeightingError, "respondent b has sex 'x', which has no margin"),
        (row("b"), WeightingError, "respondent b has an unknown sex"),
        (row("a", traits={"sex": "m"}), SignalError, "rater a has sex 'm', and 'f' at"),
        (row(None, traits={"sex": "m"}), SignalError, "'rater' is missing"),
        (row("b", traits={"sex": True}), SignalError, "'sex' is true"),
        (row("b", traits=["m"]), SignalError, "'traits' is .*, no object"),
    ],
)
def test_raters_that_do_not_fit_are_named(
    tmp_path: Path, last: dict[str, Any], kind: type[ValuealignError], says: str
) -> None:
    path = write(tmp_path, [row("a", traits={"sex": "f"}), row("c", traits={"sex": "m"}), last])
    with pytest.raises(kind, match=says) as caught:
        read_feedback(path, margins=margins(tmp_path, "sex,f,0.5", "sex,m,0.5"))
    assert ("rows.jsonl, line 3" if kind is SignalError else "margins.csv, line") in caught.value.where
    assert caught.value.mend


def test_a_level_that_nobody_has_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, [row("a", traits={"sex": "f"}), row("b", traits={"sex": "male"})])
    with pytest.raises(WeightingError, match="no respondent has sex 'm'") as caught:
        read_feedback(path, margins=margins(tmp_path, "sex,f,0.5", "sex,m,0.5"))
    assert "margins.csv, line 3" in caught.value.where and "male" in caught.value.mend


def test_a_margin_of_no_trait_is_named(tmp_path: Path) -> None:
    for trait in ("gender", "person", "weight", "wave"):
        rows = [row("a", traits={"sex": "f", "wave": "1", "person": "a", "weight": "2"})]
        with pytest.raises(WeightingError, match=f"no trait '{trait}'"):
            read_feedback(write(tmp_path, rows), margins=margins(tmp_path, f"{trait},f,1"))


@pytest.mark.parametrize(
    ("overrides", "where", "mend"),
    [
        (["feedback.rater_margins=margins.csv"], "feedback.rater_margins", "feedback.file"),
        (["feedback.file=rows.csv", "feedback.rater_traits=sex"], "feedback.rater_traits", "feedback.rater_margins"),
    ],
)
def test_the_keys_need_each_other(overrides: list[str], where: str, mend: str) -> None:
    nobody = cast(Any, None)
    with pytest.raises(ConfigError) as caught:
        behaviour_parts(load(None, overrides), nobody, nobody, nobody)
    assert caught.value.where == where and mend in caught.value.mend
