"""WorldValuesBench (Zhao et al. 2024, LREC-COLING, aclanthology 2024.lrec-main.1539).

Scores x of a question become (x - min) / (max - min) of its scale; a question's figure is the Wasserstein-1
distance between the scores that a model gives for some participants and those participants' own; reported are
its mean over questions and the share of questions under .2. They sample one score for each participant;
here the model's whole distribution for the participant's group stands for the sample, which is its expectation.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from valuealign.errors import AnswerError, nearest
from valuealign.evaluate.benchmarks.benchmark import Benchmark, Content, as_item
from valuealign.evaluate.benchmarks.distributions import RAW_MASS, Asked, Published
from valuealign.evaluate.benchmarks.means import grouped_rows, numbered
from valuealign.evaluate.record import Kind, Row
from valuealign.evaluate.sheet import Heard, Sheet
from valuealign.metrics import Floats, softmax, wasserstein
from valuealign.surveys import files

NAME, TITLE = "worldvaluesbench", "WorldValuesBench: Wasserstein-1 distance to people's scores"
NEAR = 0.2
PERSON, COUNTRY = "D_INTERVIEW", "B_COUNTRY"
TRAITS = ("Continent", "Urban / Rural", "Education")
_HOW = {
    "named": "the group named in the prompt, groups mixed as the participants are",
    "unnamed": "nobody named",
    "traits": "the group named, within each level of a single trait",
}


class _Counts(NamedTuple):
    """How many participants of a group (its traits) gave each score [K] to a question; how many answers were empty."""

    counts: dict[tuple[str, tuple[str, ...]], Floats]
    left: int


@dataclass(frozen=True)
class _Bench:
    """A distribution for each question and group, and how many participants stand behind it."""

    published: Published
    count_A: Floats
    traits_A: Sequence[tuple[str, ...]]

    @cached_property
    def pools(self) -> Mapping[str, tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """For each way to pool: the distributions [N] that are pooled, and the pool of each."""
        asked = self.published.asked
        every = np.arange(len(asked))
        whole = numbered([one.question for one in asked])
        depth = len(self.traits_A[0]) if self.traits_A else 0
        levels = [
            (one.question, t, traits[t]) for t in range(depth) for one, traits in zip(asked, self.traits_A, strict=True)
        ]
        return {"named": (every, whole), "unnamed": (every, whole), "traits": (np.tile(every, depth), numbered(levels))}

    def distances(self, answers_AK: Floats, how: str) -> tuple[Floats, NDArray[np.intp]]:
        """W1 of each pool, and a distribution of each, which says its question."""
        index_N, pool_N = self.pools[how]
        first = np.unique(pool_N, return_index=True)[1]
        model, people = (self._pooled(shares, index_N, pool_N) for shares in (answers_AK, self.published.people_AK))
        return wasserstein(model, people, self.published.positions_AK[index_N[first]]), index_N[first]

    def _pooled(self, shares_AK: Floats, index_N: NDArray[np.intp], pool_N: NDArray[np.intp]) -> Floats:
        """The participants' mean distribution in each pool."""
        weight_N = self.count_A[index_N]
        total_QK = np.zeros((pool_N.max() + 1, shares_AK.shape[1]))
        np.add.at(total_QK, pool_N, weight_N[:, None] * shares_AK[index_N])
        return np.asarray(total_QK / np.bincount(pool_N, weight_N)[:, None])

    def majority(self) -> Floats:
        """The answers [A, K] of a model that gives each question's most frequent score (the lowest of several)."""
        people_AK = self.published.people_AK
        index_N, pool_N = self.pools["named"]
        best_Q = np.nan_to_num(self._pooled(people_AK, index_N, pool_N), nan=-1).argmax(-1)
        return np.where(np.isnan(people_AK), np.nan, np.arange(people_AK.shape[1]) == best_Q[pool_N][:, None])

    def judge(self, heard: Heard) -> tuple[Row, ...]:
        """W1 and the share of questions under .2, for every way to pool."""
        if not heard.logps:
            return ()
        rows: list[Row] = []
        flat = softmax(self.published.people_AK * 0.0)
        for how in self.pools:
            models = {w: self.published.answers_AK(x, named=how != "unnamed") for w, x in heard.logps.items()}
            rows += self._rows(how, models, "stage")
            rows += self._rows(how, {"uniform": flat}, "null", "every score alike")
            if how != "traits":
                rows += self._rows(how, {"majority": self.majority()}, "null", "everybody's most frequent score")
        return tuple(rows + self.published.raw_mass_rows(heard))

    def _rows(self, how: str, answers: Mapping[str, Floats], kind: Kind, note: str = "") -> list[Row]:
        found = {who: self.distances(shares_AK, how) for who, shares_AK in answers.items()}
        at_N = next(iter(found.values()))[1]
        cluster_N = numbered([self.published.asked[a].question for a in at_N])
        far = {who: distance_N for who, (distance_N, _) in found.items()}
        near = {who: (distance_N < NEAR).astype(np.float64) for who, distance_N in far.items()}
        out = []
        for metric, values in ((f"w1_{how}", far), (f"under_02_{how}", near)):
            out += grouped_rows(NAME, metric, values, cluster_N, bounds=(0.0, 1.0), kind=kind, note=note)
        return out


def read(path: Path) -> Content:
    """The questions of ``probe/samples.tsv`` or of a split's ``.._value_qa.tsv`` (``.._demographic_qa.tsv`` beside it).

    The samples' participants are looked up in ``valid/`` or ``full/``; scales and wordings stand in
    ``question_metadata.json``. Groups are the samples' continent, settlement and education, else the country.
    An empty answer does not count. Raises AnswerError for what is missing or does not fit.
    """
    path = _file(path)
    metadata = _metadata(path)
    sampled = not path.name.endswith("_value_qa.tsv")
    counts, left = _samples(path, metadata) if sampled else _split(path, metadata)
    if not counts:
        raise AnswerError(
            f"nobody answered anything: looked for answers to {len(metadata):,} value questions "
            f"({next(iter(metadata))} first) in the columns of that name, found {left:,} empty ones",
            where=str(path),
            mend="bring answers and question_metadata.json of one release",
        )
    texts = {name: as_item(name, str(metadata[name]["question"])) for name, _ in counts}

    def sheet(left_out: Collection[str]) -> Sheet:
        kept = {key: count_K for key, count_K in counts.items() if key[0] not in left_out}
        return _sheet(_bench(kept, metadata, sampled=sampled), left)

    return Content(texts, sheet)


def _sheet(bench: _Bench, left: int) -> Sheet:
    notes = [
        f"{int(bench.count_A.sum()):,} answers count; {left:,} empty ones do not",
        "for each participant a whole distribution stands where the published code has one sampled score",
        "answers are not weighted, as in the published benchmark",
    ]
    metrics = {
        f"{name}_{how}": f"{what}; {words}"
        for how, words in _HOW.items()
        for name, what in (
            ("w1", "Wasserstein-1 distance of scores on 0 to 1, mean over questions (lower is better)"),
            ("under_02", "the share of questions whose Wasserstein-1 distance is under .2 (higher is better)"),
        )
    }
    return Sheet(NAME, TITLE, {**metrics, "raw_mass": RAW_MASS}, bench.judge, bench.published.cells, notes=tuple(notes))


def _bench(
    counts: Mapping[tuple[str, tuple[str, ...]], Floats], metadata: Mapping[str, Mapping[str, Any]], *, sampled: bool
) -> _Bench:
    """The answers of each question and group as a distribution over the scale."""
    asked = []
    for (question, traits), count_K in counts.items():
        scale = _scale(metadata[question])
        asked.append(
            Asked(
                question=question,
                family=question,
                text=str(metadata[question]["question"]),
                options=tuple(str(score) for score in scale),
                group=", ".join(traits),
                phrase=_phrase(traits) if sampled else f"a person from {traits[0]}",
                shares=tuple((count_K / count_K.sum()).tolist()),
                positions=tuple(float(score) for score in scale),
            )
        )
    sums_A = np.array([count_K.sum() for count_K in counts.values()])
    return _Bench(Published(NAME, tuple(asked)), sums_A, [traits for _, traits in counts])


def _scale(metadata: Mapping[str, Any]) -> range:
    return range(int(metadata["answer_scale_min"]), int(metadata["answer_scale_max"]) + 1)


def _phrase(traits: Sequence[str]) -> str:
    continent, settlement, education = traits
    area = f"{'an' if settlement.lower().startswith('u') else 'a'} {settlement.lower()} area"
    return f"a person in {continent}, living in {area}, whose highest education is: {education}"


def _file(path: Path) -> Path:
    """The file that a folder means: its samples."""
    if not path.is_dir():
        return path
    for name in ("probe/samples.tsv", "samples.tsv"):
        if (path / name).is_file():
            return path / name
    mend = "name probe/samples.tsv, or a split's .._value_qa.tsv, or the folder WorldValuesBench"
    raise AnswerError("it holds no probe/samples.tsv", where=str(path), mend=mend)


def _beside(path: Path, names: Sequence[str], mend: str) -> Path:
    """The first file of these names in the folder of ``path`` or in the one above."""
    for folder in (path.parent, path.parent.parent):
        for name in names:
            if (folder / name).is_file():
                return folder / name
    raise AnswerError(f"no '{names[0]}' lies beside it or above it", where=str(path), mend=mend)


def _metadata(path: Path) -> dict[str, dict[str, Any]]:
    """The value questions with their scales."""
    file = _beside(path, ["question_metadata.json"], "their data_preparation.py writes it into WorldValuesBench/")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        kept = {key: one for key, one in found.items() if one["use_case"] == "value"}
        if not all(
            int(one["answer_scale_min"]) < int(one["answer_scale_max"]) and one["question"] for one in kept.values()
        ):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        raise AnswerError(
            "no metadata of WorldValuesBench",
            where=str(file),
            mend="each question has question, use_case, answer_scale_min and answer_scale_max: take the published file",
        ) from None
    if not kept:
        raise AnswerError("no question is a value question", where=str(file), mend="take the published file")
    return kept


def _samples(path: Path, metadata: Mapping[str, Mapping[str, Any]]) -> _Counts:
    """The answers of the sampled participants, by their groups."""
    samples = files.load(path, separator=files.separator(path))
    _need(samples, ("Question", PERSON, *TRAITS))
    question_S, person_S = samples.texts("Question").to_list(), samples.texts(PERSON).to_list()
    traits_S = list(zip(*(samples.texts(name).to_list() for name in TRAITS), strict=True))
    for row, question in enumerate(question_S):
        if question not in metadata:
            where, mend = samples.where("Question", row), nearest(question, metadata)
            raise AnswerError(f"question_metadata.json has no value question '{question}'", where=where, mend=mend)
    mend = "run their data_preparation.py on the file of the World Values Survey"
    table = _load(_beside(path, ["valid/valid_value_qa.tsv", "full/full_value_qa.tsv"], mend), set(question_S))
    people = {person: row for row, person in enumerate(table.texts(PERSON).to_list())}
    scores = {question: _scores(table, question, metadata[question]) for question in dict.fromkeys(question_S)}
    counts: dict[tuple[str, tuple[str, ...]], Floats] = {}
    left = 0
    for row, (question, person, traits) in enumerate(zip(question_S, person_S, traits_S, strict=True)):
        if person not in people:
            where, mend = samples.where(PERSON, row), f"take the samples and {table.layout.path.name} of one release"
            raise AnswerError(f"participant '{person}' is not among the answers", where=where, mend=mend)
        place = int(scores[question][people[person]])
        if place < 0:
            left += 1
            continue
        counts.setdefault((question, traits), np.zeros(len(_scale(metadata[question]))))[place] += 1
    return _Counts(counts, left)


def _split(path: Path, metadata: Mapping[str, Mapping[str, Any]]) -> _Counts:
    """All answers of a split, by country."""
    table = _load(path, set(metadata))
    twin = path.with_name(path.name.replace("_value_qa", "_demographic_qa"))
    people = files.load(twin, columns=(PERSON, COUNTRY), separator=files.separator(twin))
    _need(people, (PERSON, COUNTRY))
    country = dict(zip(people.texts(PERSON).to_list(), people.texts(COUNTRY).to_list(), strict=True))
    where_P = [country.get(person, "") for person in table.texts(PERSON).to_list()]
    for row, name in enumerate(where_P):
        if not name:
            mend = f"give the participant a {COUNTRY} in {twin.name}"
            raise AnswerError("the participant has no country", where=table.where(PERSON, row), mend=mend)
    country_P, names = numbered(where_P), list(dict.fromkeys(where_P))
    counts: dict[tuple[str, tuple[str, ...]], Floats] = {}
    left = 0
    for question in (name for name in metadata if name in table):
        score_P, k = _scores(table, question, metadata[question]), len(_scale(metadata[question]))
        known_P = score_P >= 0
        left += int((~known_P).sum())
        count_G = np.bincount(country_P[known_P] * k + score_P[known_P], minlength=len(names) * k).reshape(-1, k)
        counts |= {(question, (names[g],)): count_G[g].astype(np.float64) for g in np.flatnonzero(count_G.sum(-1))}
    return _Counts(counts, left)


def _load(path: Path, questions: set[str]) -> files.Table:
    table = files.load(path, columns={PERSON, *questions}, separator=files.separator(path))
    _need(table, (PERSON,))
    return table


def _need(table: files.Table, names: Sequence[str]) -> None:
    for name in names:
        if name not in table:
            mend = nearest(name, table.layout.names)
            raise AnswerError(f"no column '{name}'", where=str(table.layout.path), mend=mend)


def _scores(table: files.Table, question: str, metadata: Mapping[str, Any]) -> NDArray[np.intp]:
    """Each answer's place [P] on the scale, from 0; -1 where it is empty. AnswerError for one beside the scale."""
    _need(table, (question,))
    score_P = table.numbers(question)
    low, high = int(metadata["answer_scale_min"]), int(metadata["answer_scale_max"])
    given_P = np.asarray((table.texts(question) != "").to_numpy())
    odd_P = given_P & ~((score_P >= low) & (score_P <= high) & (score_P == np.floor(score_P)))
    if odd_P.any():
        raise AnswerError(
            f"an answer is no whole number from {low} to {high}",
            where=table.where(question, int(odd_P.argmax())),
            mend="use the file that their data_preparation.py writes: other answers are empty there",
        )
    return np.where(given_P, score_P - low, -1).astype(np.intp)


BENCHMARK = Benchmark(
    TITLE,
    "Zhao et al. 2024, aclanthology 2024.lrec-main.1539",
    "the folder WorldValuesBench as their data_preparation.py leaves it (probe/samples.tsv, valid/, "
    "question_metadata.json), or a split's .._value_qa.tsv",
    read,
)
