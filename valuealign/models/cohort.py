"""Drafts that are written side by side: one forward gives each of them its next token.

Prompts are padded on the left; keys and values are cached. Who is done leaves, and a cohort that was begun
later joins, wherever the cache lets rows come and go. A draft's tokens do not depend on who is beside it, up to
the rounding of sums.

Shapes: ``B`` drafts, ``T`` tokens, ``V`` vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

if TYPE_CHECKING:
    from valuealign.models.generate import Draft

SELECTABLE = (DynamicLayer, DynamicSlidingWindowLayer)  # layers whose whole state is a row of keys and values a draft
TRIM = 32  # columns that only pad are cut off when there are so many: each cut copies the cache


class Cohort:
    """Drafts of one model; made, it has read their prompts and written the first token of each.

    ``drafts`` are those not yet done. Whoever steps it sees to it that the same adapter is active each time.
    """

    @torch.no_grad()
    def __init__(self, model: Any, drafts: Sequence[Draft]) -> None:
        causal = _causal(model)
        self._rows = list(drafts)
        self._device = causal.get_input_embeddings().weight.device
        longest = max(len(draft.prompt) for draft in drafts)
        self._ids_BT = self._tensor([(0,) * (longest - len(d.prompt)) + d.prompt for d in drafts])
        self._mask_BT = self._tensor([(0,) * (longest - len(d.prompt)) + (1,) * len(d.prompt) for d in drafts])
        self._next_B = self._mask_BT.sum(-1)
        self._cache = DynamicCache(config=causal.config) if "past_key_values" in _takes(type(causal).forward) else None
        self._forward(causal, self._ids_BT, (self._mask_BT.cumsum(-1) - 1).clamp(min=0))

    @property
    def drafts(self) -> list[Draft]:
        """Those that are not done."""
        return [row for row in self._rows if row.finish is None]

    @torch.no_grad()
    def step(self, model: Any) -> None:
        """Write one more token of each draft that is not done."""
        self._sift()
        if not self._rows:
            return
        last_B1 = self._tensor([[row.new[-1]] for row in self._rows])
        self._mask_BT = pad(self._mask_BT, (0, 1), value=1)
        at_B1 = self._next_B[:, None]
        self._next_B = self._next_B + 1
        if self._cache is not None:
            self._forward(_causal(model), last_B1, at_B1)
        else:
            self._ids_BT = torch.cat([self._ids_BT, last_B1], dim=1)
            self._forward(_causal(model), self._ids_BT, (self._mask_BT.cumsum(-1) - 1).clamp(min=0))

    @property
    def joinable(self) -> bool:
        """Whether every layer keeps plain keys and values of all tokens: then rows may come and go."""
        return self._cache is not None and all(type(layer) is DynamicLayer for layer in self._cache.layers)

    @property
    def _selectable(self) -> bool:
        return self._cache is not None and all(type(layer) in SELECTABLE for layer in self._cache.layers)

    @torch.no_grad()
    def join(self, other: Cohort) -> None:
        """Take in the drafts of another cohort of the same model; both must be joinable.

        If it raises, both are as before: while it joins, the cache is there twice.
        """
        assert self.joinable and other.joinable and self._cache is not None and other._cache is not None
        both = (self, other)
        longest = max(one._mask_BT.shape[1] for one in both)
        short = [longest - one._mask_BT.shape[1] for one in both]

        def beside(mine: Tensor, theirs: Tensor) -> Tensor:
            return torch.cat([pad(one, (0, 0, n, 0)) for one, n in zip((mine, theirs), short, strict=True)])

        layers = zip(self._cache.layers, other._cache.layers, strict=True)
        caches = [(beside(mine.keys, theirs.keys), beside(mine.values, theirs.values)) for mine, theirs in layers]
        mask_BT = torch.cat([pad(one._mask_BT, (n, 0)) for one, n in zip(both, short, strict=True)])
        next_B = torch.cat([self._next_B, other._next_B])
        for layer, (keys, values) in zip(self._cache.layers, caches, strict=True):
            layer.keys, layer.values = keys, values
        self._mask_BT, self._next_B = mask_BT, next_B
        self._rows += other._rows

    def _forward(self, causal: Any, ids_BT: Tensor, positions_BT: Tensor) -> None:
        """One forward over the columns that are new, and each draft's next token from the last of them."""
        takes = _takes(type(causal).forward)
        given: dict[str, Any] = {
            "input_ids": ids_BT,
            "attention_mask": self._mask_BT,
            "position_ids": positions_BT,
            "past_key_values": self._cache,
            "use_cache": self._cache is not None,
            "logits_to_keep": 1,
        }
        logits_BV = causal(**{name: value for name, value in given.items() if name in takes}).logits[:, -1].float()
        for row, logits_V, token in zip(self._rows, logits_BV, _choose(logits_BV, self._rows), strict=True):
            if row.finish is not None:
                continue  # it only fills its place
            if row.sampling.top_logprobs is None:
                row.add(token)
            else:
                logp_V = logits_V.log_softmax(-1)
                top = logp_V.topk(min(row.sampling.top_logprobs, len(logp_V)))
                row.add(token, float(logp_V[token]), list(zip(top.indices.tolist(), top.values.tolist(), strict=True)))

    def _sift(self) -> None:
        """Leave out the rows that are done, where the cache lets them go."""
        keep = [index for index, row in enumerate(self._rows) if row.finish is None]
        if len(keep) == len(self._rows) or (keep and not self._selectable):
            return
        self._rows = [self._rows[index] for index in keep]
        if not keep or self._cache is None:
            return
        kept = torch.tensor(keep)
        self._mask_BT, self._next_B = self._mask_BT[kept], self._next_B[kept]
        cut = int(self._mask_BT.argmax(-1).min()) if self.joinable else 0
        cut = cut if cut >= TRIM else 0
        self._mask_BT = self._mask_BT[:, cut:]
        for layer in self._cache.layers:
            layer.keys, layer.values = layer.keys[kept][:, :, cut:], layer.values[kept][:, :, cut:]

    def _tensor(self, rows: Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(rows, device=self._device)


def _choose(logits_BV: Tensor, rows: Sequence[Draft]) -> list[int]:
    """Each draft's next token: the likeliest, or the one that its own random number falls on."""
    picked_B = logits_BV.argmax(-1)
    drawn = [index for index, row in enumerate(rows) if row.sampling.temperature > 0 and row.finish is None]
    if drawn:
        heat_B1 = logits_BV.new_tensor([[rows[index].sampling.temperature] for index in drawn])
        shifted_BV = logits_BV[drawn] - logits_BV[drawn].max(-1, keepdim=True).values  # no small temperature overflows
        upto_BV = (shifted_BV / heat_B1).softmax(-1).double().cumsum(-1)
        u_B1 = upto_BV.new_tensor([[rows[index].uniform()] for index in drawn])
        found_B1 = torch.searchsorted(upto_BV, u_B1 * upto_BV[:, -1:], right=True)
        picked_B[drawn] = found_B1.squeeze(-1).clamp(max=logits_BV.shape[1] - 1)
    picked: list[int] = picked_B.tolist()
    return picked


def _causal(model: Any) -> Any:
    """The Hugging Face model under the adapter (whose layers are inside it)."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@lru_cache(maxsize=32)
def _takes(forward: Any) -> frozenset[str]:
    """The names of what a forward takes."""
    return frozenset(inspect.signature(forward).parameters)
