"""KTO by valuealign and by TRL's KTOTrainer, in one run: rows a second, memory, and distance in equal time.

    python benchmarks/kto_vs_trl.py --quick                       # the embedded population, under 5 minutes
    python benchmarks/kto_vs_trl.py --survey nonvoters_data.csv --codebook examples/nonvoters.yaml \\
        --feedback marked.jsonl

The same Llama of random weights, rows, optimizer steps, precision, threads, negatives and (but for collapsed
rows) z0 on both sides; each side is a process of its own. TRL in its default form (checkpointing, the reference
computed at each step) and tuned (reference log-probabilities precomputed, no checkpointing), LoRA and full
fine-tuning. The first losses of both sides must be the same, and so must the token ids. See docs/benchmarks.md
for what the keys mean. The last line is JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from kto_sides import BLOCK, Job, passes, settle, side, tokens_of, tokens_of_cells, write
from machine import hardware, rounded
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from valuealign.config import GroupsConfig, SurveyConfig
from valuealign.errors import SignalError, SurveyError, ValuealignError
from valuealign.models.seed import SEED_RECIPE, make_tokenizer
from valuealign.pairing import rows_of
from valuealign.population import find_groups, tabulate
from valuealign.prompts import render
from valuealign.signals.files import read_binary
from valuealign.signals.targets import question
from valuealign.surveys import embedded, read_survey
from valuealign.types import Cell

TUNES = ("lora", "full")
RATE_OF = {"lora": 1.0, "full": 0.1}  # all weights learn at a tenth of an adapter's rate
# With so many options the lambdas (3 to 1) weigh what was chosen and what was not alike.
OPTIONS = 4
# How far apart the same losses may be.
APART = {"float32": 1e-3, "bfloat16": 5e-2}
RUNS = ("distinct", "feedback", "people")


@dataclass(frozen=True)
class Size:
    """The model, the rows that there are of each kind, and the seconds that are measured."""

    width: int
    layers: int
    distinct: int
    answers: int
    feedback: int
    held: int  # cells to choose by, and as many to judge by
    longest: int  # tokens of a marked answer with its prompt
    settle: int  # steps
    rates: tuple[float, ...]
    seconds: float
    wall: float


SIZES = {
    "quick": Size(
        256, 6, distinct=384, answers=640, feedback=48, held=80, longest=512, settle=40, rates=(1e-4,),
        seconds=4.0, wall=10.0,
    ),
    "whole": Size(
        384, 8, distinct=384, answers=512, feedback=48, held=60, longest=1024, settle=60,
        rates=(1e-4, 3e-4), seconds=10.0, wall=30.0,
    ),
    "gpu": Size(
        1280, 26, distinct=8192, answers=16384, feedback=256, held=100, longest=1024, settle=80,
        rates=(1e-4, 3e-4, 1e-3), seconds=20.0, wall=30.0,
    ),
    "smoke": Size(
        64, 2, distinct=64, answers=64, feedback=16, held=4, longest=512, settle=2, rates=(1e-4,),
        seconds=0.1, wall=0.1,
    ),
}  # fmt: skip


def make_model(folder: Path, size: Size) -> tuple[Any, int]:
    """A random Llama with the seed model's tokenizer; returns the tokenizer and how many parameters there are."""
    tokenizer = make_tokenizer(SEED_RECIPE)
    tokenizer.model_max_length = 2 * size.longest  # a prompt, and the answer to another one
    # The chat template begins with BOS already; TRL would add another.
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A", special_tokens=[])
    width = size.width
    torch.manual_seed(0)
    heads = width // 64
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=width * 8 // 3 // 64 * 64,
        num_hidden_layers=size.layers, num_attention_heads=heads, num_key_value_heads=heads,
        max_position_embeddings=2 * size.longest, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder), model.num_parameters()


def survey_counts(config: SurveyConfig, traits: int, rng: np.random.Generator) -> list[Cell]:
    """Every question of four options put to every group (the crossing of the first traits), as an open cell: who
    chose each option, and who did not."""
    survey = read_survey(config, 0)
    ones = np.ones(survey.people.height)
    crossing = tuple(trait.id for trait in survey.codebook.traits[:traits])
    table = tabulate(survey, ones, find_groups(survey, ones, GroupsConfig(crossed=(crossing,), min_n_eff=30)))
    cells = []
    for g, group in enumerate(table.groups):
        for i, item in enumerate(table.items):
            n = int(table.n_GI[g, i])
            chosen = [round(float(share) * n) for share in table.shares_GIK[g, i, : len(item.options)]]
            if group.traits and n and len(item.options) == OPTIONS:
                cell = question(item, group, chosen, [n - c for c in chosen], n_eff=float(n))
                cells.append(replace(cell, closed=False, positions=()))
    return [cells[i] for i in rng.permutation(len(cells))]


def once(cell: Cell) -> Cell:
    """Each (prompt, option, label) that occurs, once."""
    return replace(
        cell,
        desirable=tuple(float(d > 0) for d in cell.desirable),
        undesirable=tuple(float(u > 0) for u in cell.undesirable),
    )


def answers(cells: list[Cell], rows: int, rng: np.random.Generator) -> list[Cell]:
    """Respondents' own rows: the option that a respondent chose desirable, the others not."""
    mass = np.array([sum(cell.desirable) for cell in cells])
    found: list[Cell] = []
    while len(found) < rows:
        cell = cells[rng.choice(len(cells), p=mass / mass.sum())]
        chosen = rng.choice(len(cell.completions), p=np.array(cell.desirable) / sum(cell.desirable))
        labels = [float(k == chosen) for k in range(len(cell.completions))]
        found += rows_of([replace(cell, desirable=tuple(labels), undesirable=tuple(1 - d for d in labels))])
    return found


def prepare(folder: Path, config: SurveyConfig, feedback: Path | None, size: Size, job: Job) -> dict[str, Any]:
    """Write the model and the rows; returns facts about them."""
    rng = np.random.default_rng(0)
    tokenizer, parameters = make_model(folder / "model", size)
    cells = survey_counts(config, 4, rng)
    if len(cells) < 2 * size.held + size.distinct // 8:
        what = f"only {len(cells)} questions of {OPTIONS} options to a group of 30 people or more"
        raise SurveyError(what, where=str(config.file), mend="take another survey, or a smaller size")
    held, people = cells[: 2 * size.held], cells[2 * size.held :]
    settle(folder, people, steps=size.settle, device=job.device)
    marked = read_binary(feedback) if feedback else embedded.feedback(SurveyConfig().people, 0)
    singles = list(rows_of([once(cell) for cell in marked]))
    singles = list({row.prompt: row for row in reversed(singles)}.values())  # one answer of a prompt
    short = [row for row in singles if render(row, tokenizer).tokens <= size.longest]
    short = [short[i] for i in rng.permutation(len(short))][: size.feedback]
    sample = people[: size.distinct]
    distinct = list(rows_of([once(cell) for cell in sample]))[: size.distinct]
    files = {
        "distinct": distinct[: len(distinct) // job.rows * job.rows],
        "feedback": short[: len(short) // job.feedback_rows * job.feedback_rows],
        "people": sample,
        "answers": answers(sample, size.answers, rng),
        "select": held[: size.held],
        "report": held[size.held :],
    }
    if not files["feedback"]:
        what = f"only {len(short)} marked answers of at most {size.longest} tokens with their prompts"
        raise SignalError(what, where=str(feedback), mend=f"bring {job.feedback_rows} of different prompts")
    for name, rows in files.items():
        write(folder / f"{name}.json", rows)
    steps = {"distinct": job.rows, "feedback": job.feedback_rows}
    counted = {name: tokens_of(files[name], rows, tokenizer) for name, rows in steps.items()}
    return {
        "tokens": counted | {"people": tokens_of_cells(sample, tokenizer)},
        "mass": float(np.mean([cell.mass for cell in sample])),
        "collapse": sum(cell.mass for cell in people) / sum(once(cell).mass for cell in people),
        "parameters": parameters,
        "feedback_left_out": len(singles) - len(short),
    }


def run(job: Job, folder: Path, threads: int) -> dict[str, Any]:
    """One side in a process of its own."""
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TQDM_DISABLE": "1",
    }
    command = [sys.executable, __file__, "--job", json.dumps(asdict(job)), "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{job.side} ({job.tune}) failed:\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    told = [f"{n}: {v['steps']} steps of {v['per_step']:.3f} s" for n, v in found.items() if n in RUNS]
    print(f"{job.tune} {job.side}: {'; '.join(told)}; {found['distinct']['peak']:.2f} GiB", flush=True)
    return found


def same(ours: dict[str, Any], theirs: dict[str, Any], dtype: str) -> float:
    """The largest relative difference of the first steps' losses; ends the benchmark where they are not the same."""
    apart = []
    for name in theirs.keys() & {"distinct", "feedback"}:
        pairs = zip(ours[name]["losses"][:5], theirs[name]["losses"][:5], strict=False)
        apart += [abs(a / b - 1) for a, b in pairs]
    if not all(one <= APART[dtype] for one in apart):  # what is no number is no agreement
        raise SystemExit(f"the two sides differ: losses are {max(apart):.2g} apart\n{ours}\n{theirs}")
    return max(apart)


def figures(sides: dict[str, dict[str, Any]], tune: str, job: Job, facts: dict[str, Any]) -> dict[str, float]:
    """The ratios of LoRA or of full fine-tuning, beside the ceilings that passes over tokens set."""
    ours, default, tuned = (sides[name] for name in ("ours", "default", "tuned"))
    per_step = {"distinct": job.rows, "feedback": job.feedback_rows, "people": job.cells}

    def seconds(side: dict[str, Any], name: str, table: bool = True) -> float:
        """Of a row (of ``people``: of a cell) in an epoch."""
        return side[name]["per_step"] / per_step[name] + table * side[name]["reference"]

    def forwards(side: str, name: str) -> float:
        return passes(facts["tokens"][name], side, tune) / facts["tokens"][name].count

    mass = facts["mass"]
    found = {
        "ratio_default_before_collapse": seconds(default, "distinct") / seconds(ours, "distinct"),
        "ratio_tuned_before_collapse": seconds(tuned, "distinct") / seconds(ours, "distinct"),
        "ratio_default_after_collapse": mass * seconds(default, "distinct") / seconds(ours, "people"),
        "ratio_feedback_k1": seconds(tuned, "feedback") / seconds(ours, "feedback"),
        "ceiling_default_before_collapse": forwards("default", "distinct") / forwards("ours", "distinct"),
        "ceiling_tuned_before_collapse": forwards("tuned", "distinct") / forwards("ours", "distinct"),
        "ceiling_default_after_collapse": mass * forwards("default", "distinct") / forwards("ours", "people"),
        "ceiling_feedback_k1": forwards("tuned", "feedback") / forwards("ours", "feedback"),
        "later_ratio_default_before_collapse": seconds(default, "distinct") / seconds(ours, "distinct", False),
        "later_ratio_tuned_before_collapse": seconds(tuned, "distinct", False) / seconds(ours, "distinct", False),
        "later_ratio_feedback_k1": seconds(tuned, "feedback", False) / seconds(ours, "feedback", False),
        "peak_rss_ratio": ours["feedback"]["peak"] / tuned["feedback"]["peak"],
        "peak_rss_ratio_default": ours["distinct"]["peak"] / default["distinct"]["peak"],
        "rows_per_second": 1 / seconds(ours, "distinct"),
        "loss_difference": max(same(ours, default, job.dtype), same(ours, tuned, job.dtype)),
        "distance_start": next(iter(ours["curves"].values()))[0][2],
        "distance_ours": reached(ours["curves"], job.wall),
        "distance_trl": reached(tuned["curves"], job.wall),
    }
    found["fraction_of_ceiling"] = min(
        found[f"ratio_{name}"] / found[f"ceiling_{name}"]
        for name in ("default_before_collapse", "tuned_before_collapse")
    )
    return found


def reached(curves: dict[str, list[list[float]]], wall: float) -> float:
    """The distance on ``report`` where that on ``select`` is least, of all rates and points within the time (a
    hundredth more is let pass; a side may be looked at after it, where its step ends later)."""
    points = [point for curve in curves.values() for point in curve if point[0] <= 1.01 * wall]
    return min(points, key=lambda point: point[1])[2]


# Of LoRA and full fine-tuning the worse one is the benchmark's own figure.
WORSE = {
    "ratio_default_before_collapse": min,
    "ratio_tuned_before_collapse": min,
    "ratio_default_after_collapse": min,
    "ratio_feedback_k1": min,
    "fraction_of_ceiling": min,
    "peak_rss_ratio": max,
}


def compare(config: SurveyConfig, feedback: Path | None, *, run_size: str, threads: int) -> dict[str, Any]:
    size, gpu = SIZES[run_size], run_size == "gpu"
    job = Job(
        side="ours", tune="lora", seconds=size.seconds, wall=size.wall, rows=8 * BLOCK, feedback_rows=2 * BLOCK,
        cells=8, rates=size.rates,
        **({"token_budget": 16384, "device": "cuda", "dtype": "bfloat16"} if gpu else {"token_budget": 2048}),
    )  # fmt: skip
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        facts = prepare(folder, config, feedback, size, job)
        for tune in TUNES:
            rates = tuple(rate * RATE_OF[tune] for rate in size.rates)
            jobs = {who: replace(job, tune=tune, side=who, rates=rates) for who in ("ours", "default", "tuned")}
            sides = {who: run(some, folder, threads) for who, some in jobs.items()}
            found[tune] = figures(sides, tune, job, facts)
            found[tune] |= {"curves_ours": sides["ours"]["curves"], "curves_trl": sides["tuned"]["curves"]}
    far = max(TUNES, key=lambda tune: found[tune]["distance_ours"] - found[tune]["distance_trl"])
    worse = {key: worst(found[tune][key] for tune in TUNES) for key, worst in WORSE.items()}
    return rounded(
        worse
        | {f"held_out_distance_{who}": found[far][f"distance_{who}"] for who in ("start", "ours", "trl")}
        | found
        | {key: facts[key] for key in ("collapse", "feedback_left_out")}
        | {"size": run_size, "parameters": facts["parameters"], "dtype": job.dtype, "threads": threads}
        | {"hardware": torch.cuda.get_device_name() if gpu else hardware()}
    )


@click.command(help=str(__doc__).replace("\n\n    ", "\n\n\b\n    "))
@click.option("--quick", "run_size", flag_value="quick", help="a small model and short runs")
@click.option("--whole", "run_size", flag_value="whole", default=True, help="the default: 16 M parameters, longer runs")
@click.option("--gpu", "run_size", flag_value="gpu", help="half a billion parameters in bf16 on a CUDA device")
@click.option("--smoke", "run_size", flag_value="smoke", help="nothing is measured, only run through")
@click.option(
    "--survey", type=click.Path(path_type=Path, exists=True), help="a survey file; without it the embedded population"
)
@click.option("--codebook", type=click.Path(path_type=Path, exists=True), help="of that file")
@click.option(
    "--feedback", type=click.Path(path_type=Path, exists=True), help="JSON lines of prompt, completion, label"
)
@click.option("--threads", default=len(os.sched_getaffinity(0)), show_default="all cores", type=click.IntRange(min=1))
@click.option("--job", hidden=True)
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
def main(
    run_size: str, survey: Path | None, codebook: Path | None, feedback: Path | None, threads: int,
    job: str | None, folder: Path | None,
) -> None:  # fmt: skip
    if job and folder:
        print(json.dumps(side(Job(**json.loads(job)), folder)))
        return
    if bool(survey) != bool(codebook):
        raise click.UsageError("--survey and --codebook go together")
    if run_size == "gpu" and not torch.cuda.is_available():
        raise click.UsageError("--gpu needs a CUDA device, and this machine has none")
    config = SurveyConfig(reader="generic", file=survey, codebook=codebook) if survey else SurveyConfig()
    try:
        print(json.dumps(compare(config, feedback, run_size=run_size, threads=threads)))
    except ValuealignError as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
