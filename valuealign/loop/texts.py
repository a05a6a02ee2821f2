"""Which texts say the same, or nearly: pieces of normalised text, and how much of them two texts share."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from valuealign.splits.units import alike as overlapping
from valuealign.store import Judged

PIECE = 4  # characters of a piece: words with a changed letter or ending still share most


def normal(text: str) -> str:
    """The text without what can be changed and still reads the same: case, width, accents, marks, spaces."""
    decomposed = unicodedata.normalize("NFKD", text)
    letters = "".join(mark for mark in decomposed if unicodedata.category(mark)[0] not in "MC" or mark.isspace())
    return re.sub(r"[\W_]+", " ", letters.casefold()).strip()


def pieces(text: str) -> list[str]:
    """The different runs of ``PIECE`` characters of the normalised text; a shorter text is one piece."""
    plain = f" {normal(text)} "
    return sorted({plain[i : i + PIECE] for i in range(max(1, len(plain) - PIECE + 1))})


def clusters(texts: Sequence[str], alike: float) -> list[int]:
    """A number for each text, the same for texts that are near-duplicates (or are so by way of others)."""
    plain = [normal(text) for text in texts]
    distinct = list(dict.fromkeys(plain))
    pairs = [(a, b) for a, b, _ in overlapping([pieces(text) for text in distinct], alike, stems=False)]
    a, b = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    graph = coo_matrix((np.ones(len(a)), (a, b)), shape=(len(distinct), len(distinct)))
    _, cluster_N = connected_components(graph, directed=False)
    place = dict(zip(distinct, cluster_N.tolist(), strict=True))
    return [place[text] for text in plain]


def of_prompt(row: Judged) -> str:
    """What was asked: the whole chat as one text."""
    return "\n".join(message.content for message in row.response.messages)
