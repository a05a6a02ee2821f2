"""The main road with real parts, small: the demo end to end, a real survey, a sweep under `ray job submit`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from serving import free_port
from submitting import ray_head, submit
from tiny import make_tiny

from valuealign.models.adapters import WEIGHTS
from valuealign.registry import Registry
from valuealign.store import Store

pytestmark = pytest.mark.ray

# Enough to run every line of the road; far too little to learn much.
SMALL = (
    "survey.people=1500", "groups.crossings=1", "distribution.epochs=4", "kto.epochs=3", "update.epochs=20",
    "sweep.trials=4", "sweep.reports=2", "evaluate.bootstrap=40",
)  # fmt: skip

# So little trained a model is no evidence of anything but that the road is walked.
LENIENT = (
    "gate.margin=0.5", "gate.dispersion=null", "gate.kl=null", "gate.regression_margin=null", "gate.corrected=0",
    "gate.paraphrased=0",
)  # fmt: skip


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "VALUEALIGN_HOME": str(home), "PYTHONUNBUFFERED": "1"}


def run(home: Path, *command: str, timeout: int = 800) -> str:
    found = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment(home), capture_output=True, text=True, timeout=timeout
    )
    assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-6000:]
    return found.stdout


def registry(home: Path) -> Registry:
    return Registry(home / "registry", Store.open(home / "valuealign.db"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("model"), width=48)


def test_the_demo_walks_the_whole_road(tmp_path: Path, model: Path) -> None:
    """Align, sweep, serve, ask, correct, review, update, ask again: the served answer is the new version's."""
    home = tmp_path / "home"
    settings = [*SMALL, f"model.path={model}", f"serve.port={free_port()}", *LENIENT, "sweep.margin=0.5"]
    os.environ["DEMO_SET"] = " ".join(settings)
    try:
        said = run(home, "jobs/demo.py")
    finally:
        del os.environ["DEMO_SET"]
    for title in ("1. align", "2. sweep", "3. serve", "4. ask", "5. post", "6. update", "7. ask again"):
        assert title in said
    assert "noise floor" in said and "traits added up" in said and "distribution" in said
    report = Path(re.search(r"report: (\S+)", said).group(1))  # type: ignore[union-attr]
    assert report.is_file() and (report.parent / "evaluation.json").is_file()
    assert "everything that was started is stopped" in said
    made = registry(home)
    champion = made.get("demo@champion")
    history = made.history("demo")
    assert champion.card["stage"] == "update" and champion.card["manifest"]["feedback"]
    assert history[-1].to_version == champion.id and history[-1].figures["gate"]
    answers = re.findall(r"^ +(demo@v\d+): ", said, flags=re.MULTILINE)
    assert len(answers) == 2 and answers[0] != answers[1] == champion.ref, "no restart between the two answers"
    assert made.get("demo@stage1").card["stage"] == "distribution"
    trials = [v for v in made.versions("demo") if "sweep" in v.card]
    assert trials and len(trials[0].card["sweep"]) == 4
    assert [item.feedback.status for item in made.store.list_feedback(name="demo")] == ["used"]


def test_a_real_survey_aligns_a_real_checkpoint(tmp_path: Path, shared_data: Path) -> None:
    """A small cut of the non-voter survey over stories260K, a checkpoint this project did not make, in 4 bits."""
    home = tmp_path / "home"
    cut = (
        "-c", "examples/nonvoters_run.yaml", f"survey.file={shared_data / 'nonvoters_538' / 'nonvoters_data.csv'}",
        f"model.path={shared_data / 'stories260K'}", "survey.rows=1200", "groups.crossings=1", "groups.max_groups=8",
        "evaluate.bootstrap=30", "model.train=lora", "evaluate.sheets=[neutral]",
    )  # fmt: skip
    said = run(home, "jobs/align.py", *cut, "distribution.epochs=0.5", "model.lora_r=4", "model.quantize=nf4")
    assert "the survey's own" in said and "additive" in said.lower() or "traits added up" in said
    version = registry(home).get("nonvoters@champion")
    assert (version.path / WEIGHTS).is_file()
    card = json.loads((version.path / "card.json").read_text())
    assert card["licence"] == "CC-BY-4.0" and card["data_hash"] and card["results"]
    assert card["all_figures"].startswith("report/evaluation.json of the run ")
    judged = run(home, "jobs/evaluate.py", *cut, "model.quantize=nf4")
    assert "noise floor" in judged and version.id in judged and version.quantize == "nf4"
    other = subprocess.run(
        [sys.executable, "jobs/evaluate.py", *cut], cwd=ROOT, env=environment(home), capture_output=True, text=True
    )
    assert other.returncode == 2 and "set model.quantize=nf4" in other.stderr, other.stderr


def test_a_sweep_by_ray_job_submit(tmp_path: Path, model: Path, shared_data: Path) -> None:
    """Typed with --working-dir from another folder; trains its stage-1 model, then four trials on real feedback."""
    home = tmp_path / "home"
    lines = (shared_data / "binary_feedback" / "kto_demo.jsonl").read_text().splitlines()
    short = tmp_path / "marked.jsonl"
    short.write_text("\n".join(sorted(lines, key=len)[:60]))
    with ray_head(ROOT, num_cpus=2, extra_env={"VALUEALIGN_HOME": str(home)}) as head:
        arguments = ["--working-dir", str(ROOT), "--", "python", "jobs/sweep_kto.py", *SMALL, f"model.path={model}"]
        found = submit(
            [*arguments, "sweep.margin=0.5", f"feedback.file={short}", "train.zero=3"],
            cwd=tmp_path,
            env=head.env,
            timeout=800,
        )
    assert found.returncode == 0, found.stdout[-6000:]
    assert "60 marked answers to 60 prompts" in found.stdout
    assert "trial" in found.stdout and "AUC" in found.stdout and "ratio: lambda_d n_d" in found.stdout
    made = registry(home)
    assert made.get("demo@stage1").card["stage"] == "distribution"
    sweeps = [v for v in made.versions("demo") if "sweep" in v.card]
    assert sweeps and len(sweeps[0].card["sweep"]) == 4 and sweeps[0].parent == made.get("demo@stage1").id


@pytest.mark.timeout(1500)
def test_the_sweep_typed_verbatim(tmp_path: Path) -> None:
    """`ray job submit -- python jobs/sweep_kto.py`, without flag or argument: the defaults, in full."""
    home = tmp_path / "home"
    with ray_head(ROOT, num_cpus=2, extra_env={"VALUEALIGN_HOME": str(home)}) as head:
        command = ["--", "python", "jobs/sweep_kto.py"]
        found = submit(command, cwd=head.cwd, env=head.env, timeout=1400)
    assert found.returncode == 0, found.stdout[-6000:]
    assert "4/4 trials ended" in found.stdout and "change in survey distance" in found.stdout
    assert registry(home).get("demo@stage1").card["base"] == "seed"
    assert "registered the best trial as demo@v" in found.stdout or "nothing is registered" in found.stdout
