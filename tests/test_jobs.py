"""The jobs as a user types them: dry runs that touch nothing, mistakes that end with status 2 and a mend."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from tiny import make_tiny

pytestmark = pytest.mark.ray

RUN_JOBS = (
    "align",
    "sweep_kto",
    "evaluate",
    "update",
    "prepare",
    "compare_signals",
    "export",
    "values",
    "sample_size",
    "service",
)
ALL_JOBS = (*RUN_JOBS, "draft_codebook", "plan", "preflight", "promote", "review", "keys", "backup", "demo")


def job(home: Path, name: str, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "VALUEALIGN_HOME": str(home)}
    command = [sys.executable, str(ROOT / "jobs" / f"{name}.py"), *arguments]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=240)


def refused(found: subprocess.CompletedProcess[str], *words: str) -> None:
    assert found.returncode == 2, found.stdout + found.stderr
    assert "Traceback" not in found.stderr
    for word in words:
        assert word in found.stderr, found.stderr


@pytest.mark.parametrize("name", ["align", "sweep_kto"])
def test_a_dry_run_prints_the_resolved_run_and_touches_nothing(home: Path, name: str) -> None:
    found = job(home, name, "kto.beta=0.3", "--dry-run")
    assert found.returncode == 0, found.stderr
    assert yaml.safe_load(found.stdout)["kto"]["beta"] == 0.3
    assert not list(home.iterdir())


@pytest.mark.parametrize("name", ALL_JOBS)
def test_help_teaches(home: Path, name: str) -> None:
    found = job(home, name, "--help")
    assert found.returncode == 0, found.stderr
    assert f"python jobs/{name}.py" in found.stdout
    if name in RUN_JOBS:
        assert "kto.lambda_d" in found.stdout and "--dry-run" in found.stdout
    assert not list(home.iterdir())


def test_a_misspelt_key_names_the_nearest_one(home: Path) -> None:
    refused(job(home, "align", "kto.lamda_d=1"), "kto.lamda_d", "did you mean 'kto.lambda_d'?")


def test_mistakes_end_with_status_2_and_nothing_half_written(home: Path, tmp_path: Path) -> None:
    """One process a mistake is slow, so this takes the ones that cross rooms; the rest are unit tests."""
    refused(job(home, "align", "model.path=nowhere"), "nowhere", "no such model folder", "mend:")
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text("{}")
    (bare / "pytorch_model.bin").write_text("x")
    refused(job(home, "align", f"model.path={bare}"), "no safetensors", "pickled weights are not loaded")
    generic = ["survey.reader=generic", "survey.file=missing.csv", "survey.codebook=missing.yaml"]
    refused(job(home, "prepare", *generic, cwd=tmp_path), "missing", "mend:")
    refused(job(home, "update"), "there is no champion", "jobs/align.py")
    refused(job(home, "evaluate"), "demo", "mend:")
    refused(job(home, "promote", "demo", "v1"), "demo", "mend:")
    refused(job(home, "review", "--accept", "fb-none"), "fb-none")
    assert not (home / "runs").exists() and not (home / "registry" / "demo").exists()


def test_prepare_shows_that_weighting_repairs(home: Path, tmp_path: Path) -> None:
    found = job(home, "prepare", "survey.people=2000")
    assert found.returncode == 0, found.stderr
    line = next(x for x in found.stdout.splitlines() if "known truth" in x)
    before, after = (float(word) for word in line.split() if word.startswith("0."))
    assert after < 0.7 * before
    folder = Path(found.stdout.strip().splitlines()[-1].removeprefix("data set: "))
    assert (folder / "datasheet.json").exists() and folder.parent == home / "data"
    assert (folder / "margins.svg").read_text().startswith("<svg"), "the love plot"
    again = job(home, "prepare", "survey.people=2000")
    assert "data set, prepared before" in again.stdout and line in again.stdout.splitlines()
    (folder / "datasheet.json").write_text("")
    (tmp_path / "file").write_text("")
    refused(job(home, "export", "survey.people=2000", "--out", str(tmp_path / "file" / "out")), "Not a directory")
    assert (folder / "datasheet.json").stat().st_size, "a damaged data set was made anew"
    refused(job(tmp_path / "file" / "home", "prepare", "survey.people=2000"), "Not a directory", "VALUEALIGN_HOME")


def test_a_survey_file_is_drafted_prepared_and_released(home: Path, tmp_path: Path) -> None:
    rows = [f"{n},{n % 4 + 1},{(n * 7) % 4 + 1},{(n // 3) % 4 + 1},{'fm'[n % 2]}" for n in range(400)]
    (tmp_path / "town.csv").write_text("\n".join(["id,trust_a,trust_b,trust_c,sex", *rows]) + "\n")
    drafted = job(home, "draft_codebook", "town.csv", "-o", "town.yaml", cwd=tmp_path)
    assert drafted.returncode == 0 and "# guessed" in (tmp_path / "town.yaml").read_text(), drafted.stderr
    refused(job(home, "draft_codebook", "town.csv", "-o", "town.yaml", cwd=tmp_path), "there already", "--force")
    run = ["name=town", "survey.reader=generic", "survey.file=town.csv", "survey.codebook=town.yaml"]
    run += ["groups.crossings=0"]
    closed = job(home, "export", *run, "--out", "release", cwd=tmp_path)
    refused(closed, "lets nothing be passed on", "tier")
    assert not (tmp_path / "release").exists()
    released = job(home, "export", *run, "survey.tier=aggregates", "--out", "release", cwd=tmp_path)
    assert released.returncode == 0, released.stderr
    assert (tmp_path / "release" / "targets.parquet").exists()
    assert not (tmp_path / "release" / "responses.parquet").exists()


def test_values_of_the_people_show_the_circle(home: Path) -> None:
    found = job(home, "values", "survey.people=2000")
    assert found.returncode == 0, found.stderr
    assert "universalism" in found.stdout and "circle: angle error" in found.stdout
    refused(job(home, "values", "survey.people=2000", "--theory", "rokeach"), "no item measures Rokeach", "mend:")


def test_signals_are_compared_and_the_table_put_into_a_document(home: Path, tmp_path: Path) -> None:
    small = ("survey.people=300", "groups.crossings=0", "evaluate.bootstrap=20", "distribution.cells_per_step=4")
    run = [*small, f"model.path={make_tiny(tmp_path / 'tiny')}", "--tokens", "2000", "--rate", "1"]
    page = tmp_path / "page.md"
    page.write_text("before <!-- table -->\nold\n<!-- /table --> after\n")
    refused(job(home, "compare_signals", *run, "--into", str(page), "--mark", "place"), str(page), "no place")
    refused(job(home, "compare_signals", *run, "--signal", "modla"), "modla", "did you mean 'modal'")

    first = job(home, "compare_signals", *run, "--signal", "targets")
    assert first.returncode == 0, first.stderr
    found = job(home, "compare_signals", *run, "--signal", "targets", "--signal", "modal", "--into", str(page))
    assert found.returncode == 0, found.stderr
    assert "targets@0.004: done before" in found.stdout and "2 signals done" in found.stdout
    text = page.read_text()
    assert text.startswith("before <!-- table -->\n\nJensen-Shannon") and text.endswith("<!-- /table --> after\n")
    assert "| modal |" in text and "minus targets" in text and "old" not in text and str(home) not in text
    (table,) = home.glob("runs/*/signals-*/table.md")
    assert table.read_text().strip() in text


def test_a_stage_without_feedback_is_refused(home: Path, shared_data: Path, tmp_path: Path) -> None:
    data = ["survey.reader=generic", f"survey.file={shared_data / 'nonvoters_538' / 'nonvoters_data.csv'}"]
    data += [f"survey.codebook={ROOT / 'examples' / 'nonvoters.yaml'}", f"model.path={make_tiny(tmp_path / 'm')}"]
    refused(job(home, "align", *data), "feedback.file", "stages='[distribution]'")


def test_feedback_of_a_file_is_read_by_one_door(home: Path, tmp_path: Path) -> None:
    rows = [f"p{n % 12},good {n},bad {n},r{n % 4},{'fm'[n % 4 == 0]},note" for n in range(36)]
    (tmp_path / "pairs.csv").write_text("\n".join(["prompt,chosen,rejected,rater,sex,remark", *rows]) + "\n")
    (tmp_path / "margins.csv").write_text("trait,level,share\nsex,f,0.5\nsex,m,0.5\n")
    run = [
        "survey.people=2000",
        "feedback.file=pairs.csv",
        "feedback.rater_margins=margins.csv",
        "feedback.rater_traits=[sex]",
    ]
    for _ in range(2):  # the survey's part is kept, the feedback is counted again
        found = job(home, "prepare", *run, cwd=tmp_path)
        assert found.returncode == 0, found.stderr
        assert "feedback: 36 pairs to 12 prompts; weighted n_d 36, n_u 36" in found.stdout
        assert "feedback raters weighted: 4 to margins.csv; largest gap 25.00 points before, 0.00 after" in found.stdout
        assert "feedback fields not used: remark" in found.stdout
        assert "behaviour prompts: 8 to train, 2 to select, 2 to report" in found.stdout
    (tmp_path / "pairs.csv").write_text("prompt,chosen,rejected\np,a,b\np,a,a\n")
    tiny = f"model.path={make_tiny(tmp_path / 'm')}"
    refused(job(home, "align", tiny, *run[:2], cwd=tmp_path), "pairs.csv, line 3", "the same text")
    same = "import sys; sys.path.insert(0, 'jobs'); import align, sweep_kto, prepare as p; " + (
        "assert align.prepare is sweep_kto.prepare is p.prepare"
    )
    subprocess.run([sys.executable, "-c", same], cwd=ROOT, check=True, timeout=240)


def test_keys_are_made_listed_and_ended(home: Path) -> None:
    dry = job(home, "keys", "create", "--name", "ops", "--scope", "admin", "--dry-run")
    assert dry.returncode == 0 and not list(home.iterdir()), dry.stderr
    assert "--scope admin" in job(home, "keys", "list").stdout
    made = job(home, "keys", "create", "--name", "ops", "--scope", "query", "--scope", "review", "--per-minute", "60")
    assert made.returncode == 0, made.stderr
    text = made.stdout.splitlines()[-1]
    listed = job(home, "keys", "list").stdout
    assert text.startswith("va-") and text not in listed and "query,review  60/min  ops" in listed
    ended = job(home, "keys", "revoke", text[3:15])
    assert ended.returncode == 0 and "revoked" in ended.stdout, ended.stderr
    refused(job(home, "keys", "revoke", "nobody"), "nobody", "no such key", "mend:")


def test_a_home_is_backed_up_and_brought_back_elsewhere(home: Path, tmp_path: Path) -> None:
    assert job(home, "keys", "create", "--name", "ops", "--scope", "admin").returncode == 0
    folder = tmp_path / "monday"
    made = job(home, "backup", "create", str(folder))
    assert made.returncode == 0 and "1 keys" in made.stdout, made.stderr
    refused(job(home, "backup", "create", str(folder)), "something already")
    refused(job(home, "backup", "restore", str(folder)), "not empty", "--force")
    dry = job(tmp_path / "new", "backup", "restore", str(folder), "--dry-run")
    assert dry.returncode == 0 and not (tmp_path / "new").exists(), dry.stderr
    done = job(tmp_path / "new", "backup", "restore", str(folder))
    assert done.returncode == 0 and "1 keys" in done.stdout, done.stderr
    assert job(tmp_path / "new", "keys", "list").stdout == job(home, "keys", "list").stdout
    refused(job(home, "backup", "show", str(tmp_path)), "no back-up", "mend:")
