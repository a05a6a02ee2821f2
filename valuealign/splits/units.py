"""Which items are held out together: families of the codebook and near-duplicates.

Shape letters: ``I`` items, ``W`` words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

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
        if words := _words(item.text):
            alike.setdefault(tuple(words), []).append(i)
    found = []
    for places in alike.values():
        if any(items[i].ordinal and len(items[i].options) > 2 for i in places):
            found += [(places[0], i) for i in places[1:]]
        elif len(places) > 1:
            same_II = _jaccard([frozenset(_options(items[i])) for i in places]) >= OWN
            found += [(places[a], places[b]) for a, b in np.argwhere(np.triu(same_II, 1))]
    return found


def _words(text: str) -> list[str]:
    """The content words of a text; all its words where it has no other."""
    words = re.findall(r"\w+", text.lower())
    return [word for word in words if word not in EMPTY] or words


def _near(items: Sequence[Item], block: Sequence[int], threshold: float) -> list[tuple[int, int]]:
    """Pairs of places of near-duplicates among items with the same options."""
    texts = {i: _words(items[i].text) for i in block}
    first: dict[frozenset[str], int] = {}
    found = [(first.setdefault(frozenset(words), i), i) for i, words in texts.items()]
    sets, places = list(first), list(first.values())
    own = {word for word, times in Counter(word for words in sets for word in words).items() if times < STEM}
    alike_II = _jaccard(sets) >= threshold
    alike_II &= _jaccard([words & own for words in sets]) >= OWN
    for a, b in np.argwhere(np.triu(alike_II, 1)):
        contained = sets[a] <= sets[b] or sets[b] <= sets[a]
        if contained or _beyond_beginning(texts[places[a]], texts[places[b]], own) >= OWN:
            found.append((places[a], places[b]))
    return found


def _jaccard(sets: Sequence[frozenset[str]]) -> np.ndarray:
    """|A and B| / |A or B| of every two sets [I, I]; 1 for two empty ones."""
    place = {word: w for w, word in enumerate(sorted(frozenset[str]().union(*sets)))}
    rows = [i for i, words in enumerate(sets) for _ in words]
    columns = [place[word] for words in sets for word in sorted(words)]
    shape = (len(sets), max(1, len(place)))
    has_IW = csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=shape)
    both_II = (has_IW @ has_IW.T).toarray()
    size_I = both_II.diagonal().copy()
    either_II = size_I[:, None] + size_I - both_II
    # Rounded, so that 9 of 10 words are 0.9 in single precision too.
    overlap_II = np.divide(both_II, either_II, out=np.ones_like(both_II), where=either_II > 0)
    return np.asarray(np.round(overlap_II, 6))


def _beyond_beginning(one: Sequence[str], two: Sequence[str], own: set[str]) -> float:
    """Jaccard of the own words after the words that both texts begin with."""
    same = next((k for k, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
    a, b = set(one[same:]) & own, set(two[same:]) & own
    return len(a & b) / len(a | b) if a | b else 1.0
