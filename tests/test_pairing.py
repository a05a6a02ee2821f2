"""What z0 reads: branches that cost no gradient, and TRL's rotation gathered into shared prompts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from tiny import behaviour_cells, make_tiny, survey_cells

from valuealign.cluster.build import build
from valuealign.config import KtoConfig, ModelConfig
from valuealign.learner import Stage, kto_term, mismatched_cells
from valuealign.models.load import Base
from valuealign.models.score import CellModel
from valuealign.packing import Row, collate
from valuealign.pairing import borrowed, lend, lent, own, rotate, rotated, rows_of
from valuealign.prompts import render
from valuealign.types import Cell, Message


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Base, CellModel]:
    base, model = build(
        ModelConfig(path=str(make_tiny(tmp_path_factory.mktemp("model"))), lora_r=4), seed=0, start=None
    )
    with torch.no_grad():  # a fresh adapter adds nothing: give it something to say
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.2)
    return base, model


def borrowing(base: Base) -> list[Row]:
    """Rows of which the last borrows an empty completion (nothing but EOS)."""
    cells = behaviour_cells(4)
    rows = [Row(render(c, base.tokenizer)) for c in cells]
    pairs = [Row(render(c, base.tokenizer)) for c in mismatched_cells(cells)]
    nothing = Cell(cells[3].prompt, ("",), (1.0,), (0.0,))
    return [lend(r, p) for r, p in zip(rows, [*pairs[:3], Row(render(nothing, base.tokenizer))], strict=True)]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_borrowed_branches_score_alike_and_take_no_gradient(tiny: tuple[Base, CellModel], checkpointing: bool) -> None:
    base, model = tiny
    rows = borrowing(base)
    reads = borrowed(rows, 1)
    kept = torch.ones(len(reads.group_2N[0]), dtype=torch.bool).index_fill(0, reads.branch_M, False)

    def gradients(loss: torch.Tensor) -> list[torch.Tensor]:
        model.zero_grad()
        loss.backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    alone = model(collate([own(r) for r in rows], pad_id=2))
    want = gradients((alone * torch.linspace(-1, 1, len(alone))).sum())
    with torch.no_grad():
        all_at_once = model(collate(rows, pad_id=2))
        lent_alone = model(collate([lent(r) for r in rows], pad_id=2))
    if checkpointing:
        model.causal.activation_checkpointing_enable()
        model.train()
    try:
        batch = collate(rows, pad_id=2)
        logp = model(batch)
        got = gradients((logp[kept] * torch.linspace(-1, 1, int(kept.sum()))).sum() + 5 * logp[reads.branch_M].sum())
    finally:
        model.eval()
        model.causal.activation_checkpointing_disable()
    assert batch.still.columns == max(len(lent(r).rendered.completion_ids[0]) for r in rows) - 1
    assert batch.still.scored == sum(len(lent(r).rendered.completion_ids[0]) for r in rows)
    assert batch.tokens == collate([own(r) for r in rows], pad_id=2).tokens
    torch.testing.assert_close(logp[kept], alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(logp[reads.branch_M], lent_alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(logp, all_at_once, atol=1e-5, rtol=0)
    for a, b in zip(got, want, strict=True):
        assert float((a - b).norm()) <= 1e-4 * float(b.norm())


def ask(n: int) -> tuple[Message, ...]:
    return (Message("user", f"question {n}"),)


def test_rows_keep_the_order_of_the_file() -> None:
    cells = [Cell(ask(0), ("a", "b"), (2.0, 0.0), (1.0, 3.0), closed=True), Cell(ask(1), ("c",), (0.0,), (0.5,))]
    rows = rows_of(cells)
    assert [(r.completions, r.desirable, r.undesirable, r.closed) for r in rows] == [
        (("a",), (2.0,), (0.0,), False),
        (("a",), (0.0,), (1.0,), False),
        (("b",), (0.0,), (3.0,), False),
        (("c",), (0.0,), (0.5,), False),
    ]


# (prompt, completion, desirable), in blocks of three: the last is short, and the first row comes twice.
FILE = [(0, "a", 1), (1, "b", 0), (0, "c", 1), (0, "a", 1), (2, "d", 0), (1, "a", 1), (0, "b", 0)]


def rotation_of(file: list[tuple[int, str, int]]) -> tuple[list[Cell], list[tuple[int, str, str, int]]]:
    """The rows as cells, and (prompt, completion, borrowed, block) as TRL pairs them."""
    cells = [Cell(ask(p), (text,), (float(d),), (float(1 - d),)) for p, text, d in file]
    pairs = []
    for start in range(0, len(file), 3):
        block = file[start : start + 3]
        pairs += [(p, text, block[i - 1][1], start // 3) for i, (p, text, _) in enumerate(block)]
    return cells, pairs


def test_a_row_borrows_from_the_row_before_it_in_its_block() -> None:
    cells, pairs = rotation_of(FILE)
    rotation = rotate(cells, 3)
    found = [
        (
            int(rotation.cells[m.cell].prompt[0].content[-1]),
            rotation.cells[m.cell].completions[m.branch],
            rotation.cells[m.cell].completions[m.borrows],
            b,
        )
        for b, block in enumerate(rotation.blocks)
        for m in block
    ]
    assert found == pairs
    assert len(rotation.cells) == 3 and all(len(set(c.completions)) == len(c.completions) for c in rotation.cells)


@pytest.mark.parametrize("ranks", [1, 2])
def test_gathered_rows_are_the_rows(tiny: tuple[Base, CellModel], ranks: int) -> None:
    """Each row once, with 1 / rows of its block as mass and weight, and the z0 of its micro-batch."""
    base, _ = tiny
    cells, pairs = rotation_of(FILE)
    rotation = rotate(cells, 3)
    wholes = [
        Row(render(c, base.tokenizer), tuple(-1.0 - k for k in range(len(c.completions)))) for c in rotation.cells
    ]
    found, reads = [], []
    for step in range(4):  # blocks 0 and 1, then 2 (an epoch's last step), then from the start
        rows = rotated(rotation, wholes, step=step, blocks=2, ranks=ranks)
        expected_at = [i for i, pair in enumerate(pairs) if pair[3] // 2 == step % 2]
        found = [
            (int(r.rendered.cell.prompt[0].content[-1]), text, label, round(mass, 9), groups[1 - label])
            for r in rows
            for text, d, u, groups in zip(
                r.rendered.cell.completions,
                r.rendered.cell.desirable,
                r.rendered.cell.undesirable,
                r.borrows.groups,
                strict=True,
            )
            for label, mass in ((1, d), (0, u))
            if mass
        ]
        reads = [
            (int(r.rendered.cell.prompt[0].content[-1]), r.rendered.cell.completions[branch], group, round(weight, 9))
            for r in rows
            for branch, group, weight in r.borrows.reads
        ]
        share = {block: round(1 / sum(p[3] == block for p in pairs), 9) for block in range(3)}
        group = {block: block % 2 // ranks for block in range(3)}
        assert sorted(found) == sorted(
            (FILE[i][0], FILE[i][1], FILE[i][2], share[pairs[i][3]], group[pairs[i][3]]) for i in expected_at
        )
        assert sorted(reads) == sorted(
            (pairs[i][0], pairs[i][2], group[pairs[i][3]], share[pairs[i][3]]) for i in expected_at
        )
        for r in rows:  # every branch keeps the tokens and the reference of its text
            whole = next(w for w in wholes if w.rendered.cell.prompt == r.rendered.cell.prompt)
            table = dict(
                zip(
                    whole.rendered.cell.completions,
                    zip(whole.rendered.completion_ids, whole.reference, strict=True),
                    strict=True,
                )
            )
            mine = zip(r.rendered.completion_ids, r.reference, strict=True)
            assert [table[text] for text in r.rendered.cell.completions] == list(mine)
            assert all(
                d == u == 0
                for d, u in list(zip(r.rendered.cell.desirable, r.rendered.cell.undesirable, strict=True))[
                    len(r.reference) - r.borrows.extra :
                ]
            )


@pytest.mark.parametrize(("rows", "per_step", "steps"), [(10, 8, 2), (8, 8, 1), (9, 4, 3), (3, 8, 1)])
def test_a_pass_in_blocks_sees_every_row_once(
    tiny: tuple[Base, CellModel], rows: int, per_step: int, steps: int
) -> None:
    base, _ = tiny
    cells = behaviour_cells(rows)
    term = kto_term(cells, KtoConfig(z0="parity", parity_rows=4, cells_per_step=8))
    term = replace(term, cells=term.cells[:rows])
    stage = Stage("kto", (term,), 1, 1.0, per_step)
    assert stage.steps == steps
    rotation = rotate(term.cells, 4)
    wholes = [Row(render(c, base.tokenizer), (0.0,) * len(c.completions)) for c in rotation.cells]
    seen = 0.0
    for step in range(stage.steps):
        for row in rotated(rotation, wholes, step=step, blocks=per_step // 4, ranks=1):
            seen += sum(weight for _, _, weight in row.borrows.reads) * 1.0
    assert seen == pytest.approx(len(rotation.blocks)), "each block weighs one"


def test_parity_takes_survey_cells_as_open_rows() -> None:
    term = kto_term(survey_cells(2), KtoConfig(z0="parity", parity_rows=4))
    assert term.parity_rows == 4 and not term.mismatched and len(term.cells) == 6
    assert not any(cell.closed for cell in term.cells)


@pytest.mark.parametrize("wrong", [{"z0": "parity"}, {"parity_rows": 8}, {"z0": "options", "parity_rows": 8}])
def test_parity_and_its_rows_go_together(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="go together"):
        KtoConfig(**wrong)
