"""The same rows through TRL's trainers and through ours: losses and gradients of each optimizer step.

Neither side moves its weights, so every step sees the same policy. As a script it is one of two gloo
ranks (test_trl_parity): both sides one after the other, the outcome in OUT.

python tests/trl_side.py RANK WORLD PORT FOLDER OUT
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from valuealign.config import KtoConfig, TrainConfig
from valuealign.engine import LocalEngine, score_all
from valuealign.learner import Stage, Term, kto_term, learn
from valuealign.models.score import CellModel
from valuealign.prompts import prompt_text, render, turn
from valuealign.types import Cell

BETA, DESIRABLE_WEIGHT, UNDESIRABLE_WEIGHT = 0.3, 1.3, 0.7
ROWS, ACCUMULATION = 4, 2  # rows of a micro-batch, micro-batches of an optimizer step


class Steps(NamedTuple):
    """Of each optimizer step the loss and every trainable parameter's gradient; z0 and token ids of what was seen.

    ``seen`` holds (prompt, completion, mismatched completion) as token ids, in the order of TRL's batches.
    """

    losses: list[float]
    gradients: list[dict[str, Tensor]]
    z0: list[float]
    seen: list[tuple[list[int], list[int], list[int]]]


def policy(folder: Path, *, lora: bool, moved: float) -> Any:
    """The checkpoint ``moved`` away from itself, the reference: all its weights, or B of a LoRA adapter."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    if lora:
        torch.manual_seed(3)
        model = get_peft_model(model.requires_grad_(False), lora_config())
    move(model, moved)
    return model


def lora_config() -> LoraConfig:
    return LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")


def move(model: Any, by: float) -> None:
    """Shift the weights that train (of an adapter: B alone, which is 0 at its start), the same way every time."""
    rng = torch.Generator().manual_seed(5)  # z0 of some micro-batches is then above 0, of others clamped
    adapter = any("lora_" in name for name, _ in model.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and (not adapter or "lora_B" in name):
                parameter += by * torch.randn(parameter.shape, generator=rng)


def by_name(gradients: Iterable[tuple[str, Tensor | None]]) -> dict[str, Tensor]:
    """Gradients under the names that both sides have."""
    return {name.split("module.")[-1]: g.detach().clone() for name, g in gradients if g is not None}


class Still(torch.optim.SGD):
    """An optimizer that keeps the gradients it is given and moves nothing."""

    def __init__(self, model: Any) -> None:
        super().__init__([p for p in model.parameters() if p.requires_grad], lr=0.0)
        self.model, self.gradients = model, list[dict[str, Tensor]]()

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.gradients.append(by_name((n, p.grad) for n, p in self.model.named_parameters() if p.requires_grad))


def by_trl(
    trainer: type, config: type, folder: Path, out: Path, rows: Sequence[dict[str, Any]], *,
    steps: int, lora: bool, moved: float, **settings: Any,
) -> Steps:  # fmt: skip
    """Train with a trainer of TRL: the reference is the checkpoint, with LoRA its own adapter switched off."""
    from datasets import Dataset

    args = config(
        output_dir=str(out), max_steps=steps, per_device_train_batch_size=ROWS,
        gradient_accumulation_steps=ACCUMULATION, max_grad_norm=0.0, bf16=False, use_cpu=True,
        gradient_checkpointing=False, max_length=512, report_to=[], save_strategy="no", logging_strategy="no",
        disable_tqdm=True, dataloader_pin_memory=False, seed=0, **settings,
    )  # fmt: skip
    model = policy(folder, lora=False, moved=0.0 if lora else moved)
    reference = None if lora else policy(folder, lora=False, moved=0.0)
    losses, z0, seen = list[float](), list[float](), []

    class Watched(trainer):  # type: ignore[misc, valid-type]
        def compute_loss(self, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
            loss = super().compute_loss(model, inputs, *rest, **named)
            losses.append(float(loss))
            z0.extend(self._metrics["train"].get("kl", [])[-1:])
            seen.extend(_seen(inputs))
            return loss

    made = Watched(
        model=model, ref_model=reference, args=args, train_dataset=Dataset.from_list(list(rows)),
        processing_class=AutoTokenizer.from_pretrained(folder), peft_config=lora_config() if lora else None,
    )  # fmt: skip
    if lora:
        same = dict(policy(folder, lora=True, moved=moved).named_parameters())
        with torch.no_grad():
            for name, parameter in made.model.named_parameters():
                parameter.copy_(same[name])  # of a fresh adapter A is random, and B is 0
    still = Still(made.model)
    made.optimizer, made.lr_scheduler = still, torch.optim.lr_scheduler.ConstantLR(still)
    made.train()
    per_step = np.array(losses).reshape(steps, ACCUMULATION).mean(axis=1).tolist()
    return Steps(per_step, still.gradients, z0, seen)


def _seen(inputs: dict[str, Tensor]) -> list[tuple[list[int], list[int], list[int]]]:
    """The batch's rows without padding (for DPO: chosen completions, then rejected ones)."""
    found = []
    for at in range(len(inputs["input_ids"])):
        parts = []
        for prefix in ("", "KL_") if "KL_input_ids" in inputs else ("",):
            ids = inputs[f"{prefix}input_ids"][at][inputs[f"{prefix}attention_mask"][at].bool()].tolist()
            answer = int(inputs[f"{prefix}completion_mask"][at].sum())
            parts += [ids[:-answer], ids[-answer:]]
        assert parts[0] == parts[-2], "a mismatched completion follows the row's own prompt"
        found.append((parts[0], parts[1], parts[-1]))
    return found


def by_us(
    folder: Path, term: Term, *, steps: int, per_step: int, lora: bool, moved: float,
    token_budget: int = 4096, make: Callable[..., Any] | None = None,
) -> Steps:  # fmt: skip
    """The learner's own steps on the term, with an engine that keeps the gradients and moves nothing."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    pad_id = tokenizer.pad_token_id
    stage = Stage("parity", (term,), steps * per_step / len(term.cells), 1.0, per_step)
    rendered = [render(cell, tokenizer) for cell in stage.referenced]
    still = CellModel(policy(folder, lora=False, moved=0.0).eval())
    scorer = LocalEngine(still, pad_id=pad_id)
    form: dict[str, Any] = {"pad_id": pad_id, "packed": True}
    reference = score_all(scorer, rendered, token_budget=token_budget, **form)
    engine = (make or Keeping)(CellModel(policy(folder, lora=lora, moved=moved).eval()), pad_id)
    reports = list(
        learn(engine, stage, tokenizer, train=TrainConfig(token_budget=token_budget), reference=reference, **form)
    )
    assert len(reports) == steps
    z0 = [report.stats.get("z0", 0.0) for report in reports]
    return Steps([report.loss for report in reports], engine.gradients, z0, [])


class Keeping(LocalEngine):
    """One process that keeps the gradients and moves nothing."""

    def __init__(self, model: CellModel, pad_id: int) -> None:
        super().__init__(model, pad_id=pad_id)
        self.gradients = list[dict[str, Tensor]]()

    def step(self, learning_rate: float) -> float:
        trained = [(n.removeprefix("model."), p) for n, p in self.model.named_parameters() if p.requires_grad]
        self.gradients.append(by_name((name, p.grad) for name, p in trained))
        for _, parameter in trained:
            parameter.grad = None
        return 0.0


def kto_rows(cells: Sequence[Cell], folder: Path) -> list[dict[str, Any]]:
    """Cells of one completion with one label as TRL's unpaired rows, an answer beginning as the template begins one."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    return [
        {
            "prompt": prompt_text(c.prompt, tokenizer),
            "completion": turn(tokenizer).opening + c.completions[0],
            "label": c.desirable[0] > 0,
        }
        for c in cells
    ]


def parity_term(cells: Sequence[Cell]) -> Term:
    return kto_term(
        cells,
        KtoConfig(z0="parity", parity_rows=ROWS, beta=BETA, lambda_d=DESIRABLE_WEIGHT, lambda_u=UNDESIRABLE_WEIGHT),
    )


def kto_by_trl(folder: Path, out: Path, cells: Sequence[Cell], *, steps: int, lora: bool, moved: float) -> Steps:
    from trl import KTOConfig, KTOTrainer

    return by_trl(
        KTOTrainer, KTOConfig, folder, out, kto_rows(cells, folder), steps=steps, lora=lora, moved=moved,
        beta=BETA, desirable_weight=DESIRABLE_WEIGHT, undesirable_weight=UNDESIRABLE_WEIGHT,
    )  # fmt: skip


def main() -> None:
    rank, world, port, folder, out = sys.argv[1:]
    os.environ |= {
        "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world,
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "DS_ACCELERATOR": "cpu",
    }  # fmt: skip
    torch.set_num_threads(1)
    import torch.distributed as dist
    from test_trl_parity import two_rank_rows

    from valuealign.cluster.deepspeed_engine import DeepSpeedEngine

    class KeepingRanks(DeepSpeedEngine):
        def __init__(self, model: CellModel, pad_id: int) -> None:
            super().__init__(
                model, pad_id=pad_id, zero=2, clip=1e9, optimizer=lambda ps: torch.optim.SGD(list(ps), lr=0.0)
            )
            self.gradients = list[dict[str, Tensor]]()

        def step(self, learning_rate: float) -> float:
            trained = [(n.removeprefix("model."), p) for n, p in self.model.named_parameters() if p.requires_grad]
            before = [p.detach().clone() for _, p in trained]
            norm = super().step(1e3)  # far, so that next to the move the weights' own rounding is nothing
            self.gradients.append(by_name((n, (b - p) / 1e3) for (n, p), b in zip(trained, before, strict=True)))
            return norm

    cells = two_rank_rows()
    theirs = kto_by_trl(Path(folder), Path(out) / f"trl{rank}", cells, steps=1, lora=False, moved=0.02)
    ours = by_us(
        Path(folder), parity_term(cells), steps=1, per_step=len(cells), lora=False, moved=0.02, make=KeepingRanks
    )
    torch.save({"trl": theirs._asdict(), "ours": ours._asdict()}, Path(out) / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
