"""Signals compared on a very small model: equal compute, a choice on select, figures on report, nothing done twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny import make_tiny

from valuealign import config as configuration
from valuealign.compare import Comparison, compare, held_out, markdown, plan, terms
from valuealign.config import RunConfig
from valuealign.dataset import Dataset, build
from valuealign.engine import row_tokens
from valuealign.errors import ConfigError
from valuealign.evaluate import Exam, exam_of
from valuealign.models.load import load_base
from valuealign.packing import step_cells
from valuealign.prompts import render
from valuealign.types import BASE

TOKENS = 6000
KEYS = ("survey.people=400", "groups.crossings=1", "groups.max_groups=5", "evaluate.bootstrap=20")
TRAIN = ("distribution.cells_per_step=4", "prompts.evaluate=[chat, card]", "model.lora_r=2")


class World:
    """A small public, its exam, and a model that is trained in seconds."""

    def __init__(self, folder: Path) -> None:
        model = make_tiny(folder / "model")
        self.config: RunConfig = configuration.load(None, [*KEYS, *TRAIN, f"model.path={model}"])
        self.dataset: Dataset = build(self.config)
        weights_P = self.dataset.weights.weights_P
        self.exam: Exam = exam_of(self.config, self.dataset.survey, weights_P, self.dataset.groups, self.dataset.splits)

    def compare(self, out: Path, lines: list[str], signals: tuple[str, ...]) -> list[Comparison]:
        run = compare(
            self.config,
            self.dataset,
            self.exam,
            out,
            tokens=TOKENS,
            signals=signals,
            rates=(0.1, 8.0),
            say=lines.append,
        )
        return list(run)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def test_a_comparison(world: World, tmp_path: Path) -> None:
    lines: list[str] = []
    first, last = world.compare(tmp_path, lines, ("targets", "documents"))
    assert list(first.chosen) == ["targets"] and list(last.chosen) == ["targets", "documents"]
    assert last.evaluation.part == "report" and last.evaluation.stages == (BASE, "targets", "documents")
    for trial in last.trials:
        assert TOKENS <= trial.tokens < TOKENS + 4 * 1500  # on after the budget for less than a step
    assert [trial.rate for trial in last.trials] == pytest.approx([0.0004, 0.032] * 2)
    for signal, chosen in last.chosen.items():
        assert chosen.distance == min(trial.distance for trial in last.trials if trial.signal == signal)
    reworded = last.evaluation.figure("cells", "targets (asked as card, never trained)")
    assert reworded.value != last.evaluation.figure("cells", "targets").value
    # So few tokens teach a random model little, but first of all to answer with what is listed.
    masses = [last.evaluation.figure("everyone", who, "raw_mass").value for who in ("targets", BASE)]
    assert masses[0] > masses[1]
    table = markdown(last)
    assert "| documents |" in table and "| minus targets |" in table and f"{TOKENS}" not in table
    assert all(line.count("|") == table.splitlines()[0].count("|") for line in table.split("\n\n")[0].splitlines())

    # Repeated, it reads what lies there; cut off in between, it goes on.
    (tmp_path / "trials" / "documents@0.032" / "trial.json").unlink()
    again: list[str] = []
    repeated = world.compare(tmp_path, again, ("targets", "documents"))[-1]
    assert sum("done before" in line for line in again) == 3
    assert repeated.evaluation.to_json() == last.evaluation.to_json() and repeated.chosen.keys() == last.chosen.keys()
    assert repeated.chosen["documents"].distance == last.chosen["documents"].distance


def test_every_signal_has_its_term(world: World) -> None:
    made = {name: make() for name, make in terms(world.dataset, world.config, most=60).items()}
    assert list(made) == ["targets", "individuals", "profile", "modal", "documents"]
    assert {name: term.objective for name, term in made.items()} == {
        **dict.fromkeys(made, "distribution"),
        "documents": "sft",
    }
    assert {name: term.weigh for name, term in made.items()} == {
        **dict.fromkeys(made, "n_eff"),
        "individuals": "mass",
        "profile": "mass",
    }
    assert len(made["individuals"].cells) <= 60 and len(made["targets"].cells) == len(made["modal"].cells)
    asked = {cell.prompt for cell in world.exam.cells}
    # The embedded public's items measure values, so profiles are of values.
    assert any("Beside other things in life" in cell.prompt[-1].content for cell in made["profile"].cells)
    seen = {name: {cell.prompt for cell in term.cells} & asked for name, term in made.items() if name != "documents"}
    trained = {cell.prompt for cell in made["targets"].cells}
    assert all(prompts <= trained for prompts in seen.values()), "no signal asks what is held out"


def test_the_plan_counts_what_is_forwarded(world: World) -> None:
    tokenizer = load_base(world.config.model.path).tokenizer
    term = terms(world.dataset, world.config, most=60)["targets"]()
    stage, planned = plan(term, tokenizer, world.config, tokens=TOKENS, peak=0.01, packed=True)
    costs = [row_tokens(render(cell, tokenizer), True) for cell in term.cells]
    steps = [step_cells(len(costs), step=n, cells_per_step=4, seed=world.config.seed) for n in range(stage.steps)]
    seen = [sum(costs[c] for c in chosen) for chosen in steps]
    assert planned == sum(seen) >= TOKENS > sum(seen[:-1])
    assert stage.learning_rate == 0.01 and stage.terms == (term,)


def test_a_rate_is_chosen_on_select_alone(world: World) -> None:
    """Splits count alike: the geometric mean, so that halving any of them halves nothing but its share."""
    exam = world.exam.only("select")
    right = [np.zeros(len(cell.completions)) for cell in exam.cells]
    for panel in exam.panels:
        for c, truth in zip(panel.cell_C, panel.truth_CK, strict=True):
            right[c] = np.log(np.maximum(truth[: len(right[c])], 1e-9))
    flat = [np.zeros(len(cell.completions)) for cell in exam.cells]
    assert held_out(world.exam, right) < 1e-6 < held_out(world.exam, flat)
    with pytest.raises(AssertionError):
        held_out(world.exam, [np.zeros(len(cell.completions)) for cell in world.exam.cells])


def test_an_unknown_signal_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'modal'"):
        world.compare(tmp_path, [], ("modla",))
    assert not any(tmp_path.iterdir())


def test_templates_that_are_mixed_are_trained(world: World) -> None:
    mixed = replace_prompts(world.config, ["chat", "qa"])
    cells = terms(world.dataset, mixed, most=60)["targets"]().cells
    assert len(cells) == 2 * len(terms(world.dataset, world.config, most=60)["targets"]().cells)


def replace_prompts(config: RunConfig, names: list[str]) -> RunConfig:
    return config.model_copy(update={"prompts": config.prompts.model_copy(update={"train": tuple(names)})})
