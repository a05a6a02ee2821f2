"""A candidate that passed the gate can serve a share of the requests first: it is the alias ``canary``, until it is
promoted or called back.

While the canary is out, feedback on its answers is compared with feedback on the champion's. "Out" means that the
version was not champion since the alias was pointed at it: calling it back points it at the champion, and what was
promoted and then rolled back is no canary again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from valuealign.errors import AliasMoved, RegistryError, UnknownVersion
from valuealign.loop.records import CHAMPION
from valuealign.metrics import interval
from valuealign.registry import Registry, Version
from valuealign.store import Store
from valuealign.types import Estimate

CANARY = "canary"
DRAWS = 1000
FEWEST = 10  # judged answers of each; of fewer nothing is beyond doubt


def out(registry: Registry, name: str) -> Version | None:
    """The version that serves as canary; None if none does."""
    canary, moves = registry.alias(name, CANARY), registry.history(name, CHAMPION)
    if canary is None or not moves:
        return None
    since = registry.history(name, CANARY)[-1].created
    champions = [*[move for move in moves if move.created <= since][-1:], *(m for m in moves if m.created >= since)]
    if canary.version in {move.to_version for move in champions}:
        return None
    return registry.get(f"{name}@{canary.version}")


def drawn(request_id: str, share: float) -> bool:
    """Whether a request is among the ``share`` that the canary answers: the same request always is, or never."""
    return int(hashlib.sha256(request_id.encode()).hexdigest()[:12], 16) < share * 16**12


@dataclass(frozen=True)
class Compared:
    """Judged answers of canary and champion, the share of each that people found wanting (undesirable or corrected),
    and the canary's less the champion's."""

    canary: int
    champion: int
    wanting: tuple[float, float]
    apart: Estimate

    @property
    def worse(self) -> bool:
        """Whether the canary is worse beyond doubt: the interval's lower end is above 0, of enough answers."""
        return bool(min(self.canary, self.champion) >= FEWEST and self.apart.low > 0)

    def refuse_worse(self, name: str) -> None:
        """Raises RegistryError if the canary is worse."""
        if self.worse:
            raise RegistryError(
                "people find the canary worse than the champion",
                where=f"{name}@{CANARY}",
                mend="call it back (--canary no), or say --force",
            )

    def __str__(self) -> str:
        mine, other = self.wanting
        told = f"wanting: {mine:.0%} of {self.canary} answers of the canary, {other:.0%} of {self.champion} of the rest"
        apart = self.apart
        worse = ": the canary is worse" if self.worse else ""
        return f"{told}; difference {apart.value:.3f} [{apart.low:.3f}, {apart.high:.3f}]{worse}"


def compare(store: Store, registry: Registry, name: str, *, seed: int = 0) -> Compared | None:
    """What people said of the canary's answers beside the champion's since it is out; None without a canary.

    Declined feedback does not count. A resample draws judgements of each version.
    """
    version = out(registry, name)
    if version is None:
        return None
    since = registry.history(name, CANARY)[-1].created
    champion = registry.get(f"{name}@{CHAMPION}").id
    found: dict[str, list[float]] = {version.id: [], champion: []}
    for row in store.list_feedback(name=name):
        told = row.feedback.status != "declined" and row.feedback.verdict != "shares" and row.response.created >= since
        if told and row.response.version in found:
            found[row.response.version].append(float(row.feedback.verdict != "desirable"))
    one, other = (np.array(found[id]) for id in (version.id, champion))
    if not len(one) or not len(other):
        return Compared(len(one), len(other), (_mean(one), _mean(other)), Estimate(np.nan, np.nan, np.nan))
    rng = np.random.default_rng(seed)
    drawn_B = [side[rng.integers(0, len(side), (DRAWS, len(side)))].mean(axis=1) for side in (one, other)]
    fewest = min(len(one), len(other))
    apart = interval(
        float(one.mean() - other.mean()), drawn_B[0] - drawn_B[1], n=len(one) + len(other), clusters=fewest
    )
    return Compared(len(one), len(other), (_mean(one), _mean(other)), apart)


def promote_canary(registry: Registry, name: str, *, who: str, why: str) -> Version:
    """The canary becomes champion, if the champion is still the one it was learned from.

    Raises UnknownVersion if none is out, AliasMoved if the champion moved.
    """
    version = _needed(registry, name)
    champion = registry.alias(name, CHAMPION)
    assert champion is not None, "a canary is out beside a champion"
    if version.parent != champion.version:
        raise AliasMoved(
            f"the champion is {champion.version} by now, and the canary was learned from {version.parent}",
            where=f"{name}@{CANARY}",
            mend="call the canary back, and run the update again",
        )
    figures = registry.history(name, CANARY)[-1].figures
    registry.move(
        name, CHAMPION, version, expected=champion.version, epoch=champion.epoch, who=who, why=why, figures=figures
    )
    return version


def call_back(registry: Registry, name: str, *, who: str, why: str) -> Version:
    """The champion answers everything again; returns what was called back. Raises UnknownVersion if none is out."""
    version = _needed(registry, name)
    champion = registry.get(f"{name}@{CHAMPION}")
    registry.move(name, CANARY, champion, expected=version, who=who, why=why)
    return version


def _needed(registry: Registry, name: str) -> Version:
    version = out(registry, name)
    if version is None:
        raise UnknownVersion("no canary is out", where=f"{name}@{CANARY}", mend="set update.canary and run an update")
    return version


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
