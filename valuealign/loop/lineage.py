"""Which feedback went into which version, and how old the people's answers are that all of it hangs on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime

from valuealign.loop.records import STAGE1
from valuealign.registry import Registry, Version


def ancestors(registry: Registry, version: Version) -> list[Version]:
    """The versions that a version was trained from, nearest first."""
    by_id = {one.id: one for one in registry.versions(version.name)}
    found: list[Version] = []
    while version.parent is not None and version.parent in by_id:
        version = by_id[version.parent]
        found.append(version)
    return found


def descendants(registry: Registry, version: Version) -> list[Version]:
    """The versions that were trained from a version, directly or by way of others, oldest first."""
    return [one for one in registry.versions(version.name) if version.id in {a.id for a in ancestors(registry, one)}]


def own_feedback(version: Version) -> frozenset[str]:
    """Ids of the feedback that the version itself was made with, that of the gate alone (held out) included."""
    return frozenset((version.card.get("manifest") or {}).get("feedback", ()))


def fed(registry: Registry, version: Version) -> frozenset[str]:
    """Ids of all feedback that the version and its ancestors were made with."""
    return frozenset().union(*(own_feedback(one) for one in (version, *ancestors(registry, version))))


def held_by(registry: Registry, version: Version) -> frozenset[str]:
    """Of these, the ids that were kept out of training."""
    line = (version, *ancestors(registry, version))
    return frozenset(id for one in line for id in (one.card.get("manifest") or {}).get("held_out", ()))


@dataclass(frozen=True)
class Anchor:
    """The stage-1 version that updates are held to, and since when it says what people think. ``known`` tells the
    date of the survey's fieldwork (``survey.fieldwork``) from that of the training."""

    version: str
    since: date
    known: bool

    def days(self, today: date | None = None) -> int:
        """Its age."""
        return ((today or datetime.now(UTC).date()) - self.since).days

    def __str__(self) -> str:
        what = "the people were asked" if self.known else "it was trained; survey.fieldwork says when people were asked"
        return f"the anchor {self.version} is {self.days()} days old (since {self.since}: when {what})"


def anchor(registry: Registry, name: str) -> Anchor | None:
    """What all updates of a model family hang on; None where there is no stage-1 version."""
    state = registry.alias(name, STAGE1)
    if state is None:
        return None
    version = next((one for one in registry.versions(name) if one.id == state.version), None)
    if version is None:
        return None
    asked = ((version.card.get("config") or {}).get("survey") or {}).get("fieldwork")
    since = date.fromisoformat(str(asked or version.card["created"])[:10])
    return Anchor(version.ref, since, asked is not None)
