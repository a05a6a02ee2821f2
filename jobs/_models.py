"""What jobs that ask models share: versions of a family, verified and loaded over the run's base."""

from __future__ import annotations

from collections.abc import Sequence

from _job import open_registry, say

from valuealign.config import RunConfig
from valuealign.errors import RegistryError
from valuealign.models.host import Host
from valuealign.models.load import fingerprint, resolve
from valuealign.registry import Version, check_base
from valuealign.types import BASE


def hosted(config: RunConfig, refs: Sequence[str]) -> tuple[Host, tuple[Version, ...], dict[str, str | None]]:
    """The host with every version loaded, the versions, and who answers: name -> version (None: the base)."""
    registry = open_registry()
    base_hash = fingerprint(resolve(config.model.path, progress=say), config.model.quantize)
    versions = [registry.get(ref, name=config.name) for ref in refs]
    for one in versions:
        if one.name != config.name:
            mend = f"run with name={one.name}"
            raise RegistryError(f"{one.ref} is of another family", where="--version", mend=mend)
        registry.verify(one)
        check_base(one, base_hash, "set model.path to its base")
    host = Host.of(config.model)
    for one in versions:
        host.load(one.id, one.path)
    return host, tuple(versions), {BASE: None, **{one.id: one.id for one in versions}}
