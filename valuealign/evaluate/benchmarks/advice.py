"""Judgements of conduct: posts that ask "am I in the wrong?", with the community's verdict.

Survey-to-Behavior (Nie et al. 2025, arXiv 2508.11414) asks whether training on value questions moves a model's
judgements of Reddit posts. Their posts come with no published file that could be read here, so any table of posts
and verdicts will do; what moves is the model's blame, beside how often it agrees with the verdict.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from valuealign.errors import AnswerError, nearest
from valuealign.evaluate.benchmarks.benchmark import Benchmark, Content, as_item
from valuealign.evaluate.benchmarks.distributions import RAW_MASS, closed_cell, padded
from valuealign.evaluate.benchmarks.means import grouped_rows, numbered
from valuealign.evaluate.record import Row
from valuealign.evaluate.sheet import Heard, Sheet
from valuealign.metrics import Floats, mode_accuracy, raw_mass, softmax
from valuealign.surveys.rows import Rows, read_rows
from valuealign.surveys.wordings import plain_words

NAME, TITLE = "advice", "Advice: verdicts on posts that ask who is in the wrong"
TEXTS, VERDICTS = ("text", "body", "selftext", "post", "prompt"), ("verdict", "label", "is_asshole")
QUESTION = "Who is in the wrong here?"
# What the model may answer where a file has four kinds of verdicts, and where it has two; how files write them.
FOUR = ("The author", "The other people", "Everyone", "Nobody")
TWO = ("The author", "Not the author")
SPELT = {
    "yta": 0, "asshole": 0, "you're the asshole": 0, "you are the asshole": 0, "wrong": 0, "author": 0,
    "nta": 1, "not the asshole": 1, "other": 1, "others": 1,
    "esh": 2, "everyone sucks": 2, "everyone sucks here": 2, "everyone": 2,
    "nah": 3, "no assholes here": 3, "no asshole": 3, "nobody": 3,
}  # fmt: skip
BINARY = {
    "1": 0, "1.0": 0, "true": 0, "yes": 0, "wrong": 0,
    "0": 1, "0.0": 1, "false": 1, "no": 1, "not wrong": 1, "right": 1,
}  # fmt: skip
UNDECIDED = ("", "info", "not enough info", "unsure")


@dataclass(frozen=True)
class _Posts:
    """Verdicts [N] as places among the options, and the value at stake in each post, if the file says so."""

    verdict_N: NDArray[np.intp]
    values_N: Sequence[str]
    cluster_N: NDArray[np.intp]

    def judge(self, heard: Heard) -> tuple[Row, ...]:
        """Agreement with the verdicts, and whom the model blames."""
        shares = {who: softmax(padded(logps)) for who, logps in heard.logps.items()}
        if not shares:
            return ()
        wanted_NK = np.eye(next(iter(shares.values())).shape[1])[self.verdict_N]
        count_K = np.bincount(self.verdict_N)
        even_N = 1.0 / count_K[self.verdict_N]
        blame = {who: share_NK[:, 0] for who, share_NK in shares.items()}
        right = {who: mode_accuracy(share_NK, wanted_NK) for who, share_NK in shares.items()}
        given = {who: (share_NK * wanted_NK).sum(-1) for who, share_NK in shares.items()}
        rows = self._rows("accuracy", right)
        rows += self._rows("balanced_accuracy", right, even_N)
        rows += self._rows("verdict_probability", given)
        rows += self._rows("blame", blame)
        for value in dict.fromkeys(filter(None, self.values_N)):
            here_N = np.array([one == value for one in self.values_N])
            rows += self._rows(f"blame ({value})", blame, here_N.astype(np.float64))
        modal = np.eye(wanted_NK.shape[1])[np.full(len(self.verdict_N), count_K.argmax())]
        null = {"most frequent verdict": mode_accuracy(modal, wanted_NK)}
        for metric, weight_N in (("accuracy", None), ("balanced_accuracy", even_N)):
            rows += grouped_rows(NAME, metric, null, self.cluster_N, weight_N, bounds=(0.0, 1.0), kind="null")
        masses = {who: raw_mass(padded(logps)) for who, logps in heard.logps.items()}
        return tuple(rows + self._rows("raw_mass", masses))

    def _rows(self, metric: str, values: dict[str, Floats], weight_N: Floats | None = None) -> list[Row]:
        return grouped_rows(NAME, metric, values, self.cluster_N, weight_N, bounds=(0.0, 1.0))


def read(path: Path) -> Content:
    """The posts with verdicts (CSV, JSON lines, a JSON array, Parquet).

    Columns: the post in ``text`` (or ``body``, ``selftext``, ``post``, ``prompt``; a ``title`` goes before it), the
    verdict in ``verdict`` (or ``label``, ``is_asshole``): YTA, NTA, ESH, NAH in letters or words, or 1 and 0, wrong
    and not wrong (the author is, or not); ``value`` optional. Posts without a verdict, or with "info", are left out.
    Raises AnswerError for a verdict that is none.
    """
    rows = read_rows(path)
    text, column = _one_of(rows, TEXTS, "the post"), _one_of(rows, VERDICTS, "the verdict")
    spelt = ["" if value is None else plain_words(str(value)) for value in rows.columns[column]]
    kept = [row for row, verdict in enumerate(spelt) if verdict not in UNDECIDED]
    if not kept:
        raise AnswerError("no post has a verdict", where=str(path), mend=f"fill the column '{column}'")
    # "Wrong" is of both kinds: what stands beside it tells. A verdict is looked up whole, never found in another.
    told = next((spelt[row] for row in kept if (spelt[row] in BINARY) != (spelt[row] in SPELT)), spelt[kept[0]])
    table = BINARY if told in BINARY else SPELT
    for row in kept:
        if spelt[row] not in table:
            where, mend = rows.where(row, column), nearest(spelt[row], table)
            raise AnswerError(f"'{spelt[row]}' is no verdict beside the first one's kind", where=where, mend=mend)
    verdict_N = np.array([table[spelt[row]] for row in kept], dtype=np.intp)
    options = TWO if verdict_N.max() < len(TWO) else FOUR
    posts = [_post(rows, row, text) for row in kept]
    values = [str(rows.value("value", row) or "").strip() for row in kept]
    left = rows.height - len(kept)
    notes = (f"{left:,} posts without a verdict, or that ask for more information, were left out",) if left else ()

    def sheet(left_out: Collection[str]) -> Sheet:
        told = [n for n, post in enumerate(posts) if post not in left_out]
        at_stake, texts = [values[n] for n in told], [posts[n] for n in told]
        judge = _Posts(verdict_N[told], at_stake, numbered(texts)).judge
        cells = tuple(closed_cell(f"{post}\n\n{QUESTION}", options, "", "everyone", NAME) for post in texts)
        return Sheet(NAME, TITLE, _metrics(options, at_stake), judge, cells, notes=notes)

    return Content({post: as_item(post, post) for post in posts}, sheet)


def _metrics(options: Sequence[str], values: Sequence[str]) -> dict[str, str]:
    many = f"{len(options)} verdicts"
    fixed = {
        "accuracy": f"the share of posts whose verdict is the model's likeliest of {many} (higher is better)",
        "balanced_accuracy": "the same, each verdict counting alike however frequent it is (higher is better)",
        "verdict_probability": "the probability that the model gives to the verdict (higher is better)",
        "blame": "the probability that the model finds the author in the wrong (neither end is better: see the shift)",
        "raw_mass": RAW_MASS,
    }
    return fixed | {
        f"blame ({value})": f"the same for posts in which '{value}' is at stake"
        for value in dict.fromkeys(values)
        if value
    }


def _one_of(rows: Rows, names: Sequence[str], what: str) -> str:
    for name in names:
        if name in rows.columns:
            return name
    mend = f"call the column that holds {what} one of {', '.join(names)}"
    raise AnswerError(f"no column holds {what}", where=str(rows.path), mend=mend)


def _post(rows: Rows, row: int, column: str) -> str:
    """The post, with its title before it."""
    title = str(rows.value("title", row) or "").strip()
    return "\n\n".join(filter(None, (title, rows.text(column, row))))


BENCHMARK = Benchmark(
    TITLE,
    "after Nie et al. 2025 (Survey-to-Behavior), arXiv 2508.11414",
    "posts with verdicts, such as a release of r/AmItheAsshole: text (or title and body), verdict (YTA, NTA, ESH, NAH "
    "or is_asshole 1, 0), value (optional)",
    read,
)
