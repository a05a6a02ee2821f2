"""Survey targets become cells: a question put to a group, its options, and the people's shares of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from valuealign.population import ShareTable
from valuealign.prompts import survey_messages
from valuealign.types import Cell, Group, Item

Undesirable = Literal["others", "none"]


def survey_cells(
    table: ShareTable, pairs: Iterable[tuple[str, Group]], *, undesirable: Undesirable = "none"
) -> list[Cell]:
    """One closed cell for each (item id, group) of ``pairs``, in their order.

    The desirable mass is the share of each option (sum 1). ``others`` makes what people did not
    choose undesirable, (1 - p) / (K - 1), sum 1; ``none`` leaves it 0. A pair that nobody in the
    table answered has no target and is left out. KeyError for an item or group the table lacks.
    """
    items = {item.id: place for place, item in enumerate(table.items)}
    groups = {group: place for place, group in enumerate(table.groups)}
    cells = []
    for item_id, group in pairs:
        i, g = items[item_id], groups[group]
        item = table.items[i]
        shares_K = np.asarray(table.shares_GIK[g, i, : len(item.options)], dtype=np.float64)
        if table.n_GI[g, i] == 0 or np.isnan(shares_K).any():
            continue
        wanted = [float(share) for share in shares_K]
        refused = others(wanted) if undesirable == "others" else [0.0] * len(wanted)
        cells.append(question(item, group, wanted, refused, n_eff=float(table.n_eff_GI[g, i])))
    return cells


def question(
    item: Item, group: Group, desirable: Sequence[float], undesirable: Sequence[float], *, n_eff: float
) -> Cell:
    """The cell that asks ``item`` of ``group``: the form in which training and evaluation both ask it."""
    return Cell(
        prompt=survey_messages(item, group),
        completions=tuple(option.text for option in item.options),
        desirable=tuple(desirable),
        undesirable=tuple(undesirable),
        closed=True,
        n_eff=n_eff,
        group=group.name,
        source=f"survey:{item.id}",
        positions=item.positions,
    )


def others(shares: Sequence[float]) -> list[float]:
    """What people did not choose, as masses that sum to 1: (1 - p_k) / (K - 1); 0 for a single option."""
    return [max(0.0, 1.0 - share) / (len(shares) - 1) if len(shares) > 1 else 0.0 for share in shares]
