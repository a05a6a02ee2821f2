"""One run in one process: stages, scores, resume after an interruption, the reference table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from safetensors.torch import load_file
from tiny import behaviour_cells, make_tiny, survey_cells

from valuealign.cluster.build import Warm, build
from valuealign.cluster.worker import NoCheckpoints, TrainRun, identity, read_scores, work
from valuealign.config import DistributionConfig, KtoConfig, ModelConfig, TrainConfig
from valuealign.engine import LocalEngine, score_all
from valuealign.errors import ConfigError, ModelError
from valuealign.learner import Stage, distribution_term, kto_term, learning_rate, mismatched_cells
from valuealign.models.adapters import WEIGHTS
from valuealign.models.trained import trained_done
from valuealign.prompts import render
from valuealign.reference import noise, reference_logps, table_key
from valuealign.types import BASE


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("model"))


def make_run(model: Path, out: Path, **change: Any) -> TrainRun:
    """Two stages on the tiny model: ten steps of distribution, seven of KTO with an anchor."""
    anchor = distribution_term(survey_cells(8), DistributionConfig())
    behaviour = kto_term(behaviour_cells(), KtoConfig(beta=0.5))
    run = TrainRun(
        model=ModelConfig(path=str(model), lora_r=4, lora_alpha=8),
        train=TrainConfig(token_budget=600, checkpoint_every=3),
        stages=(
            Stage("distribution", (anchor,), epochs=10, learning_rate=0.02, cells_per_step=4),
            Stage("kto", (behaviour, anchor), epochs=4, learning_rate=0.01, cells_per_step=3, seed=1),
        ),
        out=out,
        cache=out / "cache",
        score={"exam": survey_cells(5), "behaviour": behaviour_cells(3)},
    )
    return replace(run, **change)


def first_stage(model: Path, out: Path) -> Path:
    """What sweeps and lanes start from: the weights of a short first stage."""
    run = make_run(model, out, score={})
    work(replace(run, stages=run.stages[:1]), local, NoCheckpoints())
    return run.trained("distribution")


def local(m: Any, pad: int) -> LocalEngine:
    return LocalEngine(m, pad_id=pad)


class Interrupted(RuntimeError):
    pass


class FolderCheckpoints:
    """Keeps checkpoints in a folder; raises after a given number, as a killed process would end."""

    def __init__(self, folder: Path, *, survive: int = 10**9) -> None:
        self.folder, self.left = folder, survive

    def latest(self) -> Path | None:
        found = sorted(self.folder.glob("*"), key=lambda f: int(f.name))
        return found[-1] if found else None

    def keep(self, write: Callable[[Path], None], figures: Mapping[str, float]) -> None:
        write(self.folder / str(len(list(self.folder.glob("*")))))
        self.left -= 1
        if self.left == 0:
            raise Interrupted


def test_a_run_trains_scores_and_writes(model: Path, tmp_path: Path) -> None:
    run = make_run(model, tmp_path)
    work(run, local, NoCheckpoints())
    scores = {who: read_scores(tmp_path, who) for who in (BASE, "distribution", "kto")}
    assert [len(x) for x in scores["kto"]["exam"]] == [3] * 5
    truth = [np.array(c.desirable) for c in survey_cells(5)]

    def apart(who: str) -> float:
        shares = [np.exp(x - np.logaddexp.reduce(x)) for x in scores[who]["exam"]]
        return float(np.mean([np.abs(s - t).sum() for s, t in zip(shares, truth, strict=True)]))

    assert apart("distribution") < 0.9 * apart(BASE)
    # KTO moves towards what was desirable, from where its stage began.
    cells = behaviour_cells(3)
    for now, before, cell in zip(scores["kto"]["behaviour"], scores["distribution"]["behaviour"], cells, strict=True):
        assert (now - before)[0] > (now - before)[1], cell
    assert trained_done(run.trained("distribution")) and trained_done(run.trained("kto"))
    events = [json.loads(line)["event"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert events[0] == "packed" and events[-1] == "done" and events.count("step") == sum(s.steps for s in run.stages)


@pytest.mark.parametrize("survive", [2, 9])
def test_an_interrupted_run_goes_on_and_ends_alike(model: Path, tmp_path: Path, survive: int) -> None:
    """Interrupted in the first stage (2) or in the second (9), the result is equal to the bit."""
    whole, cut = make_run(model, tmp_path / "whole"), make_run(model, tmp_path / "cut")
    work(whole, local, NoCheckpoints())
    (tmp_path / "kept").mkdir()
    with pytest.raises(Interrupted):
        work(cut, local, FolderCheckpoints(tmp_path / "kept", survive=survive))
    work(cut, local, FolderCheckpoints(tmp_path / "kept"))
    for stage in ("distribution", "kto"):
        a, b = (load_file(run.trained(stage) / WEIGHTS) for run in (whole, cut))
        assert all(bool((a[k] == b[k]).all()) for k in a)
        one, two = read_scores(whole.out, stage), read_scores(cut.out, stage)
        assert all(np.array_equal(x, y) for x, y in zip(one["exam"], two["exam"], strict=True))


def test_a_warm_process_keeps_the_base_and_nothing_of_the_run_before(model: Path, tmp_path: Path) -> None:
    warm = Warm()

    def run(name: str, warm: Warm | None, **change: Any) -> TrainRun:
        made = make_run(model, tmp_path / name, **change)
        work(made, local, NoCheckpoints(), warm=warm)
        return made

    first, cold = run("first", warm), run("cold", None, seed=3)
    base = warm.build(first.model, seed=0, start=None)[0].model
    other = first.model.model_copy(update={"lora_r": 2})
    again = run("again", warm, seed=3)
    assert warm.build(first.model, seed=0, start=None)[0].model is base
    a, b, c = (load_file(one.trained("kto") / WEIGHTS) for one in (cold, again, first))
    assert all(bool((a[k] == b[k]).all()) for k in a) and not all(bool((a[k] == c[k]).all()) for k in a)
    assert warm.build(other, seed=0, start=None)[0].model is not base
    full = first.model.model_copy(update={"train": "full"})
    one, two = (warm.build(full, seed=0, start=None)[0].model for _ in range(2))
    assert one is not two, "weights that train are loaded anew"


@pytest.mark.parametrize("train", ["lora", "full"])
def test_start_and_also(model: Path, tmp_path: Path, train: Literal["lora", "full"]) -> None:
    """A run can start from what another trained, adapter or all weights, and score others beside it."""
    first = make_run(model, tmp_path / "first")
    first = replace(first, model=first.model.model_copy(update={"train": train}))
    work(first, local, NoCheckpoints())
    second = replace(
        first,
        out=tmp_path / "second",
        stages=first.stages[1:],
        start=first.trained("kto"),
        also={"stage1": first.trained("distribution")},
    )
    work(second, local, NoCheckpoints())
    for mine, theirs in ((BASE, "kto"), ("stage1", "distribution")):
        a, b = read_scores(second.out, mine)["exam"], read_scores(first.out, theirs)["exam"]
        assert all(np.allclose(x, y, atol=1e-6) for x, y in zip(a, b, strict=True))
    moved = read_scores(second.out, "kto")["exam"][0] - read_scores(second.out, BASE)["exam"][0]
    assert np.abs(moved).max() > 1e-3
    other = "full" if train == "lora" else "lora"
    misfits = {other: first.model.model_copy(update={"train": other})}
    if train == "lora":
        misfits["rank"] = replace_rank(first.model)
    for name, changed in misfits.items():
        misfit = replace(make_run(model, tmp_path / name, start=first.trained("kto")), model=changed)
        with pytest.raises(ModelError, match="does not fit|all weights of a model"):
            work(misfit, local, NoCheckpoints())


def replace_rank(model: ModelConfig) -> ModelConfig:
    return model.model_copy(update={"lora_r": 8})


def test_reference_table_is_made_once_and_never_for_another(model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    rendered = [render(c, tokenizer) for c in behaviour_cells(3)]
    calls: list[int] = []

    def score(rows: Any) -> list[np.ndarray]:
        calls.append(len(rows))
        return [np.arange(len(r.completion_ids)) - 0.5 for r in rows]

    def read(identity: dict[str, str], rows: Any = rendered) -> list[np.ndarray]:
        return reference_logps(rows, score=score, identity=identity, folder=tmp_path)

    first, again = read({"adapter": "a"}), read({"adapter": "a"})
    assert calls == [3] and all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    read({"adapter": "b"})
    read({"adapter": "a"}, rendered[:2])
    assert calls == [3, 3, 2]
    assert table_key(rendered, {"x": "1"}) != table_key(rendered, {"x": "2"})
    # A damaged table is made anew, and never guessed where the model has moved on.
    path = tmp_path / f"{table_key(rendered, {'adapter': 'a'})}.arrow"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelError, match="table of this stage is gone"):
        reference_logps(rendered, score=score, identity={"adapter": "a"}, folder=tmp_path, make=False)
    repaired = read({"adapter": "a"})
    assert len(calls) == 4 and all(np.array_equal(a, b) for a, b in zip(first, repaired, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(first, read({"adapter": "a"}), strict=True)) and len(calls) == 4


def test_ranks_that_cannot_see_the_table_say_so(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="on another machine"):
        reference_logps([], score=list, identity={}, folder=tmp_path, writer=False, agree=lambda here: True)


def test_kto_refuses_what_would_not_hold_the_people() -> None:
    with pytest.raises(ConfigError, match="closed answer sets"):
        kto_term(behaviour_cells(), KtoConfig(negatives="policy"))
    with pytest.raises(ConfigError, match="lambda_d = lambda_u"):
        kto_term(survey_cells(), KtoConfig(negatives="policy", lambda_d=1.2))
    with pytest.raises(ConfigError, match="closed answer sets"):
        kto_term(behaviour_cells(), KtoConfig(z0="options"))
    with pytest.raises(ConfigError, match="open answers"):
        kto_term(survey_cells(), KtoConfig(z0="mismatched"))
    assert kto_term(survey_cells(), KtoConfig(negatives="policy")).mismatched is False
    assert kto_term(behaviour_cells(), KtoConfig()).mismatched is True
    assert kto_term(behaviour_cells(1), KtoConfig()).mismatched is False, "one prompt has nothing to borrow"


def test_mismatched_completions_come_from_another_prompt() -> None:
    cells = behaviour_cells(4)
    pairs = mismatched_cells(cells)
    for cell, pair in zip(cells, pairs, strict=True):
        assert pair.prompt == cell.prompt and pair.desirable == (pytest.approx(cell.mass),)
    shuffled = mismatched_cells(cells[::-1])
    assert [p.completions for p in shuffled] == [p.completions for p in pairs][::-1], "the pairing is the cells' alone"


def test_the_schedule() -> None:
    rates = [learning_rate(s, steps=100, peak=1.0, warmup=0.1) for s in range(100)]
    assert (
        rates[0] == pytest.approx(0.1)
        and max(rates) == pytest.approx(1.0)
        and rates[-1] == pytest.approx(0.1, abs=0.01)
    )


def test_noise_and_identity_tell_ways_of_computing_apart(model: Path) -> None:
    base, scored = build(ModelConfig(path=str(model), lora_r=4), seed=0, start=None)
    rows = [render(c, base.tokenizer) for c in survey_cells(3)]
    engine, known, logps = local(scored, 2), [], []
    for way in ("sdpa", "dense", "eager"):
        if way == "dense":
            scored.packed = False
        if way == "eager":
            scored.attend_by("eager")
            assert not scored.packed and "packed rows need sdpa" in scored.abilities.why
        known.append(identity(base, scored, None))
        logps.append(score_all(engine, rows, pad_id=2, packed=scored.packed, token_budget=600))
    assert len({table_key(rows, who) for who in known}) == 3, "each way has a table of its own"
    for other in logps[1:]:
        off = noise(logps[0], other)
        assert 0 <= off.rms <= off.largest < 1e-3 and off.completions == 9
    one, two = [np.array([1.0, 2.0])], [np.array([1.0, 2.3])]
    assert noise(one, two) == pytest.approx((0.3 / 2**0.5, 0.3, 2))
