"""The schema of a run: what it refuses, and where it says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from valuealign.config import RunConfig, describe, differences, dump, home, load, with_keys
from valuealign.errors import ConfigError


def write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: Path | None = None, overrides: tuple[str, ...] = ()) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    assert caught.value.what and caught.value.where and caught.value.mend
    return caught.value


def test_an_empty_file_is_a_complete_run(tmp_path: Path) -> None:
    assert load(write(tmp_path, "")) == load() == RunConfig()


def test_a_file_and_the_command_line_over_it(tmp_path: Path) -> None:
    run = load(write(tmp_path, "seed: 3\nkto: {beta: 0.2, lambda_d: 1.2}\n"), ["kto.beta=0.3", "name=mine"])
    assert (run.seed, run.name, run.kto.beta, run.kto.lambda_d) == (3, "mine", 0.3, 1.2)
    assert run.kto.lambda_u == RunConfig().kto.lambda_u


def test_values_are_read_as_yaml() -> None:
    run = load(None, ["stages=[distribution]", "weighting.trim=null", "sweep.space.beta=[0.01, 1]"])
    assert run.stages == ("distribution",)
    assert run.weighting.trim is None
    assert run.sweep.space.beta == (0.01, 1.0)


@pytest.mark.parametrize(
    ("text", "key", "near"),
    [
        ("kto: {bta: 0.1}", "kto.bta", "kto.beta"),
        ("kt0: {beta: 0.1}", "kt0", "kto"),
        ("beta: 0.1", "beta", "kto.beta"),
        ("sweep: {space: {lamda_d: [1, 2]}}", "sweep.space.lamda_d", "sweep.space.lambda_d"),
    ],
)
def test_a_misspelt_key_in_a_file_names_the_nearest(tmp_path: Path, text: str, key: str, near: str) -> None:
    error = refused(write(tmp_path, text))
    assert key in error.what and near in error.mend
    assert "run.yaml" in error.where


@pytest.mark.parametrize(
    ("override", "near"),
    [
        ("kto.bta=0.1", "kto.beta"),
        ("sead=1", "seed"),
        ("distribution.lambda_d=1", "kto.lambda_d"),
        ("survey.peple=200", "survey.people"),
    ],
)
def test_a_misspelt_override_names_the_nearest(override: str, near: str) -> None:
    error = refused(None, (override,))
    assert near in error.mend and error.where == "command line"


@pytest.mark.parametrize(
    "override",
    [
        "kto.beta=-1",
        "kto.beta=.nan",
        "kto.beta=fast",
        "seed=-1",
        "stages=[]",
        "stages=[kto, distribution]",
        "stages=[kto, kto]",
        "train.zero=4",
        "splits.train=0.9",  # leaves no people for report
        "name=../elsewhere",
        "weighting.trim=0.5",
        "evaluate.bootstrap=1",
    ],
)
def test_a_value_out_of_range_is_refused(override: str) -> None:
    refused(None, (override,))


@pytest.mark.parametrize(
    "override", ["kto.beta", "seed.deeper=1", "kto.beta.deeper=1", "kto.beta=[1", "kto=3", "nowhere.beta=1"]
)
def test_a_malformed_override_is_refused(override: str) -> None:
    refused(None, (override,))


@pytest.mark.parametrize(
    ("override", "where"),
    [
        ("kto.beta=-1", "command line"),
        ("sweep.space.beta=[2]", "command line"),
        ("survey.waves=[[1]]", "command line"),
        ("seed=1", "run.yaml"),
        ("kto.lambda_d=1", "run.yaml"),
        ("splits.train=0.9", "run.yaml and command line"),  # with the file's select it leaves nobody
        ("stages=[kto, distribution]", "run.yaml and command line"),
    ],
)
def test_a_mistake_is_sought_where_it_was_made(tmp_path: Path, override: str, where: str) -> None:
    text = "splits: {select: 0.2}\n" + ("kto: {beta: -1}\n" if where == "run.yaml" else "kto: {beta: 0.2}\n")
    assert refused(write(tmp_path, text), (override,)).where.removeprefix(f"{tmp_path}/") == where


def test_a_section_that_a_file_makes_a_value(tmp_path: Path) -> None:
    refused(write(tmp_path, "kto: 3"), ("kto.beta=0.1",))


@pytest.mark.parametrize("text", ["- a list", "just words", "kto: {beta: 0.1", "a: b: c", "kto:\n\tbeta: 1\n"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    assert "run.yaml" in refused(write(tmp_path, text)).where


def test_a_yaml_mistake_names_its_line(tmp_path: Path) -> None:
    assert refused(write(tmp_path, "seed: 1\nname: a: b\nstages: [kto]\n")).where.endswith("run.yaml, line 2")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert "nowhere.yaml" in refused(tmp_path / "nowhere.yaml").where
    refused(tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("name: caf\xe9".encode("latin-1"))
    assert "UTF-8" in refused(latin).what


def test_paths_of_a_file_are_seen_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, elsewhere = tmp_path / "runs", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    path = write(folder, "survey: {reader: generic, file: data/s.csv, codebook: ../book.yaml}\n")
    run = load(path, ["weighting.margins=margins.csv"])
    assert run.survey.file == folder / "data" / "s.csv"
    assert run.survey.codebook is not None and run.survey.codebook.resolve() == tmp_path / "book.yaml"
    assert run.weighting.margins == elsewhere / "margins.csv"


def test_a_model_folder_is_seen_from_the_file_and_the_seed_is_a_name(tmp_path: Path) -> None:
    (tmp_path / "models" / "small").mkdir(parents=True)
    assert load(write(tmp_path, "model: {path: models/small}")).model.path == str(tmp_path / "models" / "small")
    assert load(write(tmp_path, "model: {path: seed}")).model.path == "seed"


def test_dump_reads_back_to_the_same_run(tmp_path: Path) -> None:
    run = load(None, ["kto.beta=0.37", "survey.file=s.csv", "stages=[distribution]", "groups.traits=[age, sex]"])
    assert load(write(tmp_path, dump(run))) == run
    assert dump(run) == dump(load(write(tmp_path, dump(run))))


def test_describe_names_every_key_with_a_default_and_a_meaning() -> None:
    lines = describe().splitlines()
    by_key = {line.split()[0]: line.split()[1:] for line in lines}
    leaves = _leaves(yaml.safe_load(dump(RunConfig())))
    assert set(by_key) == leaves
    assert all(len(rest) >= 2 for rest in by_key.values()), "a key without a description"


def _leaves(tree: object, prefix: str = "") -> set[str]:
    if not isinstance(tree, dict) or not tree:  # an empty mapping is a value
        return {prefix.removesuffix(".")}
    return {leaf for name, inner in tree.items() for leaf in _leaves(inner, f"{prefix}{name}.")}


def test_a_run_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().kto.beta = 2.0


def test_home_is_absolute_and_taken_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VALUEALIGN_HOME", "kept")
    assert home() == tmp_path / "kept"
    monkeypatch.setenv("VALUEALIGN_HOME", "")
    assert home() == Path.home() / ".valuealign"


def test_names_may_be_numbers_and_a_list_of_one_a_single_value() -> None:
    run = load(None, ["survey.waves=[2020, 2021]", "survey.only={country: NZL, q5: [1]}", "splits.waves=2021"])
    assert run.survey.waves == ("2020", "2021") and run.splits.waves == ("2021",)
    assert run.survey.only == {"country": ("NZL",), "q5": ("1",)}
    with pytest.raises(ConfigError, match="survey.waves"):
        load(None, ["survey.waves={a: 1}"])
    with pytest.raises(ConfigError, match="survey.waves"):
        load(None, ["survey.waves=[true]"])


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ("{kto.anchr: {choices: [1, 2]}}", ("unknown key 'kto.anchr'", "kto.anchor")),
        ("{splits.train: {low: 0.1, high: 0.3}}", ("the same for all trials", "kto, distribution, train")),
        ("{train.workers: {choices: [1, 2]}}", ("the same for all trials", "train.workers")),
        ("{kto.anchor: {low: -1, high: 3}}", ("-1 is outside what 'kto.anchor' takes", "greater than or equal to 0")),
        ("{kto.z0: {choices: [auto, sometimes]}}", ("'sometimes' is outside what 'kto.z0' takes", "options")),
        ("{kto.cells_per_step: {low: 8, high: 64}}", ("outside what 'kto.cells_per_step' takes", "give choices")),
        ("{kto.beta: {low: 0.1, high: 0.3}}", ("kto.beta has a range of its own", "")),
        ("{kto.anchor: {low: 3, high: 1}}", ("takes low and high, low < high", "")),
        ("{kto.anchor: {low: 0, high: 1, log: true}}", ("log takes low > 0", "")),
        ("{kto.anchor: {low: 0, choices: [1]}}", ("either choices or low and high", "")),
    ],
)
def test_a_search_space_of_what_no_trial_can_set_is_refused(space: str, words: tuple[str, str]) -> None:
    error = refused(None, (f"sweep.space.also={space}",))
    assert words[0] in error.what and words[1] in f"{error.what} {error.mend}"
    assert "sweep.space" in str(error)


def test_a_search_space_has_what_every_key_is_drawn_from() -> None:
    space = "{kto.learning_rate: {low: 1.0e-4, high: 1.0e-3, log: true}, kto.anchor: {choices: [1, 3.0]}}"
    axes = load(None, [f"sweep.space.also={space}"]).sweep.space.axes
    assert list(axes) == ["kto.beta", "kto.lambda_d", "kto.lambda_u", "kto.learning_rate", "kto.anchor"]
    assert axes["kto.beta"].span == (0.02, 0.5) and axes["kto.beta"].log and not axes["kto.lambda_d"].log
    assert axes["kto.anchor"].choices == (1, 3.0) and axes["kto.anchor"].span is None


def test_other_values_of_some_keys_and_what_differs() -> None:
    changed = with_keys(RunConfig(), {"kto.beta": 0.3, "seed": 2, "stages": ["kto"]})
    assert (changed.kto.beta, changed.seed, changed.stages) == (0.3, 2, ("kto",))
    assert differences(dump(RunConfig()), dump(changed)) == [
        "seed: 0 there, 2 now",
        "stages: ['distribution', 'kto'] there, ['kto'] now",
        "kto.beta: 0.1 there, 0.3 now",
    ]
    assert differences(dump(changed), dump(changed)) == []
    for key in ("kto.bta", "kto", "seed.deeper", "nowhere.beta"):
        with pytest.raises(ConfigError):
            with_keys(RunConfig(), {key: 1})
