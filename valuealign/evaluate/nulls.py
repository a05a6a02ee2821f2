"""What the training people's table lets one guess about a cell without a model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from valuealign.evaluate.record import REGRESSION
from valuealign.metrics.distances import Floats
from valuealign.metrics.nulls import additive, mean_shares, uniform
from valuealign.population import ShareTable, regress
from valuealign.types import EVERYONE, Group

Pair = tuple[str, Group]
# Nulls that read the held-out item's own answers are oracles there.
ORACLES = ("marginal", "others", "additive")
REGRESSED = ("cells", "groups", "seen", "waves")  # the splits that a regression on traits can guess


class Nulls:
    """Guesses about (item, group) pairs from the training people's table; without a ``ridge`` no regression."""

    def __init__(self, table: ShareTable, known: set[Pair], ridge: float | None = None) -> None:
        self.table, self.known, self.ridge = table, known, ridge
        self.training_items = {item for item, _ in known}
        self.training_groups = {group for _, group in known}

    def of(self, split: str, pairs: Sequence[Pair]) -> dict[str, Floats]:
        """[C, K] of each null that applies to the split."""
        makers = {"uniform": self._uniform}
        if split != "survey":  # of a survey that trained nothing, training knows nothing
            makers["others"] = self._others
        if split not in ("everyone", "survey"):  # there both are the trained answer itself: the split-half says it
            makers |= {"marginal": self._marginal, "additive": self._additive}
        if self.ridge is not None and split in REGRESSED:
            makers[REGRESSION] = self._regression
        if split == "waves":
            makers["persistence"] = self._shares
        if split == "items":
            makers["training items"] = self._training_items
        return {name: np.array([make(*pair) for pair in pairs]) for name, make in makers.items()}

    def _may_read(self, item: str, group: Group) -> bool:
        """Whether training knows the pair; for a held-out item (an oracle's case) whether it knows the group."""
        return (item, group) in self.known if item in self.training_items else group in self.training_groups

    def _shares(self, item: str, group: Group) -> Floats:
        return np.asarray(
            self.table.shares_GIK[self.table.group_index[group], self.table.item_index[item]], dtype=np.float64
        )

    def _uniform(self, item: str, group: Group) -> Floats:
        return uniform(len(self.table.items[self.table.item_index[item]].options), self.table.shares_GIK.shape[2])

    def _marginal(self, item: str, group: Group) -> Floats:
        return self._shares(item, EVERYONE) if EVERYONE in self.table.group_index else self._uniform(item, group)

    def _others(self, item: str, group: Group) -> Floats:
        others = [g for g in self.table.groups if g not in (group, EVERYONE) and self._may_read(item, g)]
        mean = mean_shares([self._shares(item, g) for g in others])
        return self._marginal(item, group) if mean is None else mean

    def _additive(self, item: str, group: Group) -> Floats:
        traits = []
        for trait in group.traits:
            single = Group((trait,))
            if single in self.table.group_index and self._may_read(item, single):
                shares = self._shares(item, single)
                traits += [] if np.isnan(shares).all() else [shares]
        return additive(self._marginal(item, group), traits)

    def _regression(self, item: str, group: Group) -> Floats:
        shares: Floats = self._regressed[self.table.group_index[group], self.table.item_index[item]]
        return shares

    @cached_property
    def _regressed(self) -> Floats:
        assert self.ridge is not None, "a regression needs its ridge"
        return regress(self.table, self.ridge, self.known)

    def _training_items(self, item: str, group: Group) -> Floats:
        """Mean of this group's answers to training items with the same options, else as many options."""
        mine = self.table.items[self.table.item_index[item]]
        asked = [one for one in self.table.items if (one.id, group) in self.known and one.id != item]
        same = [one for one in asked if [o.text for o in one.options] == [o.text for o in mine.options]]
        alike = same or [one for one in asked if len(one.options) == len(mine.options)]
        mean = mean_shares([self._shares(one.id, group) for one in alike])
        return self._uniform(item, group) if mean is None else mean
