"""Which items are held out together: families of the codebook and near-duplicates.

Shape letters: ``I`` items or texts, ``W`` words, ``M`` pairs of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components

from valuealign.types import Item

# Words that say nothing of what is asked. Negations are not among them.
EMPTY = frozenset(
    "a an and are as at be been by do does for from has have how in is it its of on or that the their them they"
    " this to was were what which with would you your".split()
)
# A word that so many items with one answer scale share belongs to the battery's stem.
STEM = 3
# Beyond the stem, two near-duplicates share at least this part of their words.
OWN = 0.5
# Texts whose words are compared with all others' at a time.
BLOCK = 512


def tie(items: Sequence[Item], threshold: float) -> dict[str, str]:
    """Item id -> the id of the first item of its unit.

    Items of one unit are held out together:

    - items of one ``family``;
    - items with the same content words in the same order, whatever their scales: a question asked
      with four options and with five is one question. Where none of them has a scale (three or more
      ordered options), the question may stand in the options ("which is closer to your view?"):
      then half of the options must be the same too;
    - items with the same options, in whatever order, whose content words overlap by ``threshold``
      or more (Jaccard). The items of a battery share a long stem and differ in the one thing asked
      about, so what they have beyond the stem (words of three or more items with these options, and
      the words both begin with) must overlap too, by half at least.
    """
    pairs = [pair for block in _blocks(items) for pair in _near(items, block, threshold)]
    pairs += _same_wording(items)
    first: dict[str, int] = {}
    for i, item in enumerate(items):
        if item.family:
            pairs.append((first.setdefault(item.family, i), i))
    a, b = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    graph = coo_matrix((np.ones(len(a)), (a, b)), shape=(len(items), len(items)))
    _, unit_I = connected_components(graph, directed=False)
    head: dict[int, str] = {}
    return {item.id: head.setdefault(int(unit), item.id) for item, unit in zip(items, unit_I, strict=True)}


def _blocks(items: Sequence[Item]) -> list[list[int]]:
    """Places of items that have the same options, in whatever order, in lists of two or more."""
    alike: dict[tuple[str, ...], list[int]] = {}
    for i, item in enumerate(items):
        alike.setdefault(tuple(sorted(_options(item))), []).append(i)
    return [block for block in alike.values() if len(block) > 1]


def _options(item: Item) -> list[str]:
    return [option.text.strip().lower() for option in item.options]


def _same_wording(items: Sequence[Item]) -> list[tuple[int, int]]:
    """Pairs of places of items that say the same, whatever their options."""
    alike: dict[tuple[str, ...], list[int]] = {}
    for i, item in enumerate(items):
        if words := content(item.text):
            alike.setdefault(tuple(words), []).append(i)
    found = []
    for places in alike.values():
        if any(items[i].ordinal and len(items[i].options) > 2 for i in places):
            found += [(places[0], i) for i in places[1:]]
        elif len(places) > 1:
            for a_M, b_M, _ in _overlapping([frozenset(_options(items[i])) for i in places], OWN):
                found += [(places[a], places[b]) for a, b in zip(a_M, b_M, strict=True)]
    return found


def content(text: str) -> list[str]:
    """The content words of a text, in order; all its words where it has no other."""
    words = re.findall(r"\w+", text.lower())
    return [word for word in words if word not in EMPTY] or words


def alike(texts: Sequence[Sequence[str]], threshold: float, *, stems: bool = True) -> list[tuple[int, int, float]]:
    """Places of near-duplicates among texts of different content words, and what part of the words they share.

    The overlap (Jaccard) is at least ``threshold``, and with ``stems`` what both have beyond their stem
    overlaps by half at least; see ``tie``. Time and memory follow the pairs that share a word, a block of texts at
    a time.
    """
    sets = [frozenset(words) for words in texts]
    times = Counter(word for words in sets for word in words)
    own = {word for word, many in times.items() if many < STEM}
    mine_IW = _has([words & own for words in sets])
    size_I = np.asarray(mine_IW.sum(1)).ravel()
    found = []
    for a_M, b_M, overlap_M in _overlapping(sets, threshold):
        both_M = np.asarray(mine_IW[a_M].multiply(mine_IW[b_M]).sum(1)).ravel()
        either_M = size_I[a_M] + size_I[b_M] - both_M
        beyond_M = np.divide(both_M, either_M, out=np.ones_like(both_M), where=either_M > 0)
        for m in np.flatnonzero((beyond_M >= OWN) | (not stems)):
            a, b = int(a_M[m]), int(b_M[m])
            contained = sets[a] <= sets[b] or sets[b] <= sets[a]
            if not stems or contained or _beyond_beginning(texts[a], texts[b], own) >= OWN:
                found.append((a, b, float(overlap_M[m])))
    return found


def _near(items: Sequence[Item], block: Sequence[int], threshold: float) -> list[tuple[int, int]]:
    """Pairs of places of near-duplicates among items with the same options."""
    texts = {i: content(items[i].text) for i in block}
    first: dict[frozenset[str], int] = {}
    found = [(first.setdefault(frozenset(words), i), i) for i, words in texts.items()]
    places = list(first.values())
    return found + [(places[a], places[b]) for a, b, _ in alike([texts[i] for i in places], threshold)]


def _overlapping(
    sets: Sequence[frozenset[str]], threshold: float
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Every two sets that overlap by ``threshold`` (over 0) or more, |A and B| / |A or B|: places a < b and overlap."""
    has_IW = _has(sets)
    size_I = np.asarray(has_IW.sum(1)).ravel()
    for start in range(0, len(sets), BLOCK):
        both = (has_IW[start : start + BLOCK] @ has_IW[start:].T).tocoo()
        a_M, b_M = both.row + start, both.col + start
        overlap_M = both.data / (size_I[a_M] + size_I[b_M] - both.data)
        kept_M = (a_M < b_M) & (overlap_M >= threshold)
        yield a_M[kept_M], b_M[kept_M], overlap_M[kept_M]


def _has(sets: Sequence[frozenset[str]]) -> csr_matrix:
    """Which set has which word, [I, W] of ones."""
    place = {word: w for w, word in enumerate(sorted(frozenset[str]().union(*sets)))}
    rows = [i for i, words in enumerate(sets) for _ in words]
    columns = [place[word] for words in sets for word in sorted(words)]
    shape = (len(sets), max(1, len(place)))
    return csr_matrix((np.ones(len(rows)), (rows, columns)), shape=shape)


def _beyond_beginning(one: Sequence[str], two: Sequence[str], own: set[str]) -> float:
    """Jaccard of the own words after the words that both texts begin with."""
    same = next((k for k, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
    a, b = set(one[same:]) & own, set(two[same:]) & own
    return len(a & b) / len(a | b) if a | b else 1.0
