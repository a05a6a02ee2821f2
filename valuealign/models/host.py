"""A base model with several versions' adapters over it, for serving: one copy of the weights.

A version that is a full fine-tune brings all weights of its own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from valuealign.config import ModelConfig
from valuealign.errors import ModelError
from valuealign.models.adapters import attach_adapter
from valuealign.models.chat import Arguments, bind, read_arguments
from valuealign.models.generate import Answer, Draft, draft, generate, reads
from valuealign.models.load import load_base
from valuealign.models.score import CellModel, to_device
from valuealign.models.trained import is_whole
from valuealign.packing import Row, collate, micro_batches
from valuealign.prompts import render
from valuealign.types import Cell, Message, Rendered, Sampling


class Host:
    """Answers and scores with any loaded version. Calls are serialised: adapters are switched in place.

    A version is asked with the arguments of the chat template that it was trained with (they lie beside its
    adapter); ``arguments`` are for the base itself. ``device`` is one of torch's, or ``auto``: layers are then
    laid over all the devices there are.
    """

    def __init__(
        self,
        path: str,
        dtype: str = "float32",
        *,
        quantize: str = "none",
        device: str = "cpu",
        token_budget: int = 4096,
        arguments: Arguments | None = None,
    ) -> None:
        base = load_base(path, dtype=dtype, quantize=quantize, device=device)
        self._base, self._plain = base.model, base.tokenizer
        self._tokenizers: dict[str | None, Any] = {None: bind(base.tokenizer, arguments or {})}
        self._adapted: Any = None
        self._active: str | None = None  # whose adapter is switched on; None where that is not known
        self._whole: dict[str, Any] = {}
        self._names: list[str] = []
        self._lock = threading.RLock()
        self._dtype, self._device, self._token_budget = dtype, device, token_budget

    @classmethod
    def of(cls, model: ModelConfig) -> Host:
        """The host of a run's own model, on the CPU."""
        return cls(model.path, model.dtype, quantize=model.quantize, arguments=model.chat_template_kwargs)

    def load(self, version: str, folder: Path) -> None:
        """Attach a version (no-op if attached). Raises ModelError if it does not fit."""
        if version in self._names:
            return
        tokenizer = bind(self._plain, read_arguments(folder))
        # All weights of a model take long to read, and disturb nobody.
        whole = load_base(str(folder), dtype=self._dtype, device=self._device).model if is_whole(folder) else None
        with self._lock:
            if version in self._names:
                return
            if whole is not None:
                self._whole[version] = whole
            else:
                self._active = None
                self._adapted = attach_adapter(self._adapted or self._base, folder, name=_adapter_name(version))
            self._tokenizers[version] = tokenizer
            self._names.append(version)

    def unload(self, version: str) -> None:
        """Detach a version; the last one stays, since the base alone is never served."""
        with self._lock:
            if version in self._names and len(self._names) > 1:
                if version in self._whole:
                    del self._whole[version]
                else:
                    self._active = None
                    self._adapted.delete_adapter(_adapter_name(version))
                self._names.remove(version)
                del self._tokenizers[version]

    @contextlib.contextmanager
    def using(self, version: str | None) -> Iterator[Any]:
        """The model that answers as an attached version, or as the base (``None``), and nobody else meanwhile."""
        with self._lock, contextlib.ExitStack() as stack:
            if version in self._whole:
                yield self._whole[version]
            elif version is not None:
                if self._active != version:  # a switch visits every layer
                    self._active = None
                    self._adapted.set_adapter(_adapter_name(version))
                    self._active = version
                yield self._adapted
            else:
                if self._adapted is not None:
                    stack.enter_context(self._adapted.disable_adapter())
                yield self._adapted or self._base

    def loaded(self) -> tuple[str, ...]:
        """The attached versions, oldest first."""
        return tuple(self._names)

    def tokenizer(self, version: str | None) -> Any:
        """The tokenizer that writes an attached version's chats (``None``: the base's)."""
        return self._tokenizers[version]

    def generate(
        self,
        version: str | None,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> Answer:
        """Answer a chat with an attached version, or with the base (``None``)."""
        with self.using(version) as model:
            tokenizer = self.tokenizer(version)
            return generate(model, tokenizer, messages, max_tokens=max_tokens, temperature=temperature, seed=seed)

    def draft(self, version: str, messages: Sequence[Message], sampling: Sampling) -> Draft:
        """A chat that an attached version is to answer, not begun. Raises ModelError if it does not fit the model."""
        return draft(self._whole.get(version, self._base), self.tokenizer(version), messages, sampling)

    def render(self, version: str, cells: Sequence[Cell]) -> list[Rendered]:
        """Cells as an attached version reads them. Raises ModelError for one that is longer than the model reads."""
        limit = reads(self._whole.get(version, self._base))
        rendered = [render(cell, self.tokenizer(version)) for cell in cells]
        longest = max(len(one.prompt_ids) + max(map(len, one.completion_ids)) for one in rendered)
        if longest > limit:
            what = f"the question has {longest} tokens with its longest option, the model reads {limit}"
            raise ModelError(what, where="item", mend="shorten it")
        return rendered

    def score(self, version: str | None, cells: Sequence[Cell]) -> list[np.ndarray]:
        """Raw log-probabilities [K] of every cell's completions under an attached version (``None``: the base)."""
        tokenizer = self.tokenizer(version)
        return self.score_rendered(version, [render(cell, tokenizer) for cell in cells])

    @torch.no_grad()
    def score_rendered(self, version: str | None, rendered: Sequence[Rendered]) -> list[np.ndarray]:
        """As ``score``, of cells that are tokens already."""
        with self.using(version) as used:
            model = CellModel(used)
            pad_id = self.tokenizer(version).pad_token_id
            found: dict[int, np.ndarray] = {}
            for group in micro_batches([r.tokens for r in rendered], token_budget=self._token_budget, ranks=1)[0]:
                if not group:
                    continue
                batch = collate([Row(rendered[i]) for i in group], pad_id=pad_id, packed=model.packed)
                logp_N = model(to_device(batch, model.causal.device)).double().cpu().numpy()
                ends = np.cumsum([len(rendered[i].completion_ids) for i in group])
                found |= dict(zip(group, np.split(logp_N, ends[:-1]), strict=True))
            return [found[i] for i in range(len(rendered))]


def _adapter_name(version: str) -> str:
    # PEFT makes module names of adapter names: no dots, no slashes.
    return version.replace(".", "_").replace("/", "_").replace("@", "_")
