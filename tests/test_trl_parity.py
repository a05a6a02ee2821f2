"""KTO and DPO are TRL's: loss and every parameter's gradient on the same rows, in single precision.

TRL runs its own training loop (its data preparation, its loader, its reference, its accumulation), ours
runs ``learn``. The policy stands away from the reference, so that r != 0, and z0 is above 0 in some
micro-batches and clamped at 0 in others.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tiny import QUESTIONS, make_tiny
from transformers import AutoTokenizer
from trl_side import (
    ACCUMULATION,
    ROWS,
    Steps,
    by_trl,
    by_us,
    kto_by_trl,
    parity_term,
)

from valuealign.learner import Term
from valuealign.prompts import prompt_text, render, turn
from valuealign.types import Cell, Message

TOLERANCE = 1e-5  # norm of the difference over norm, of each parameter
ANSWERS = ("Be kind to all.", "Win at any cost.", "Wait and see.", "No.", "It depends on whom you ask, and when.")


pytestmark = pytest.mark.ray  # TRL's import, its training loops and two ranks take a while


def prompt(n: int) -> tuple[Message, ...]:
    return (Message("user", f"{QUESTIONS[n % 5]} Say more. {'Really. ' * (n % 3)}{n}"),)


def row(n: int, answer: int, label: bool) -> Cell:
    return Cell(prompt(n), (ANSWERS[answer % 5],), (float(label),), (float(not label),))


# Two steps of two micro-batches of four rows: labels 3 to 1, all desirable, 1 to 3, all undesirable. Rows 2
# and 3 share a prompt, and rows 9 and 10 a prompt and a completion.
LABELS = (True, True, False, True, True, True, True, True, False, True, False, False, False, False, False, False)
KTO_ROWS = [row(2 if n == 3 else 9 if n == 10 else n, 9 if n == 10 else n, label) for n, label in enumerate(LABELS)]


def two_rank_rows() -> list[Cell]:
    """Two micro-batches on each of two ranks, in turn: the first rank sees no undesirable answer in all of the step."""
    labels = [True] * 4 + [False, True, False, False] + [True] * 4 + [False] * 4
    return [row(n, n // 2, label) for n, label in enumerate(labels)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("parity") / "model")


def assert_equal(ours: Steps, theirs: Steps) -> None:
    assert len(ours.losses) == len(theirs.losses) == len(ours.gradients) == len(theirs.gradients)
    assert ours.losses == pytest.approx(theirs.losses, rel=1e-5)
    for mine, other in zip(ours.gradients, theirs.gradients, strict=True):
        assert mine.keys() == other.keys() and mine
        for name, gradient in other.items():
            off, norm = float((mine[name] - gradient).norm()), float(gradient.norm())
            assert off <= TOLERANCE * norm if norm > 0 else off == 0, (name, off, norm)


def assert_same_tokens(theirs: Steps, rows: Sequence[Cell], folder: Path) -> None:
    """TRL saw the token ids that we render, each row with the completion of the row before it in its block."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rendered = [render(cell, tokenizer) for cell in rows]
    expected = []
    for start in range(0, len(rows), ROWS):
        block = rendered[start : start + ROWS]
        expected += [
            (list(r.prompt_ids), list(r.completion_ids[0]), list(block[i - 1].completion_ids[0]))
            for i, r in enumerate(block)
        ]
    assert theirs.seen == expected


Z0 = {"some clamped": lambda z0: min(z0) == 0 < max(z0), "all clamped": lambda z0: max(z0) == 0}


@pytest.mark.parametrize(
    ("lora", "moved", "z0"),
    [(False, 0.02, "some clamped"), (False, 0.3, "all clamped"), (True, 0.05, "some clamped")],
    ids=["full", "full far away", "lora"],
)
def test_kto_is_trls(model: Path, tmp_path: Path, lora: bool, moved: float, z0: str) -> None:
    theirs = kto_by_trl(model, tmp_path, KTO_ROWS, steps=2, lora=lora, moved=moved)
    assert_same_tokens(theirs, KTO_ROWS, model)
    assert Z0[z0](theirs.z0), theirs.z0
    for budget in (4096, 150):  # z0 from the pass that is trained on; and beforehand, in several micro-batches
        form = {"lora": lora, "moved": moved, "token_budget": budget}
        ours = by_us(model, parity_term(KTO_ROWS), steps=2, per_step=ROWS * ACCUMULATION, **form)
        assert_equal(ours, theirs)
        # A difference of log-probabilities near -100: single precision leaves some 1e-5.
        assert ours.z0 == pytest.approx([sum(theirs.z0[i : i + 2]) / 2 for i in (0, 2)], abs=3e-5)


def test_at_the_reference_the_same_gradients_are_zero(model: Path, tmp_path: Path) -> None:
    """A fresh adapter: B is 0, so that r and z0 are 0, and no gradient reaches A, on either side."""
    theirs = kto_by_trl(model, tmp_path, KTO_ROWS[:8], steps=1, lora=True, moved=0.0)
    ours = by_us(model, parity_term(KTO_ROWS[:8]), steps=1, per_step=8, lora=True, moved=0.0)
    zero = {name for name, gradient in theirs.gradients[0].items() if not gradient.any()}
    assert zero == {name for name in theirs.gradients[0] if "lora_A" in name}
    assert_equal(ours, theirs)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_dpo_is_trls(model: Path, tmp_path: Path, lora: bool) -> None:
    from trl import DPOConfig, DPOTrainer

    cells = [
        Cell(prompt(n), (ANSWERS[n % 5], ANSWERS[(n * 3 + 1) % 5]), (1.0, 0.0), (0.0, 1.0))
        for n in (0, 1, 3, 4, 5, 6, 8, 9)
    ]
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = [
        {"prompt": prompt_text(c.prompt, tokenizer)}
        | {
            name: turn(tokenizer).opening + text
            for name, text in zip(("chosen", "rejected"), c.completions, strict=True)
        }
        for c in cells
    ]
    theirs = by_trl(DPOTrainer, DPOConfig, model, tmp_path, rows, steps=1, lora=lora, moved=0.05, beta=0.1)
    rendered = [render(cell, tokenizer) for cell in cells]
    expected = [(list(r.prompt_ids), list(ids)) for r in rendered for ids in r.completion_ids]
    assert sorted((prompt, answer) for prompt, answer, _ in theirs.seen) == sorted(expected)
    term = Term("pairs", "dpo", tuple(cells), {"beta": 0.1}, weigh="mass")
    assert_equal(by_us(model, term, steps=1, per_step=len(cells), lora=lora, moved=0.05), theirs)


def test_two_ranks_with_a_class_absent_are_trls_two(model: Path, tmp_path: Path) -> None:
    """Two gloo ranks of TRL (DDP) against two of DeepSpeed (ZeRO 2); z0 is the mean over the ranks, then clamped."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    command = [sys.executable, str(Path(__file__).parent / "trl_side.py")]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), "2", port, str(model), str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [rank.communicate(timeout=270)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(outputs)
    sides = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    theirs, ours = ([Steps(**side[name]) for side in sides] for name in ("trl", "ours"))
    blocks = [two_rank_rows()[i : i + ROWS] for i in range(0, 16, ROWS)]
    for rank in range(2):  # TRL's ranks take the blocks in turn
        assert_same_tokens(theirs[rank], [row for block in blocks[rank::2] for row in block], model)
        assert theirs[rank].gradients[0].keys() == ours[rank].gradients[0].keys()
    both = theirs[0]._replace(losses=[sum(t.losses[0] for t in theirs) / 2])
    assert max(both.z0) > 0 and both.z0 == theirs[1].z0
    for rank in range(2):
        assert_equal(ours[rank], both)
