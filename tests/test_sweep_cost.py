"""What a sweep costs: the meter counts what a tree of processes burns, logs are read right, ratios by hand, a run."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT
from tiny import make_tiny

# Burns so many CPU seconds for each line that it reads, and says so.
BURNER = """
import sys, time
for line in sys.stdin:
    until = time.process_time() + float(line)
    while time.process_time() < until:
        pass
    print("burned", flush=True)
"""
Burn = Callable[[float], None]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import process_tree
    import sweep_cost
    import sweep_sides

    return SimpleNamespace(**vars(process_tree) | vars(sweep_sides) | vars(sweep_cost))


@pytest.fixture
def burn() -> Iterator[Burn]:
    """A process below a shell, which burns when it is told to; without site it starts with nothing to speak of."""
    command = ["sh", "-c", '"$@" ; exit 0', "sh", sys.executable, "-I", "-S", "-c", BURNER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdin and shell.stdout

        def tell(seconds: float) -> None:
            print(seconds, file=shell.stdin, flush=True)
            assert shell.stdout.readline() == "burned\n"

        yield tell
        shell.stdin.close()


def test_the_meter_counts_what_the_processes_below_burn_within_the_block(benchmark: Any, burn: Burn) -> None:
    burn(0.3)  # before the block
    own = time.process_time()
    with benchmark.Meter(every=0.02) as meter:
        burn(0.5)
        between = time.time()
        burn(0.25)
        code = "import time\nwhile time.process_time() < .4: pass"
        subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)  # it ends before the block does
        until = time.process_time() + 0.2
        while time.process_time() < until:
            pass
    start, end = meter.span
    mine = time.process_time() - own  # with what looking costs, which the meter takes off
    whole = meter.cpu_seconds(start, end)
    assert 1.2 < whole <= 0.5 + 0.25 + 0.4 + mine + 0.15, "0.3 before the block is not in it"
    assert meter.cpu_seconds(start, between) + meter.cpu_seconds(between, end) == pytest.approx(whole)
    assert 0.45 < meter.cpu_seconds(start, between) < whole - 0.75
    assert meter.peak_rss_gib > meter.peak_pss_gib > 0


def test_a_process_that_outlives_its_parent_still_counts(benchmark: Any) -> None:
    """As Ray's workers do where their raylet ends first."""
    script = f"exec 3<&0; {sys.executable} -I -S -c '{BURNER}' <&3 & exec sleep 0.2"
    with benchmark.Meter(every=0.02) as meter:
        with subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as shell:
            assert shell.stdin and shell.stdout
            shell.wait()
            print(0.5, file=shell.stdin, flush=True)
            assert shell.stdout.readline() == "burned\n"
            time.sleep(0.1)
    assert 0.4 < meter.cpu_seconds(*meter.span)


def test_a_tree_holds_what_is_below_its_roots_and_nothing_else(benchmark: Any) -> None:
    parents = {1: 0, 10: 1, 11: 10, 12: 11, 20: 1, 21: 20, 30: 1}
    there = {pid: benchmark.Process(pid, 0, parent, 0.0, 0) for pid, parent in parents.items()}
    assert {one.pid for one in benchmark.tree(there, [10])} == {10, 11, 12}
    assert sorted(one.pid for one in benchmark.tree(there, [10, 11, 30, 99])) == [10, 11, 12, 30], "each once"


def write_log(path: Path, *steps: tuple[float, float], done: float | None = None) -> Path:
    """(when the step ended, seconds of it)"""
    events: list[dict[str, Any]] = [{"time": steps[0][0] - 50 if steps else 0.0, "event": "packed"}]
    events += [{"time": at, "event": "step", "seconds": seconds} for at, seconds in steps]
    events += [{"time": done, "event": "done"}] if done else []
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    return path


def test_a_run_s_training_is_from_its_first_step_to_its_last_record(benchmark: Any, tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.jsonl", (103.0, 3.0), (105.0, 2.0), (111.0, 2.0), done=115.0)
    run = benchmark.read_run(log)
    assert run == benchmark.Run(began=100.0, ended=115.0, steps=3, stepping=7.0)
    assert run.seconds == 15.0, "4 s of looking amid it and 4 s behind it are training too; loading is not"
    assert benchmark.read_run(write_log(tmp_path / "stopped.jsonl", (103.0, 3.0))).ended == 103.0
    for empty in (write_log(tmp_path / "empty.jsonl"), tmp_path / "none.jsonl"):
        with pytest.raises(SystemExit, match="holds no step"):
            benchmark.read_run(empty)


def test_the_course_of_a_sweep_by_hand(benchmark: Any) -> None:
    """Two places: a and b begin; c follows b, which ended first; d follows a."""
    a, b = benchmark.Run(40.0, 100.0, 10, 50.0), benchmark.Run(42.0, 60.0, 3, 15.0)
    c, d = benchmark.Run(65.0, 130.0, 10, 60.0), benchmark.Run(103.0, 121.0, 3, 16.0)
    found = benchmark.course(30.0, [d, a, c, b], places=2)
    assert (found.startup, found.training) == (10.0, 90.0)
    assert found.starts == (5.0, 3.0) and (found.steps, found.stepping) == (26, 141.0)
    one = benchmark.course(30.0, [a], places=2)
    assert one.starts == () and one.training == 60.0


def test_a_peer_is_scaled_from_the_steps_that_were_measured(benchmark: Any) -> None:
    """30 s: 10 to start at half a core, and 20 steps of a second on both cores."""

    def cpu_seconds(start: float, end: float) -> float:
        def until(at: float) -> float:
            return min(at, 10.0) * 0.5 + max(0.0, at - 10.0) * 2.0

        return until(end) - until(start)

    found = {"per_step": 1.0, "steps": 20, "peak": 0.5}
    run = benchmark.scaled(found, 100.0, 0.0, 30.0, SimpleNamespace(cpu_seconds=cpu_seconds))
    assert (run.seconds, run.startup_seconds, run.training_seconds) == (110.0, 10.0, 100.0)
    assert run.training_cpu_seconds == pytest.approx(200.0) and run.cpu_seconds == pytest.approx(205.0)


def test_ratios_by_hand(benchmark: Any) -> None:
    sweep = benchmark.Measured(200.0, 320.0, 40.0, 150.0, 280.0, 400.0, 250.0, 3.0, 2.0)
    own = replace(sweep, seconds=80.0, cpu_seconds=100.0, training_seconds=50.0, training_cpu_seconds=70.0, steps=100.0)
    slower = replace(own, seconds=120.0, training_seconds=70.0)
    trl = replace(own, seconds=100.0, cpu_seconds=160.0, training_seconds=75.0)
    full = replace(sweep, training_seconds=300.0)
    trials = tuple(SimpleNamespace(whole=whole) for whole in (True, False, False, False))
    swept = {
        "early": benchmark.Swept(sweep, (4.0, 2.0), trials),
        "full": benchmark.Swept(full, (6.0,), trials),
    }
    found = benchmark.figures(swept, [own, slower], trl)
    assert found["cost_of_4_trials_over_1"] == 150 / 60 and found["cpu_cost_of_4_trials_over_1"] == 280 / 70
    assert found["steps_of_4_trials_over_1"] == 4.0
    assert found["ratio_vs_4_own_runs"] == 200 / (4 * 100) and found["cpu_ratio_vs_4_own_runs"] == 320 / (4 * 100)
    assert found["ratio_vs_4_trl_runs_estimated"] == 200 / (4 * 100)
    assert found["cpu_ratio_vs_4_trl_runs_estimated"] == 320 / (4 * 160)
    assert found["training_ratio_vs_4_trl_runs_estimated"] == 150 / (4 * 75)
    assert found["startup_seconds"] == 40.0 and found["trial_start_seconds"] == 3.0 and found["stopped_early"] == 3
    assert found["without_early_stopping"]["cost_of_4_trials_over_1"] == 300 / 60


@pytest.mark.prove
@pytest.mark.timeout(900)
def test_it_runs_through_on_a_model_of_nothing(tmp_path: Path) -> None:
    small = ["survey.people=600", "groups.crossings=0", "distribution.epochs=1", "kto.epochs=4", "sweep.trials=3"]
    small += ["sweep.margin=null", "evaluate.bootstrap=20", f"model.path={make_tiny(tmp_path / 'tiny')}"]
    command = [sys.executable, str(ROOT / "benchmarks" / "sweep_cost.py"), "--quick", *small]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    early, full, (own,) = found["early"], found["full"], found["own"]
    assert full["steps"] == 3 * own["steps"] >= early["steps"] > own["steps"]
    assert found["steps_of_3_trials_over_1"] == pytest.approx(early["steps"] / own["steps"], abs=1e-3)
    for one in (early, full, own, found["trl"]):
        assert one["startup_seconds"] + one["training_seconds"] <= one["seconds"] + 0.01
        assert 0 < one["training_cpu_seconds"] < one["cpu_seconds"] and one["peak_rss_gib"] > 0
    for one in (early, full, own):
        assert one["step_seconds"] > 0 and one["peak_pss_gib"] < one["peak_rss_gib"]
    assert own["step_seconds"] <= own["training_seconds"]
    for name in ("winner_auc_difference", "winner_distance_difference"):
        value, low, high = found[name]
        assert low <= value <= high
    assert 1 <= found["winner_rank_in_full_sweep"] <= 3 and found["winner_auc_on_select"].keys() == {"early", "full"}
    assert found["trl_steps_measured"] > 1 and found["own_runs_measured"] == 1 and found["hardware"]
