"""Codebooks of the wrong shape, taken the whole way to a data set: an error of ours, or a data set.

The contract (test_survey_contract.py) breaks bytes; here keys and values of YAML and JSON are dropped,
renamed, emptied, doubled and given another type, so that what is broken still parses.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from survey_samples import SAMPLES

from valuealign.config import GroupsConfig, RunConfig, ScreensConfig, SplitsConfig, SurveyConfig, WeightingConfig
from valuealign.dataset import build, facts, write
from valuealign.errors import ValuealignError

FULL = """
name: sample
licence: CC0-1.0
source: here
person: id
weight: w_1
duration: time_1
missing: [-2]
outcomes: {no answer: [-1]}
country: sex
desirability: [q3]
scales:
  agree: [1: Agree, 2: In between, 3: Disagree]
items:
  q0: {text: Statement 0, scale: agree, column: q0_1, values: [benevolence, power], family: f}
  q1: {label: Statement 1, scale: agree, column: q1_1, values: benevolence, reversed: true}
  q2: {text: Statement 2, column: q2_1, ordinal: false, outcomes: {no answer: []}, missing: [-1],
       options: [{code: 1, text: A}, {code: 2, text: B}, {code: 3, text: C}]}
  q3:
    {text: Statement 3, column: q3_1, options: [{code: 1, text: low, position: 0}, {code: 2, text: mid, position: 1},
     {code: 3, text: top, position: 5}]}
traits:
  sex: {as: noun, levels: {f: woman, m: {codes: [m], text: man}}}
  age: {text: age in years, missing: [99], bands: {18-49: young, old: {from: 50, to: 120, text: old}}}
  ethnicity: {several: true, yes: [1], no: [0],
              levels: {maori: {column: maori, text: x, as: before}, european: {column: european}}}
"""
# Reader (and what sets it apart) -> a codebook to lay beside its sample; None: the sample's own.
BOOKS: dict[str, str | None] = {
    "generic": None,
    "generic, one wave": FULL,
    "wvs": None,
    "wvs, own": "person: D_INTERVIEW\nweight: W_WEIGHT\nmissing: [-1, -2, -4, -5]\ncountry: nation\n"
    "items:\n  Q1: {text: 'How much?', options: [1: Much, 2: Some, 3: Little]}\n"
    "  Q60: {label: 'How many?', ordinal: false, options: [{code: 0, text: a}, {code: 1, text: b}, {code: 2, text: c}, "
    "{code: 3, text: d}]}\ntraits: {nation: {column: B_COUNTRY_ALPHA, levels: [NZL, USA]}}\n",
    "ess": "items: {ipcrtiv: Own, imprich: {text: Own too}}\ntraits: {sex: {text: gender}}\nduration: agea\n",
    "svs": None,
    "rvs": "items: {freedom: Liberty, wisdom: {text: Sense}}\nmissing: [NA]\n",
    "published": None,
}
ODD: list[Any] = [
    *(None, "", " ", "nan", "inf", "1e400", 10**30, -(10**30), -1, 0, 0.5, '"', ":", "{", "\x07", "\u202e", "x" * 3000),
    *(True, [], {}, ["a"], {"a": 1}, "{wave}", "person", "weight", "null", "01", "1.0", " 1", "..", "/", "a\nb", "a,b"),
    *("1_0", "\u0661", "no answer", "country"),
]


@dataclass(frozen=True)
class Shaped:
    """A sample in a folder, and the files of it that have a shape."""

    name: str
    config: SurveyConfig
    folder: Path
    whole: dict[str, str]

    def restore(self) -> None:
        for name, text in self.whole.items():
            (self.folder / name).write_text(text)


@pytest.fixture(scope="module", params=BOOKS)
def shaped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shaped]:
    folder = tmp_path_factory.mktemp("shaped") / "files"
    folder.mkdir()
    config = SAMPLES[request.param.split(",")[0]](folder)
    if BOOKS[request.param] is not None:
        (folder / "own.yaml").write_text(str(BOOKS[request.param]))
        config = config.model_copy(update={"codebook": folder / "own.yaml"})
    unused = {"generic.yaml"} if BOOKS[request.param] else set()
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in (".yaml", ".json", ".jsonl")]
    if config.codebook is not None and config.codebook.name == "own.yaml":
        files = [config.codebook]
    whole = {path.relative_to(folder).as_posix(): path.read_text() for path in files if path.name not in unused}
    with pytest.MonkeyPatch.context() as patch:
        # The samples are small, and what comes behind the splits is to be reached.
        patch.setattr(sys.modules["valuealign.splits.split"], "FEWEST_PEOPLE", 1)
        yield Shaped(request.param, config, folder, whole)


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys that lead to every value inside a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in inner:
        yield (*place, key)
        yield from places(child, (*place, key))


def misshape(value: Any, rng: random.Random) -> None:
    """One value inside is replaced, dropped, renamed or doubled, in place."""
    found = list(places(value))
    if not found:
        return
    *path, last = rng.choice(found)
    for key in path:
        value = value[key]
    odd = rng.choice(ODD)
    deed = rng.choice(["set", "set", "drop", "rename", "double"])
    if deed == "set":
        value[last] = odd
    elif deed == "drop":
        del value[last]
    elif isinstance(value, dict) and not isinstance(odd, (list, dict)):
        renamed = {(odd if key == last and deed == "rename" else key): child for key, child in value.items()}
        if deed == "double":
            renamed[odd] = value[last]
        value.clear()
        value.update(renamed)


LOADS: dict[str, Callable[[str], Any]] = {
    ".yaml": lambda text: yaml.load(text, Loader=yaml.BaseLoader),
    ".json": json.loads,
    ".jsonl": lambda text: [json.loads(line) for line in text.splitlines()],
}
DUMPS: dict[str, Callable[[Any], str]] = {
    ".yaml": lambda value: yaml.safe_dump(value, allow_unicode=True, sort_keys=False, width=10**9),
    ".json": json.dumps,
    ".jsonl": lambda value: "\n".join(map(json.dumps, value)),
}


def prepare(shaped: Shaped, everyone: Literal["equal"] | None) -> None:
    """What jobs/prepare.py does before anything is trained: read, weighted, split, written."""
    run = RunConfig(
        stages=("distribution",),
        survey=shaped.config,
        screens=ScreensConfig(least_items=2),
        weighting=WeightingConfig(everyone=everyone),
        groups=GroupsConfig(min_n_eff=2, crossings=1),
        splits=SplitsConfig(items=0, groups=0, cells=0, train=0.4, select=0.3),
    )
    out = shaped.folder.with_name("out")
    shutil.rmtree(out, ignore_errors=True)
    dataset = build(run)
    assert facts(dataset)
    write(dataset, out, lambda text: None)


def whole_way(shaped: Shaped, seed: int) -> None:
    """The sample with one file misshapen once to three times."""
    rng = random.Random(seed)
    shaped.restore()
    name = rng.choice(sorted(shaped.whole))
    ending = Path(name).suffix
    value = LOADS[ending](shaped.whole[name])
    for _ in range(rng.choice([1, 1, 2, 3])):
        misshape(value, rng)
    (shaped.folder / name).write_text(DUMPS[ending](value))
    try:
        prepare(shaped, rng.choice([None, "equal"]))
    except ValuealignError as error:
        assert error.what and error.mend and error.where, f"no place or no mend: {error}"
        assert "Node(" not in str(error)


@settings(
    max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)  # a few seconds; `make prove` looks further
@given(seed=st.integers(0, 2**32))
def test_no_codebook_of_another_shape_ends_in_a_traceback(shaped: Shaped, seed: int) -> None:
    whole_way(shaped, seed)


@pytest.mark.prove
@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_no_codebook_of_another_shape_ends_in_a_traceback_in_full(shaped: Shaped, seed: int) -> None:
    whole_way(shaped, seed)


def test_the_samples_go_the_whole_way_unbroken(shaped: Shaped) -> None:
    """Else nothing beyond the reading would be tried."""
    shaped.restore()
    prepare(shaped, None if shaped.name in ("generic", "svs", "rvs") else "equal")
