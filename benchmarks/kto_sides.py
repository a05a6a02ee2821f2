"""The two sides of kto_vs_trl.py, each run in a process of its own: KTO by valuealign, and by TRL's KTOTrainer.

A job is a folder with ``model/`` (a checkpoint), ``distinct.json`` and ``feedback.json`` (rows: cells of one
completion with one label), ``people.json`` (cells with the respondents' masses), ``answers.json`` (respondents'
own rows, as many as TRL will see), and ``select.json`` and ``report.json`` (cells that neither side trains on).
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from machine import GIB, peak_gib

from valuealign.config import DistributionConfig, KtoConfig, TrainConfig
from valuealign.engine import LocalEngine, score_all
from valuealign.learner import Stage, distribution_term, kto_term, learn
from valuealign.metrics.distances import jsd_bits, softmax
from valuealign.models.adapters import add_adapter
from valuealign.models.load import load_base
from valuealign.models.score import CellModel
from valuealign.packing import Row
from valuealign.pairing import own, rotate, rotated, rows_of
from valuealign.prompts import prompt_text, render, turn
from valuealign.types import Cell, Message, Rendered

BETA, LAMBDA_D, LAMBDA_U = 0.1, 3.0, 1.0  # of four options one is chosen: the rule on lambdas holds
BLOCK = 8  # TRL's default per_device_train_batch_size
LORA = {"r": 16, "alpha": 32.0}
# When a model is looked at, as shares of the time: doubling, since one side may be nearest early and the other late.
MARKS = (0.0, *(2.0**-k for k in range(9, -1, -1)))
WARM = 8  # rows that are scored before a reference's pass is timed, on both sides


@dataclass(frozen=True)
class Job:
    """One side's work. So many ``rows`` make an optimizer step, and ``cells`` one of ours where rows are collapsed."""

    side: str  # ours, default or tuned
    tune: str  # lora or full
    seconds: float  # measured for each rate, at least
    wall: float  # of each run for distance
    rows: int
    feedback_rows: int
    cells: int
    rates: tuple[float, ...]  # tried for distance; the first is that of every other run
    token_budget: int
    device: str = "cpu"
    dtype: str = "float32"


def write(path: Path, cells: Iterable[Cell]) -> None:
    path.write_text(json.dumps([asdict(cell) for cell in cells]))


def read(path: Path) -> list[Cell]:
    cells = []
    for record in json.loads(path.read_text()):
        prompt = tuple(Message(*message) for message in record.pop("prompt"))
        lists = {name: tuple(value) for name, value in record.items() if isinstance(value, list)}
        cells.append(Cell(prompt=prompt, **{**record, **lists}))
    return cells


class Clock:
    """Seconds of training: of each step, stopped while something is looked at. An epoch has so many steps."""

    def __init__(self, epoch: int) -> None:
        self.epoch, self.steps = epoch, list[float]()
        self._began = time.perf_counter()

    def lap(self) -> None:
        """A step has ended."""
        self.steps.append(time.perf_counter() - self._began)
        self._began = time.perf_counter()

    def go_on(self) -> None:
        """What was looked at took no time."""
        self._began = time.perf_counter()

    def enough(self, seconds: float) -> bool:
        """A first step, which warms up, and then whole epochs, so that both sides have gone over the same rows."""
        return sum(self.steps) >= seconds and len(self.steps) > 1 and (len(self.steps) - 1) % self.epoch == 0

    @property
    def per_step(self) -> float:
        """The mean, without the step that warms up."""
        return statistics.mean(self.steps[1:])


class Point(NamedTuple):
    """Seconds of training, and the distance from the people (mean JSD, bits) on two sets of held-out cells."""

    seconds: float
    select: float
    report: float


class Curve:
    """How far from the people a model is on held-out cells, looked at now and then."""

    def __init__(self, folder: Path, wall: float) -> None:
        self.wall, self.points, self._ahead = wall, list[Point](), list(MARKS)
        self._held = {name: read(folder / f"{name}.json") for name in ("select", "report")}

    def look(self, seconds: float, model: Any, tokenizer: Any) -> None:
        """Judge the model if a mark is reached at which it was not looked at."""
        if self._ahead and seconds >= self._ahead[0] * self.wall:
            self._ahead = [mark for mark in self._ahead if seconds < mark * self.wall]
            apart = [distance(model, tokenizer, cells) for cells in self._held.values()]
            self.points.append(Point(round(seconds, 2), *apart))


def distance(model: Any, tokenizer: Any, cells: Sequence[Cell]) -> float:
    """Mean JSD (bits) between the model's shares of the options and the people's."""
    engine = LocalEngine(CellModel(model), pad_id=tokenizer.pad_token_id)
    rendered = [render(cell, tokenizer) for cell in cells]
    logps = score_all(engine, rendered, pad_id=tokenizer.pad_token_id, packed=True, token_budget=4096)
    shares = [np.array(cell.desirable) / sum(cell.desirable) for cell in cells]
    return float(np.mean([jsd_bits(softmax(logp), share) for logp, share in zip(logps, shares, strict=True)]))


def settle(folder: Path, cells: Sequence[Cell], *, steps: int, device: str = "cpu") -> None:
    """Train the checkpoint until it gives every option of a question about the same probability.

    KTO with human negatives moves towards the people at first, and then past them. From a random model's
    answers, which are far from anybody's, the first of this could not be seen.
    """
    base = load_base(str(folder / "model"), device=device)
    even = []
    for cell in cells:
        k = len(cell.completions)
        even.append(replace(cell, closed=True, desirable=(1.0,) * k, undesirable=(0.0,) * k))
    pad_id = int(base.tokenizer.pad_token_id)
    engine = LocalEngine(CellModel(base.model.requires_grad_(True)), pad_id=pad_id)
    stage = Stage("even", (distribution_term(even, DistributionConfig()),), steps * 16 / len(even), 1e-3, 16)
    for _ in learn(engine, stage, base.tokenizer, train=TrainConfig(), pad_id=pad_id, packed=True):
        pass
    base.model.save_pretrained(folder / "model")


def peak(job: Job) -> float:
    """The most memory of this process, or of its GPU, so far (GiB)."""
    return torch.cuda.max_memory_allocated() / GIB if job.device == "cuda" else peak_gib()


def by_us(job: Job, folder: Path) -> dict[str, Any]:
    """Rates and losses of the learner's steps with LocalEngine: packed rows, a reference table, z0 as TRL has it."""
    found: dict[str, Any] = {}
    for name, per_step in (("distinct", job.rows), ("feedback", job.feedback_rows)):
        found[name] = _learn(job, folder, _parity(read(folder / f"{name}.json")), per_step, job.seconds)
        found[name]["peak"] = peak(job)
    config = KtoConfig(z0="mismatched", beta=BETA, lambda_d=LAMBDA_D, lambda_u=LAMBDA_U)
    people = kto_term(read(folder / "people.json"), config)
    found["curves"] = {}
    for rate in job.rates:
        curve = Curve(folder, job.wall)
        found["people"] = _learn(replace(job, rates=(rate,)), folder, people, job.cells, job.wall, curve)
        found["curves"][rate] = curve.points
    return found


def _parity(rows: Sequence[Cell]) -> Any:
    config = KtoConfig(z0="parity", parity_rows=BLOCK, beta=BETA, lambda_d=LAMBDA_D, lambda_u=LAMBDA_U)
    return kto_term(rows, config)


def adapted(model: Any, tune: str) -> Any:
    """What trains, the same on both sides: all weights, or a fresh adapter."""
    return add_adapter(model, seed=0, **LORA) if tune == "lora" else model.requires_grad_(True)


def _learn(
    job: Job, folder: Path, term: Any, per_step: int, seconds: float, curve: Curve | None = None
) -> dict[str, Any]:
    base = load_base(str(folder / "model"), device=job.device, dtype=job.dtype)
    tokenizer: Any = base.tokenizer
    model = CellModel(adapted(base.model, job.tune))
    engine = LocalEngine(model, pad_id=tokenizer.pad_token_id)
    form = {"pad_id": tokenizer.pad_token_id, "packed": True}
    stage = Stage("kto", (term,), 1e6, job.rates[0], per_step)  # so many epochs that the rate stays at its peak
    train = TrainConfig(warmup=0.0, weight_decay=0.0, token_budget=job.token_budget)
    score_all(
        engine, [render(cell, tokenizer) for cell in stage.referenced[:WARM]], token_budget=job.token_budget, **form
    )
    began = time.perf_counter()
    rendered = [render(cell, tokenizer) for cell in stage.referenced]
    reference = score_all(engine, rendered, token_budget=job.token_budget, **form)
    table = time.perf_counter() - began
    losses: list[float] = []
    epoch = 1 if curve else len(term.cells) // per_step
    reports: Iterator[Any] = learn(engine, stage, tokenizer, train=train, reference=reference, **form)
    reports = itertools.chain([None], reports)
    next(reports)
    clock = Clock(epoch)
    if curve:
        curve.look(0.0, model.model, tokenizer)
        clock.go_on()
    for report in reports:
        clock.lap()
        losses.append(report.loss)
        if curve:
            curve.look(sum(clock.steps), model.model, tokenizer)
            clock.go_on()
        if clock.enough(seconds):
            break
    return {
        "per_step": clock.per_step,
        "steps": len(losses),
        "losses": losses[:50],
        "reference": table / len(term.cells),
    }


def by_trl(job: Job, folder: Path) -> dict[str, Any]:
    """The same with TRL's trainer: ``default``, or ``tuned`` (reference precomputed, no checkpointing)."""
    found: dict[str, Any] = {}
    for name, per_step in (("distinct", job.rows), ("feedback", job.feedback_rows)):
        if name == "distinct" or job.side == "tuned":
            found[name] = _train(job, folder, name, per_step, job.seconds)
            found[name]["peak"] = peak(job)
    if job.side == "tuned":
        found["curves"] = {}
        for rate in job.rates:
            curve = Curve(folder, job.wall)
            found["people"] = _train(replace(job, rates=(rate,)), folder, "answers", job.rows, job.wall, curve)
            found["curves"][rate] = curve.points
    return found


def _train(
    job: Job, folder: Path, name: str, per_step: int, seconds: float, curve: Curve | None = None
) -> dict[str, Any]:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import KTOConfig, KTOTrainer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder / "model")
    cells, opening = read(folder / f"{name}.json"), turn(tokenizer).opening
    rows = [
        {
            "prompt": prompt_text(c.prompt, tokenizer),
            "completion": opening + c.completions[0],
            "label": c.desirable[0] > 0,
        }
        for c in cells
    ]
    clock, losses, table = Clock(1 if curve else len(cells) // per_step), list[float](), [0.0]

    class Watch(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **named: Any) -> None:
            self._look(named["model"])

        def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
            clock.lap()
            self._look(named["model"])
            control.should_training_stop = clock.enough(seconds)

        def _look(self, model: Any) -> None:
            if curve:
                model.eval()
                curve.look(sum(clock.steps), model, tokenizer)
                model.train()
            clock.go_on()

    class Watched(KTOTrainer):
        def compute_loss(self, *args: Any, **named: Any) -> Any:
            loss = super().compute_loss(*args, **named)
            losses.append(float(loss.detach()))
            return loss

        def _precompute_ref_logps(self, *args: Any, **named: Any) -> Any:
            with torch.no_grad():
                self.model(torch.ones(WARM, 64, dtype=torch.long, device=self.model.device))
            began = time.perf_counter()
            found = super()._precompute_ref_logps(*args, **named)
            table[0] += time.perf_counter() - began
            return found

    tuned = {"precompute_ref_log_probs": True, "gradient_checkpointing": False} if job.side == "tuned" else {}
    accumulation = per_step // BLOCK
    args = KTOConfig(
        output_dir=str(folder / "trl"), max_steps=10**6, per_device_train_batch_size=BLOCK,
        gradient_accumulation_steps=accumulation, learning_rate=job.rates[0], lr_scheduler_type="constant",
        adam_beta2=0.99, weight_decay=0.0, max_grad_norm=1.0, beta=BETA, desirable_weight=LAMBDA_D,
        undesirable_weight=LAMBDA_U, bf16=False, use_cpu=job.device == "cpu", report_to=[], save_strategy="no",
        logging_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
        max_length=None,  # TRL cuts a mismatched pair (a prompt and another's answer) that is longer, and z0 with it
        **tuned,
    )  # fmt: skip
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder / "model", dtype=getattr(torch, job.dtype), attn_implementation="sdpa", local_files_only=True
    )
    lora = LoraConfig(
        r=LORA["r"], lora_alpha=LORA["alpha"], lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    trainer = Watched(
        model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
        peft_config=lora if job.tune == "lora" else None, callbacks=[Watch()],
    )  # fmt: skip
    ids = [(list(r.prompt_ids), list(r.completion_ids[0])) for r in (render(c, tokenizer) for c in cells)]
    seen = trainer.train_dataset
    assert list(zip(seen["prompt_ids"], seen["completion_ids"], strict=True)) == ids, "both sides see the same tokens"
    if job.tune == "lora":
        _same_adapter(trainer.model, folder)
    trainer.train()
    per_step = np.array(losses).reshape(-1, accumulation).mean(axis=1)
    return {
        "per_step": clock.per_step,
        "steps": len(clock.steps),
        "losses": per_step[:50].tolist(),
        "reference": table[0] / len(cells),
    }


def _same_adapter(model: Any, folder: Path) -> None:
    """Our adapter's first weights: A is random, and B is 0."""
    ours = dict(adapted(load_base(str(folder / "model")).model, "lora").named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(ours[name])


def side(job: Job, folder: Path) -> dict[str, Any]:
    """The work of one side, in this process."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    return by_us(job, folder) if job.side == "ours" else by_trl(job, folder)


@dataclass(frozen=True)
class Tokens:
    """What a pass over some rows forwards, padding left out: by TRL of the rows and of their mismatched
    completions, by us with gradient, without, and for the reference's table."""

    count: int
    rows: int
    mismatched: int
    ours: int
    ours_still: int
    ours_reference: int


def passes(tokens: Tokens, side: str, tune: str) -> float:
    """Forwards of a token in an epoch: a backward is 2 of them with all weights, 1 with an adapter (no gradients of
    weights)."""
    backward = 2 if tune == "full" else 1
    if side == "ours":
        return tokens.ours * (1 + backward) + tokens.ours_still + tokens.ours_reference
    if side == "tuned":
        return tokens.rows * (2 + backward) + tokens.mismatched * 2
    # The reference and the policy's checkpointed forward once more; the reference's mismatched.
    return tokens.rows * (3 + backward) + tokens.mismatched * 2


def tokens_of(rows: Sequence[Cell], per_step: int, tokenizer: Any) -> Tokens:
    """Of an epoch of rows under z0 ``parity``."""
    rotation = rotate(rows_of(rows), BLOCK)
    wholes = [Row(render(cell, tokenizer)) for cell in rotation.cells]
    kl = theirs = mine = still = 0
    for block in rotation.blocks:
        for mark in block:
            rendered = wholes[mark.cell].rendered
            theirs += len(rendered.prompt_ids) + len(rendered.completion_ids[mark.branch])
            kl += len(rendered.prompt_ids) + len(rendered.completion_ids[mark.borrows])
    blocks = per_step // BLOCK
    for step in range(-(-len(rotation.blocks) // blocks)):
        for row in rotated(rotation, wholes, step=step, blocks=blocks, ranks=1):
            with_grad = _read(own(row).rendered)
            mine += with_grad
            still += _read(row.rendered) - with_grad
    count = sum(len(block) for block in rotation.blocks)
    return Tokens(count, theirs, kl, mine, still, sum(_read(row.rendered) for row in wholes))


def tokens_of_cells(cells: Sequence[Cell], tokenizer: Any) -> Tokens:
    """Of an epoch of cells under z0 ``mismatched``: each borrows one completion, which the table has by itself."""
    term = kto_term(cells, KtoConfig(z0="mismatched"))
    rows = [render(cell, tokenizer) for cell in Stage("s", (term,), 1, 1.0, 1).referenced]
    own, borrowed = rows[: len(cells)], rows[len(cells) :]
    still = sum(len(row.completion_ids[0]) - 1 for row in borrowed)
    return Tokens(len(cells), 0, 0, sum(map(_read, own)), still, sum(map(_read, rows)))


def _read(row: Rendered) -> int:
    """Tokens that are forwarded: the last one of a completion is predicted, but not read."""
    return row.tokens - len(row.completion_ids)
