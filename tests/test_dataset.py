"""The prepared data set: what is written, that it is whole, and what may be released of it."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from valuealign import config as configuration
from valuealign.dataset import Dataset, build, facts, folder_of, release, write
from valuealign.errors import ConfigError, SurveyError
from valuealign.population import tabulate
from valuealign.types import EVERYONE

SMALL = ["survey.people=900", "groups.crossings=1"]


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return build(configuration.load(None, SMALL))


@pytest.fixture(scope="module")
def folder(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "demo-1"
    write(dataset, folder)
    return folder


def test_responses_hold_everybody_with_part_and_weight(dataset: Dataset, folder: Path) -> None:
    responses = pl.read_parquet(folder / "responses.parquet")
    assert responses["person"].to_list() == dataset.survey.people["person"].to_list()
    assert np.array_equal(responses["weight"].to_numpy(), dataset.weights.weights_P)
    assert np.array_equal(responses["design_weight"].to_numpy(), dataset.survey.people["weight"].to_numpy())
    parts = np.array(["train", "select", "report"])[dataset.splits.person_P]
    assert responses["part"].to_list() == parts.tolist()
    item = dataset.survey.codebook.items[0]
    assert responses.schema[item.id] == pl.Int16


def test_targets_of_each_part_are_those_of_its_people(dataset: Dataset, folder: Path) -> None:
    targets = pl.read_parquet(folder / "targets.parquet")
    assert set(targets["part"]) == {"all", "train", "select", "report"}
    item = dataset.survey.codebook.items[3]
    group = dataset.groups[2]
    for part in ("train", "select", "report"):
        table = tabulate(
            dataset.survey,
            dataset.weights.weights_P,
            dataset.groups,
            multiplicity_P=dataset.splits.people(part).astype(float),
        )
        mine = targets.filter(part=part, item=item.id, group=group.name)
        assert np.allclose(mine["share"].to_numpy(), table.shares(item.id, group))
        drawn = part == "train"
        assert bool((mine["pull"] > 0).all()) == drawn, "training targets are drawn towards everyone, truth never is"
        assert drawn or mine["share"].equals(mine["target"])
    everyone = targets.filter(part="all", item=item.id, group=EVERYONE.name)
    assert (everyone["pull"] == 0).all() and (everyone["floor"] > 0).all()
    assert (
        targets.filter(pl.col("part") != "all")["floor"].null_count() == targets.filter(pl.col("part") != "all").height
    )


def test_raw_targets_without_shrinkage() -> None:
    plain = build(configuration.load(None, [*SMALL, "groups.shrink=false"]))
    assert plain.shrunk is None and "drawn" not in " ".join(facts(plain))


def test_the_datasheet_says_what_was_done(dataset: Dataset, folder: Path) -> None:
    sheet = json.loads((folder / "datasheet.json").read_text())
    assert (sheet["people"], sheet["items"], sheet["tier"]) == (900, 24, "open")
    assert sheet["weights"]["design_effect"] == pytest.approx(dataset.weights.design_effect)
    assert {m["trait"] for m in sheet["weights"]["margins"]} == {"age", "sex", "region"}
    assert sheet["settings"]["survey"]["people"] == 900 and "model" not in sheet["settings"]
    book = json.loads((folder / "codebook.json").read_text())
    assert [item["id"] for item in book["items"]] == [item.id for item in dataset.survey.codebook.items]
    card = (folder / "README.md").read_text()
    head = yaml.safe_load(card.split("---\n")[1])
    assert {one["config_name"] for one in head["configs"]} == {path.stem for path in folder.glob("*.parquet")}
    for one in head["configs"]:
        assert (folder / one["data_files"]).exists()


def test_the_folder_is_there_whole_or_not_at_all(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data" / "demo"
    write(dataset, folder)
    before = (folder / "targets.parquet").read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with pytest.raises(OSError, match="no space"):
        write(dataset, folder)
    assert (folder / "targets.parquet").read_bytes() == before
    assert os.listdir(folder.parent) == ["demo"], "nothing half-written is left beside it"


def test_the_folder_follows_settings_and_files(tmp_path: Path) -> None:
    base = folder_of(configuration.load(None, SMALL), tmp_path)
    assert folder_of(configuration.load(None, [*SMALL, "kto.beta=0.3"]), tmp_path) == base, "not of the data"
    assert folder_of(configuration.load(None, [*SMALL, "seed=1"]), tmp_path) != base
    data = tmp_path / "s.csv"
    data.write_text("a")
    named = configuration.load(None, ["survey.reader=generic", f"survey.file={data}"])
    first = folder_of(named, tmp_path)
    data.write_text("b")
    assert folder_of(named, tmp_path) != first
    (tmp_path / "moved").mkdir()
    data.rename(tmp_path / "moved" / "s.csv")
    moved = configuration.load(None, ["survey.reader=generic", f"survey.file={tmp_path / 'moved' / 's.csv'}"])
    assert folder_of(moved, tmp_path) == folder_of(moved, tmp_path) != first
    (tmp_path / "moved" / "s.csv").write_text("a")
    assert folder_of(moved, tmp_path) == first, "where a file lies plays no part"


def retiered(folder: Path, tmp_path: Path, tier: str) -> Path:
    copy = tmp_path / f"copy-{tier}"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    sheet = json.loads((copy / "datasheet.json").read_text())
    (copy / "datasheet.json").write_text(json.dumps(sheet | {"tier": tier, "licence": "ours alone"}))
    return copy


def test_an_open_licence_releases_everything_but_ids(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tables = release(folder, out, least_n=60)
    assert {"responses", "targets", "pairs"} <= set(tables)
    people = pl.read_parquet(out / "responses.parquet")
    assert sorted(people["person"]) == list(range(1, 901))
    whole = pl.read_parquet(folder / "responses.parquet")
    same = people.drop("person").sort(pl.all()).equals(whole.drop("person").sort(pl.all()))
    assert same, "nothing but the ids and the order is lost"
    ranks = np.corrcoef(people["person"].to_numpy(), people["weight"].to_numpy())[0, 1]
    assert not people.drop("person").equals(whole.drop("person")) and abs(ranks) < 0.2, "the order tells nothing"
    targets, all_targets = (pl.read_parquet(at / "targets.parquet") for at in (out, folder))
    assert targets["n"].min() >= 60 and set(targets["part"]) == {"all", "train", "select", "report"}  # type: ignore[operator]
    sizes = all_targets.group_by("item", "group").agg(pl.col("n").min(), pl.col("part").n_unique())
    small = sizes.filter((pl.col("n") < 60) | (pl.col("part") < 4)).select("item", "group")
    assert small.height and set(targets.join(small, on=["item", "group"], how="semi")["part"]) <= {"all"}
    released = sorted(path.read_text() for path in out.glob("*.json")) + [(out / "README.md").read_text()]
    assert not any("/tmp" in text or "/home" in text for text in released)
    with pytest.raises(SurveyError, match="there already"):
        release(folder, out)
    assert "responses" not in release(folder, tmp_path / "out2", responses=False)


def test_aggregates_release_no_person(folder: Path, tmp_path: Path) -> None:
    shares_only = retiered(folder, tmp_path, "aggregates")
    tables = release(shares_only, tmp_path / "out")
    assert "targets" in tables and "responses" not in tables
    assert not (tmp_path / "out" / "responses.parquet").exists()
    assert "responses" not in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(SurveyError, match=r"ours alone.*persons' answers"):
        release(shares_only, tmp_path / "other", responses=True)
    assert not (tmp_path / "other").exists()


def test_small_groups_outcomes_are_not_released(tmp_path: Path) -> None:
    rows = [f"{n},{-1 if n % 5 == 0 else n % 3 + 1},{n % 3 + 1},{'f' if n < 6 else 'm'}" for n in range(120)]
    (tmp_path / "s.csv").write_text("\n".join(["id,a,b,sex", *rows]) + "\n")
    (tmp_path / "s.yaml").write_text(
        "licence: CC0\nperson: id\noutcomes: {refused: [-1]}\nscales: {s: [1: low, 2: mid, 3: top]}\n"
        "items: {a: {text: One?, scale: s}, b: {text: Two?, scale: s}}\ntraits: {sex: {levels: [f, m]}}\n"
    )
    config = ["survey.reader=generic", f"survey.file={tmp_path}/s.csv", f"survey.codebook={tmp_path}/s.yaml"]
    config += ["groups.min_n_eff=1", "splits.items=0", "splits.groups=0", "splits.cells=0"]
    sheet = write(build(configuration.load(None, config)), tmp_path / "kept")
    assert sheet["settings"]["survey"]["file"] == "s.csv", "names of files, not where they lie"
    kept = pl.read_parquet(tmp_path / "kept" / "outcomes.parquet")
    assert dict(kept.filter(item="a").select("group", "n").iter_rows()) == {"everyone": 120, "sex=f": 6, "sex=m": 114}
    assert dict(kept.filter(item="a").select("group", "share").iter_rows())["sex=f"] == pytest.approx(2 / 6)
    release(tmp_path / "kept", tmp_path / "out")
    assert set(pl.read_parquet(tmp_path / "out" / "outcomes.parquet")["group"]) == {"everyone", "sex=m"}


def small_survey(tmp_path: Path) -> Path:
    """Few women, some of them marked by a screen, and two items keyed each way: a data set with every table."""
    tens = range(10)
    rows = [f"{n},{n % 13 + 20 + 600 * (n % 9 > 0)},{'f' if n < 12 else 'm'}," for n in range(240)]
    rng = np.random.default_rng(1)
    for n, row in enumerate(rows):
        answers = [str(rng.integers(1, 5)) for _ in tens]
        answers[0] = "9" if n % 4 == 0 else answers[0]
        rows[n] = row + ",".join(answers)
    (tmp_path / "s.csv").write_text("\n".join(["id,time,sex," + ",".join(f"q{k}" for k in tens), *rows]) + "\n")
    items = "".join(
        f"  q{k}: {{text: 'About {chr(97 + k) * 5}?', scale: s, values: [power], reversed: {str(k > 1).lower()}}}\n"
        for k in tens
    )
    (tmp_path / "s.yaml").write_text(
        "licence: CC0\nperson: id\nduration: time\noutcomes: {refused: [9]}\nscales: {s: [1: a, 2: b, 3: c, 4: d]}\n"
        f"items:\n{items}traits: {{sex: {{levels: [f, m]}}}}\n"
    )
    config = ["survey.reader=generic", f"survey.file={tmp_path}/s.csv", f"survey.codebook={tmp_path}/s.yaml"]
    config += ["groups.min_n_eff=1", "splits.items=0", "splits.groups=0", "splits.cells=0", "screens.least_items=3"]
    write(build(configuration.load(None, config)), tmp_path / "kept")
    return tmp_path / "kept"


def test_what_is_withheld_is_withheld_in_every_table(tmp_path: Path) -> None:
    kept = small_survey(tmp_path)
    tables = release(kept, tmp_path / "out", least_n=12)
    assert {"targets", "outcomes", "screens", "screened_targets", "sensitivity"} <= set(tables)
    before, after = (
        {name: pl.read_parquet(at / f"{name}.parquet") for name in tables} for at in (kept, tmp_path / "out")
    )
    few = before["targets"].filter(pl.col("part") == "all", pl.col("n") < 12).select("item", "group").unique()
    assert set(few.iter_rows()) == {("q0", "sex=f")}, "9 of 12 women answered q0"
    for name in ("targets", "outcomes", "screened_targets", "sensitivity"):
        assert before[name].join(few, on=["item", "group"], how="semi").height, f"{name} had them"
        assert not after[name].join(few, on=["item", "group"], how="semi").height, f"{name} gives them away"
        assert after[name].height
    marked = after["screened_targets"].select(marked=pl.col("n") - pl.col("n_without"), left="n_without")
    assert marked.filter(pl.col("left") < 12).is_empty()
    assert marked.filter(pl.col("marked").is_between(1, 11)).is_empty() and marked["marked"].max() >= 12
    was = before["screened_targets"].select(marked=pl.col("n") - pl.col("n_without"))
    assert was.filter(pl.col("marked").is_between(1, 11)).height, "the difference would have told"


def test_a_damaged_data_set_is_not_released(folder: Path, tmp_path: Path) -> None:
    for name, damage, words in (
        ("targets.parquet", None, "targets.parquet of the data set is gone"),
        ("targets.parquet", b"PAR1", "the table cannot be read"),
        ("datasheet.json", b"", "the datasheet cannot be read"),
        ("datasheet.json", b"[]", "the datasheet cannot be read"),
        ("datasheet.json", b'{"tables": []}', "the datasheet cannot be read"),
        ("codebook.json", None, "codebook.json of the data set is gone"),
    ):
        copy = retiered(folder, tmp_path, "open")
        (copy / name).unlink()
        if damage is not None:
            (copy / name).write_bytes(damage)
        with pytest.raises(SurveyError, match=words):
            release(copy, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        shutil.rmtree(copy)


def test_a_release_that_cannot_be_written_is_a_mistake_in_words(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "out", Path("/proc/out")):
        with pytest.raises(ConfigError, match=r"cannot make the folder \("):
            release(folder, out)


def test_facts_say_what_the_targets_do_not_speak_for(tmp_path: Path) -> None:
    """An item that one country was not asked, a group of one country, groups left out, styles, numbered rows."""
    rng, rows = np.random.default_rng(0), []
    for n in range(360):
        country = ("NZL", "AUS", "FJI")[n % 3]
        answers = ["" if country == "AUS" else str(rng.integers(1, 5)), *map(str, rng.integers(1, 5, 3))]
        tongue = "rare" if n < 9 else "maori" if country == "NZL" else "english"
        rows.append(",".join([country, tongue, str(1 + 9 * (n == 40)), *answers]))
    (tmp_path / "s.csv").write_text("\n".join(["nation,tongue,w,q0,q1,q2,q3", *rows]) + "\n")
    texts = ("Cats?", "Dogs bark?", "Rivers?", "DOGS BARK.")
    items = "".join(f"  q{k}: {{text: '{text}', scale: s}}\n" for k, text in enumerate(texts))
    (tmp_path / "s.yaml").write_text(
        "licence: CC0\nweight: w\ncountry: nation\nscales: {s: [1: a, 2: b, 3: c, 4: d]}\n"
        f"items:\n{items.replace('Rivers?' + chr(39), 'Rivers?' + chr(39) + ', ordinal: false')}desirability: [q2]\n"
        "traits: {nation: {levels: [NZL, AUS, FJI]}, tongue: {levels: [english, maori, rare]}}\n"
    )
    config = ["survey.reader=generic", f"survey.file={tmp_path}/s.csv", f"survey.codebook={tmp_path}/s.yaml"]
    config += ["groups.min_n_eff=20", "groups.crossings=1", "groups.max_groups=5", "splits.groups=0", "splits.cells=0"]
    found = facts(build(configuration.load(None, [*config, "weighting.everyone=equal"])))
    assert found["items that speak for some countries only"] == "1 of 4: q0 without AUS"
    assert found["groups that speak for some countries only"] == (
        "2 of 5: tongue=english without NZL; tongue=maori without AUS, FJI"
    )
    assert "fewer than 20 people" in found["groups"] and "1 beyond the largest" in found["groups"]
    assert found["weights"] == "the survey's own, but each country brought to its part of everyone; no margins given"
    assert (
        found["answering styles"].startswith("no acquiescence") and "q2: named for social" in found["answering styles"]
    )
    assert found["items that stay together (families and near-duplicates)"] == "q1 + q3"
    notes = [fact for name, fact in found.items() if name.startswith("note")]
    assert any("numbered by their rows" in note for note in notes)
    assert any("Nothing was trimmed" in note for note in notes)
    one = facts(build(configuration.load(None, [*config, "survey.only={nation: [NZL]}", "groups.min_n_eff=15"])))
    assert not any("some countries" in name for name in one)


def test_a_closed_licence_releases_nothing(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SurveyError, match="nothing be passed on"):
        release(retiered(folder, tmp_path, "closed"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_datasets_reads_a_release(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    release(folder, tmp_path / "release")
    import datasets

    for name in ("targets", "responses"):
        read = datasets.load_dataset(str(tmp_path / "release"), name, split="train", cache_dir=str(tmp_path / "cache"))
        assert len(read) == pl.read_parquet(tmp_path / "release" / f"{name}.parquet").height
    assert {"item", "group", "share", "n_eff"} <= set(
        datasets.load_dataset(str(tmp_path / "release"), split="train", cache_dir=str(tmp_path / "cache")).column_names
    ), "targets are the default"


def test_dropped_people_stay_visible_and_out_of_the_targets() -> None:
    config = configuration.load(None, [*SMALL, "screens.variance=drop", "screens.variance_below=0.05"])
    dropped = build(config)
    gone = dropped.asked.people.height - dropped.survey.people.height
    assert 0 < gone < 400 and int(dropped.screened.flags["variance"].sum()) == gone
    assert len(dropped.asked_weights_P) == 900 and len(dropped.weights.weights_P) == 900 - gone
    from valuealign.dataset.folder import _responses

    responses = _responses(dropped)
    assert responses.height == 900 and responses["weight"].null_count() == gone == responses["part"].null_count()
    assert responses.filter(pl.col("screen_variance"))["weight"].null_count() == gone


def test_facts_name_what_a_reader_left_out(dataset: Dataset) -> None:
    book = dataclasses.replace(dataset.survey.codebook, label_only=("ps_crowd",))
    survey = dataclasses.replace(dataset.survey, codebook=book, notes=("half of the file is missing",))
    screened = dataclasses.replace(dataset.screened, survey=survey)
    found = facts(dataclasses.replace(dataset, screened=screened))
    assert "half of the file is missing" in found.values()
    assert any("ps_crowd" in fact for fact in found.values())
    assert found["everyone"]
