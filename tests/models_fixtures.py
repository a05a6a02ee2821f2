"""Fixtures that need a real, if very small, model. Import-light: torch loads only when one is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a very small seed model, barely trained: the right layout and chat format, poor answers."""
    from valuealign.models.seed import SeedRecipe, ensure_seed

    recipe = SeedRecipe(
        vocabulary=512, hidden=32, layers=2, heads=2, intermediate=64, tokenizer_samples=300, steps=20, batch=4, row=160
    )
    return ensure_seed(tmp_path_factory.mktemp("home"), recipe=recipe, progress=lambda line: None)
