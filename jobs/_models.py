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
    """The host with every version loaded, the versions, and who answers: name -> version (None: the base).

    Raises RegistryError for a version that is unknown, of another family or base, or named twice.
    """
    registry = open_registry()
    base_hash = fingerprint(resolve(config.model.path, progress=say), config.model.quantize)
    versions = [registry.get(ref, name=config.name) for ref in refs]
    for n, (ref, one) in enumerate(zip(refs, versions, strict=True)):
        if one.id in [other.id for other in versions[:n]]:
            what = f"{one.ref} is named twice" + (f" ('{ref}' is another name of it)" if ref != one.id else "")
            raise RegistryError(what, where="command line", mend="name each version once")
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


def say_other_data(versions: Sequence[Version], data_hash: str, *, so: str = "") -> None:
    """A line for each version that other data than the configuration's, or another split of them, trained."""
    for one in versions:
        if one.card.get("data_hash") not in (None, data_hash):
            say(f"note: {one.ref} was trained on other data or another split than this configuration's{so}")
