"""Survey targets become cells: a question put to a group, its options, and the people's shares of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np

from valuealign.population import ShareTable
from valuealign.prompts import Template, survey_messages
from valuealign.types import Cell, Group, Item

Undesirable = Literal["others", "none"]


def survey_cells(
    table: ShareTable,
    pairs: Iterable[tuple[str, Group]],
    *,
    undesirable: Undesirable = "none",
    templates: Sequence[Template] = (),
) -> list[Cell]:
    """One closed cell for each (item id, group) of ``pairs`` and each template, in their order.

    Every pair is asked by every template (none given: the default one), so that no answer hangs on
    the wording it was trained in; a pass over the cells is as many times longer.

    The desirable mass is the share of each option (sum 1). ``others`` makes what people did not
    choose undesirable, (1 - p) / (K - 1), sum 1; ``none`` leaves it 0. A pair that nobody in the
    table answered has no target and is left out. KeyError for an item or group the table lacks.
    """
    cells = []
    for item, group, shares, n_eff in answered(table, pairs):
        refused = others(shares) if undesirable == "others" else [0.0] * len(shares)
        cells += [question(item, group, shares, refused, n_eff=n_eff, template=one) for one in templates or (None,)]
    return cells


def answered(
    table: ShareTable, pairs: Iterable[tuple[str, Group]]
) -> Iterator[tuple[Item, Group, tuple[float, ...], float]]:
    """Item, group, shares and n_eff of each pair that somebody answered. KeyError as ``survey_cells``."""
    for item_id, group in pairs:
        i, g = table.item_index[item_id], table.group_index[group]
        item = table.items[i]
        shares_K = np.asarray(table.shares_GIK[g, i, : len(item.options)], dtype=np.float64)
        if table.n_GI[g, i] and not np.isnan(shares_K).any():
            yield item, group, tuple(shares_K.tolist()), float(table.n_eff_GI[g, i])


def question(
    item: Item,
    group: Group,
    desirable: Sequence[float],
    undesirable: Sequence[float],
    *,
    n_eff: float,
    template: Template | None = None,
    context: str = "",
    kind: str = "survey",
) -> Cell:
    """The closed cell that asks ``item`` of ``group``: what training and evaluation both ask, in the
    words of ``template`` (None: the default one) after ``context``. ``kind`` begins its source."""
    return Cell(
        prompt=survey_messages(item, group, template, context=context),
        completions=tuple(option.text for option in item.options),
        desirable=tuple(desirable),
        undesirable=tuple(undesirable),
        closed=True,
        n_eff=n_eff,
        group=group.name,
        source=f"{kind}:{item.id}",
        positions=item.positions,
    )


def others(shares: Sequence[float]) -> list[float]:
    """What people did not choose, as masses that sum to 1: (1 - p_k) / (K - 1); 0 for a single option."""
    return [max(0.0, 1.0 - share) / (len(shares) - 1) if len(shares) > 1 else 0.0 for share in shares]
