"""Files of feedback and survey targets become cells; a broken line is named."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from valuealign.errors import SignalError
from valuealign.population import ShareTable
from valuealign.signals import SIGNALS, Mark, collapse, read_binary, read_pairs, survey_cells
from valuealign.types import EVERYONE, Group, Item, Message, Option

REAL = Path(__file__).parents[2] / "shared" / "data" / "binary_feedback" / "kto_demo.jsonl"
GOOD: dict[str, Any] = {"prompt": "Help?", "completion": "Yes.", "label": True}
PAIR: dict[str, Any] = {"prompt": "Help?", "chosen": "Yes.", "rejected": "No."}


def write(folder: Path, *rows: Any) -> Path:
    path = folder / "rows.jsonl"
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def mark(prompt: str, completion: str, label: bool, weight: float = 1.0) -> Mark:
    return Mark((Message("user", prompt),), completion, label, weight)


def test_collapse_is_exact() -> None:
    rng = np.random.default_rng(0)
    marks = [
        mark(f"p{rng.integers(4)}", f"y{rng.integers(3)}", bool(rng.integers(2)), float(rng.uniform(0, 2)))
        for _ in range(500)
    ]
    table = {(p, y, d): rng.normal() for p in range(4) for y in range(3) for d in (True, False)}

    def loss(prompt: str, completion: str, label: bool) -> float:
        return float(table[int(prompt[1:]), int(completion[1:]), label])

    cells = collapse(marks, source="test")
    over_rows = sum(m.weight * loss(m.prompt[0].content, m.completion, m.label) for m in marks)
    over_cells = sum(
        mass * loss(cell.prompt[0].content, completion, label)
        for cell in cells
        for label, masses in ((True, cell.desirable), (False, cell.undesirable))
        for completion, mass in zip(cell.completions, masses, strict=True)
    )
    assert over_cells == pytest.approx(over_rows, rel=1e-12)
    assert len(cells) == 4 and all(len(cell.completions) == 3 for cell in cells)  # 500 rows, 12 branches
    assert sum(cell.mass for cell in cells) == pytest.approx(sum(m.weight for m in marks))


def test_the_same_answer_may_be_both() -> None:
    (cell,) = collapse([mark("p", "y", True, 2), mark("p", "y", False, 0.5), mark("p", "y", True)], source="test")
    assert (cell.desirable, cell.undesirable, cell.closed) == ((3.0,), (0.5,), False)
    assert cell.n_eff == pytest.approx(3.5**2 / (4 + 0.25 + 1))


def test_binary_reads_text_and_chats(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Help?"}]
    answer = [{"role": "assistant", "content": "No."}]
    cells = read_binary(
        write(
            tmp_path,
            GOOD,
            "",
            GOOD,
            {**GOOD, "label": False, "completion": "Never."},
            {"prompt": chat, "completion": answer, "label": False, "weight": 2},
        )
    )
    assert [(c.completions, c.desirable, c.undesirable) for c in cells] == [
        (("Yes.", "Never."), (2.0, 0.0), (0.0, 1.0)),
        (("No.",), (0.0,), (2.0,)),
    ]
    assert cells[1].prompt == (Message("system", "Be brief."), Message("user", "Help?"))
    assert cells[0].source == "binary:rows.jsonl"  # no machine path


def test_a_text_may_hold_any_separator_but_a_line_feed(tmp_path: Path) -> None:
    odd = "one\u2028two\x0bthree"
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({**GOOD, "completion": odd}, ensure_ascii=False) + "\r\n", newline="")
    assert read_binary(path)[0].completions == (odd,)


@pytest.mark.skipif(not REAL.exists(), reason="the shared data folder is not there")
def test_binary_on_real_feedback() -> None:
    cells = read_binary(REAL)
    assert sum(sum(cell.desirable) for cell in cells) == 150
    assert sum(sum(cell.undesirable) for cell in cells) == 150
    assert all(cell.prompt[-1].role == "user" for cell in cells)
    rows = [json.loads(line) for line in REAL.read_text(encoding="utf-8").splitlines()]
    assert {c for cell in cells for c in cell.completions} == {row["completion"][0]["content"] for row in rows}


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("{", "not valid JSON"),
        ("[1]", "no JSON object"),
        ({"prompt": "a", "completion": "b"}, "'label' is missing"),
        ({"prompt": "a", "completoin": "b", "label": True}, "did you mean 'completoin'"),
        ({**GOOD, "label": 1}, "not true or false"),
        ({**GOOD, "label": "true"}, "not true or false"),
        ({**GOOD, "completion": "  "}, "not empty"),
        ({**GOOD, "completion": 3}, "must be text"),
        ({**GOOD, "completion": [{"role": "user", "content": "x"}]}, "one assistant turn"),
        ({**GOOD, "prompt": ""}, "'prompt' must be"),
        ({**GOOD, "prompt": []}, "user's turn"),
        ({**GOOD, "prompt": [{"role": "assistant", "content": "x"}]}, "user's turn"),
        ({**GOOD, "prompt": [{"role": "bot", "content": "x"}]}, "malformed"),
        ({**GOOD, "weight": -1}, "not a number >= 0"),
        ({**GOOD, "weight": True}, "not a number >= 0"),
        ('{"prompt": "a", "completion": "b", "label": true, "weight": NaN}', "not a number >= 0"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, bad: Any, says: str) -> None:
    with pytest.raises(SignalError, match="rows.jsonl, line 2") as error:
        read_binary(write(tmp_path, GOOD, bad))
    assert says in str(error.value) and error.value.mend


def test_a_missing_or_empty_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SignalError, match="cannot read"):
        read_binary(tmp_path / "none.jsonl")
    with pytest.raises(SignalError, match="no rows"):
        read_binary(write(tmp_path, ""))
    (tmp_path / "latin.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SignalError, match="UTF-8"):
        read_pairs(tmp_path / "latin.jsonl")


def test_pairs_stay_apart_and_equal_ones_collapse(tmp_path: Path) -> None:
    cells = read_pairs(write(tmp_path, PAIR, {**PAIR, "weight": 0.5}, {**PAIR, "chosen": "Sure."}))
    assert [(c.completions, c.desirable, c.undesirable) for c in cells] == [
        (("Yes.", "No."), (1.5, 0.0), (0.0, 1.5)),
        (("Sure.", "No."), (1.0, 0.0), (0.0, 1.0)),
    ]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({**PAIR, "rejected": "Yes."}, "same text"),
        ({"prompt": "a", "chosen": "b"}, "'rejected' is missing"),
        ({**PAIR, "weight": -0.1}, "'weight'"),
    ],
)
def test_a_broken_pair_is_named(tmp_path: Path, bad: Any, says: str) -> None:
    with pytest.raises(SignalError, match=r"line 1") as error:
        read_pairs(write(tmp_path, bad))
    assert says in str(error.value)


@pytest.fixture
def table() -> ShareTable:
    items = (
        Item(
            "q1", "How important?", tuple(Option(k, text, float(k)) for k, text in enumerate(("not", "some", "very")))
        ),
        Item("q2", "Which?", (Option(0, "red"), Option(1, "blue")), ordinal=False),
    )
    women = Group((("sex", "f"),), "a woman")
    shares = np.array([[[0.2, 0.3, 0.5], [0.25, 0.75, np.nan]], [[0.1, 0.0, 0.9], [np.nan] * 3]])
    return ShareTable(items, (EVERYONE, women), shares, np.array([[9, 9], [4, 0]]), np.array([[8.0, 8.0], [3.0, 0.0]]))


def test_survey_cells(table: ShareTable) -> None:
    women = table.groups[1]
    cells = survey_cells(table, [("q1", women), ("q2", EVERYONE), ("q2", women)])
    assert len(cells) == 2  # no woman answered q2: no target
    assert cells[0].desirable == (0.1, 0.0, 0.9) and cells[0].undesirable == (0, 0, 0)
    assert (cells[0].closed, cells[0].n_eff, cells[0].group, cells[0].source) == (True, 3.0, "sex=f", "survey:q1")
    assert cells[0].positions == (0, 1, 2) and cells[1].positions == ()
    assert "a woman" in cells[0].prompt[0].content and cells[1].prompt[0].role == "user"
    assert cells[1].completions == ("red", "blue")


def test_others_are_what_people_did_not_choose(table: ShareTable) -> None:
    (cell,) = survey_cells(table, [("q1", EVERYONE)], undesirable="others")
    assert cell.undesirable == pytest.approx((0.4, 0.35, 0.25)) and math.isclose(sum(cell.undesirable), 1)


def test_every_signal_is_callable_and_named() -> None:
    assert {"targets", "binary", "pairs", "feedback"} <= set(SIGNALS)
    assert all(callable(make) for make in SIGNALS.values())
