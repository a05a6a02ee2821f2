"""How far a stage has moved from the base: KL(stage || base), in nats.

On survey questions it is exact, over the options. On open prompts it takes two passes: a stage writes answers, and
the stage and the base both score them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from valuealign.evaluate.paid.sheets import Chat, blank_cell, questions
from valuealign.evaluate.record import Row
from valuealign.evaluate.sheet import mean_rows
from valuealign.metrics import Floats
from valuealign.types import Cell, Message

KL = "kl"
KL_METRICS = {
    "options": "KL of the shares of a survey question's options, exact, nats a question; 0: as the base",
    "answers": "KL of whole answers to open prompts, sampled, nats an answer; 0: as the base",
    "answers_per_byte": "the same over the bytes of the answers, nats a byte",
}


class Drawn(NamedTuple):
    """Answers that a stage drew (``sampled_cells``): their log-probabilities [K] under it and under the base, nats;
    ``cut`` answers besides did not come to an end and were left out."""

    cells: Sequence[Cell]
    stage: Sequence[Floats]
    base: Sequence[Floats]
    cut: int = 0


def open_chats() -> tuple[Chat, ...]:
    """The built-in open prompts, one chat each."""
    return tuple((Message("user", text),) for text in questions()["open"])


def sampled_cells(chats: Sequence[Chat], texts: Sequence[str | None]) -> tuple[Cell, ...]:
    """The cells to score of one stage's sampled answers: a cell for each different chat, its answers as completions.

    A chat stands in ``chats`` once for each answer drawn, at temperature 1 without top-k or top-p. None stands
    for an answer that did not come to its end: what it would have become nobody knows, so it is left out.
    """
    drawn: dict[Chat, list[str]] = {}
    for chat, text in zip(chats, texts, strict=True):
        if text is not None:
            drawn.setdefault(chat, []).append(text)
    return tuple(blank_cell(chat, answers, "paid:kl") for chat, answers in drawn.items())


def kl_rows(drawn: Mapping[str, Drawn], *, seed: int = 0) -> list[Row]:
    """KL(stage || base) of whole answers, by stage: mean over prompts of its answers' mean log pi - log base.

    With answers drawn from the stage this is unbiased (k1 of Schulman 2020), can be negative in a small sample,
    and is widely scattered. His k3, exp(-r) - 1 + r with r = log pi - log base, is tamer where r stays near
    0, as it does for a token. For whole answers r is tens of nats: exp(-r) then has its mean of 1 from answers
    so rare that no sample holds them, and k3 comes out low by up to 1 nat, or huge. So k1, and an interval.

    Intervals resample prompts; differences of stages are paired by prompt.
    """
    prompts = list(dict.fromkeys(cell.prompt for one in drawn.values() for cell in one.cells))
    values: dict[str, Floats] = {}
    notes: dict[str, str] = {}
    each: list[Row] = []
    for who, one in drawn.items():
        ratios = [np.asarray(mine) - np.asarray(theirs) for mine, theirs in zip(one.stage, one.base, strict=True)]
        mean = {cell.prompt: float(r_K.mean()) for cell, r_K in zip(one.cells, ratios, strict=True)}
        values[who] = np.array([mean.get(prompt, np.nan) for prompt in prompts])
        # The end of an answer counts as a byte, so that an empty answer has one.
        size = np.array([sum(len(text.encode()) + 1 for text in cell.completions) for cell in one.cells], dtype=float)
        total = np.array([float(r_K.sum()) for r_K in ratios])
        notes[who] = f"{sum(map(len, ratios))} answers; {one.cut} were cut off and left out"
        each += mean_rows(KL, "answers_per_byte", {who: total / size}, weights=size, seed=seed)
    rows = [*mean_rows(KL, "answers", values, seed=seed), *each]
    return [replace(row, note=notes.get(row.who, row.note)) for row in rows]


def option_kl_rows(
    logps: Mapping[str, Sequence[Floats]], cells: Sequence[Cell], *, base: str = "base", seed: int = 0
) -> list[Row]:
    """KL(stage || base) of the options' shares, by stage: sum_k p_k (log p_k - log b_k), mean over closed ``cells``.

    ``logps[who]`` are raw log-probabilities [K] of each cell, nats; shares are renormalised over the
    options. Exact for each cell; intervals resample questions (``Cell.source``).
    """
    known = [_log_shares(one) for one in logps[base]]
    values = {
        who: [_kl(_log_shares(mine), theirs) for mine, theirs in zip(given, known, strict=True)]
        for who, given in logps.items()
        if who != base
    }
    return mean_rows(KL, "options", values, clusters=[cell.source for cell in cells], bounds=(0, np.inf), seed=seed)


def option_kl(now: Sequence[Floats], before: Sequence[Floats]) -> float:
    """Mean over closed cells of KL(now || before) of the options' shares, nats; arrays as in ``option_kl_rows``."""
    pairs = zip(now, before, strict=True)
    return float(np.mean([_kl(_log_shares(mine), _log_shares(theirs)) for mine, theirs in pairs]))


def _log_shares(logp_K: Floats) -> Floats:
    logp_K = np.asarray(logp_K, dtype=np.float64)
    return np.asarray(logp_K - np.logaddexp.reduce(logp_K))


def _kl(mine_K: Floats, theirs_K: Floats) -> float:
    some = mine_K > -np.inf  # 0 log 0 = 0
    return float(np.sum(np.exp(mine_K[some]) * (mine_K[some] - theirs_K[some])))
