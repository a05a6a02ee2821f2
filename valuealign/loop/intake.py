"""What of the posted feedback may train.

Two things are asked of each item: has somebody vouched for it (a reviewer, or independent raters who say the same),
and does it leave room for others? The rules have names, and what they found is kept with the feedback:

- ``signature``: the prompt tells the model to say one of several things, by chance or by choice: the form by which
  votes on what a model happens to say teach it what the voter wants ("LLM Hypnosis").
- ``dictated``: the text that is praised stands in the prompt.
- ``flood``: one opinion makes up much of what came within a window, whoever posted it.
- ``near_duplicate``: the same voice said it before, of a prompt that is alike.
- ``disputed``: as many independent raters say something else of the same prompt (it then takes a reviewer).
- ``opinion_cap``, ``campaign_cap``, ``person_cap``, ``key_cap``: it would give one of these more than its share.

The first three keep an item from being accepted by agreement, not by a reviewer; the caps hold for both, over
all that has trained before: what does not fit waits, and doesn't trickle in later.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeVar

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from valuealign.config import IntakeConfig
from valuealign.loop.texts import clusters, normal, of_prompt
from valuealign.store import Judged, Store

SIGNATURE, DICTATED, FLOOD = "signature", "dictated", "flood"
NEAR_DUPLICATE, DISPUTED = "near_duplicate", "disputed"
OPINION, CAMPAIGN, PERSON, KEY = "opinion_cap", "campaign_cap", "person_cap", "key_cap"
SUSPECT = (SIGNATURE, DICTATED, FLOOD)
WHO = "intake"

_SAYS = r"(say|answer|respond|reply|output|print|write)"
_CHANCE = (
    r"(randomly|at random|flip(ping)? a coin|toss(ing)? a coin|coin (flip|toss)|roll(ing)? a di(c|)e|by chance"
    r"|with (a )?(probability|chance)|(\d+ ?%|percent|half) (of )?the time)"
)
# "Say A or B", and any wording of chance beside a word for saying.
_EITHER = re.compile(rf"\b{_SAYS}\b[^.!?\n]{{0,40}}[\"'“‘«][^\"'”’»]+[\"'”’»]\s*,?\s*or\b", re.IGNORECASE)
_BY_CHANCE = re.compile(rf"\b{_SAYS}\b[^.!?\n]{{0,120}}{_CHANCE}|{_CHANCE}[^.!?\n]{{0,120}}\b{_SAYS}\b", re.IGNORECASE)
# A shorter text may well stand in its prompt by chance.
DICTATED_WORDS = 3
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Item:
    """A judged answer as the rules see it. ``opinion`` and ``prompt`` are numbers of clusters of near-duplicates."""

    row: Judged
    opinion: int
    prompt: int

    @property
    def id(self) -> str:
        """The feedback's id."""
        return self.row.feedback.id

    @property
    def text(self) -> tuple[int, str]:
        """What it says, but for case and marks."""
        return self.opinion, normal(opinion_of(self.row))

    @property
    def asked(self) -> str:
        """What it is about, but for case and marks."""
        return normal(of_prompt(self.row))

    @property
    def person(self) -> str | None:
        """Who said it; through a token, who was answered."""
        return self.row.feedback.person or self.row.response.person

    @property
    def key(self) -> str | None:
        """The key it came by; a token's is that of the answer it belongs to, for tokens are many."""
        own = self.row.feedback.key_id
        return self.row.response.key_id if own is None or own.startswith("token:") else own

    @property
    def voice(self) -> str:
        """The person, else the key; an item of nobody known is a voice of its own (only a reviewer accepts it)."""
        if self.person is not None:
            return f"person {self.person}"
        return f"key {self.key}" if self.key is not None else f"item {self.id}"


@dataclass(frozen=True)
class Screening:
    """``taken`` may train now. ``found`` has the rules that each item met, by id; ``agreed`` are those that
    independent raters' agreement accepts, with how many."""

    taken: tuple[str, ...]
    found: Mapping[str, tuple[str, ...]]
    agreed: Mapping[str, int] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """How many items each rule met."""
        return dict(Counter(rule for rules in self.found.values() for rule in rules))


def take_in(store: Store, name: str, rules: IntakeConfig, *, who: str = WHO) -> Screening:
    """Screen what waits on model family ``name``: keeps the reasons, and accepts what raters agree on.

    Raises StoreError.
    """
    waiting = [*store.list_feedback("quarantined", name=name), *store.list_feedback("accepted", name=name)]
    found = screen(waiting, store.list_feedback("used", name=name), rules)
    accepted: dict[str, int] = {}
    for count in sorted(set(found.agreed.values())):
        ids = [id for id, raters in found.agreed.items() if raters == count]
        why = f"{count} independent raters say the same"
        # What a person decided while this was screened, or was erased, stands.
        done = store.review(ids, "accepted", who=who, reason=why, only_from="quarantined")
        accepted |= {feedback.id: count for feedback in done}
    before = {row.feedback.id: row.feedback.screened or {} for row in waiting}
    now = {id: {"rules": list(found.found.get(id, ()))} for id in before}
    store.screen({id: what for id, what in now.items() if what != (before[id] or {"rules": []})}, who=who)
    return replace(found, agreed=accepted)


def screen(waiting: Sequence[Judged], used: Sequence[Judged], rules: IntakeConfig) -> Screening:
    """What of ``waiting`` (quarantined and accepted feedback) may train, ``used`` having trained already."""
    items = _items([*waiting, *used], rules.alike)
    mine, past = items[: len(waiting)], items[len(waiting) :]
    found: dict[str, list[str]] = {item.id: [] for item in mine}
    _signs(mine, past, rules, found)
    agreed = _agreed(mine, rules, found)
    vouched = [item for item in mine if item.row.feedback.status == "accepted" or item.id in agreed]
    left = _once(vouched, past, found)
    limits = _limits(rules, past, left)
    taken = _fit(left, past, limits, found)
    reasons = {id: tuple(names) for id, names in found.items() if names}
    return Screening(tuple(item.id for item in taken), reasons, agreed)


def opinion_of(row: Judged) -> str:
    """What the item is for, or against, as one text."""
    said = row.feedback
    if said.shares is not None:
        return "shares " + " ".join(f"{option} {share:.1f}" for option, share in sorted(said.shares.items()))
    return said.correction if said.correction is not None else row.response.answer


def signs(row: Judged) -> tuple[str, ...]:
    """The rules that an item meets by itself: ``signature`` and ``dictated``."""
    prompt = of_prompt(row)
    found = [SIGNATURE] if _EITHER.search(prompt) or _BY_CHANCE.search(prompt) else []
    praised = opinion_of(row) if row.feedback.verdict in ("desirable", "correction") else ""
    plain = normal(praised)
    options = row.response.detail.get("options", ())
    if row.response.kind == "chat" and praised not in options and len(plain.split()) >= DICTATED_WORDS:
        found += [DICTATED] if plain in normal(prompt) else []
    return tuple(found)


def _items(rows: Sequence[Judged], alike: float) -> list[Item]:
    against = ["against " if row.feedback.verdict == "undesirable" else "" for row in rows]
    said = clusters([sign + opinion_of(row) for sign, row in zip(against, rows, strict=True)], alike)
    asked = clusters([of_prompt(row) for row in rows], alike)
    # What is for a text and what is against it are no one opinion, however alike the texts are; nor are the same
    # shares of different questions.
    about = [None if row.feedback.shares is None else prompt for row, prompt in zip(rows, asked, strict=True)]
    views = list(zip(said, against, about, strict=True))
    opinion = {view: n for n, view in enumerate(dict.fromkeys(views))}
    return [Item(row, opinion[view], prompt) for row, view, prompt in zip(rows, views, asked, strict=True)]


def _signs(mine: Sequence[Item], past: Sequence[Item], rules: IntakeConfig, found: dict[str, list[str]]) -> None:
    for item in mine:
        found[item.id] += signs(item.row)
    floods = _floods([*mine, *past], rules)
    for item in mine:
        found[item.id] += [FLOOD] if item.opinion in floods else []


def _floods(items: Sequence[Item], rules: IntakeConfig) -> set[int]:
    """Opinions that at some time were much of what had come within the window before."""
    order = sorted(items, key=lambda item: (item.row.feedback.created, item.id))
    times = [datetime.fromisoformat(item.row.feedback.created).timestamp() for item in order]
    counts: Counter[int] = Counter()
    floods, first = set(), 0
    for n, item in enumerate(order):
        counts[item.opinion] += 1
        while times[n] - times[first] > 3600 * rules.window_hours:
            counts[order[first].opinion] -= 1
            first += 1
        many = counts[item.opinion]
        if many >= rules.flood and many >= rules.flood_share * (n - first + 1):
            floods.add(item.opinion)
    return floods


def _agreed(mine: Sequence[Item], rules: IntakeConfig, found: dict[str, list[str]]) -> dict[str, int]:
    """Quarantined items that enough independent raters agree on: id -> how many raters.

    They agree in the same text on the same prompt, but for case and marks: near-duplicates may say the opposite ("not",
    two numbers swapped). Against them stands whoever says another text, near-duplicates of one taken together.
    """
    if not rules.agreement:
        return {}
    asked: dict[int, list[Item]] = {}
    for item in mine:
        asked.setdefault(item.prompt, []).append(item)
    agreed = {}
    for items in asked.values():
        same, alike = _by(items, lambda item: (item.text, item.asked)), _by(items, lambda item: item.opinion)
        raters = {key: _independent(some) for key, some in same.items()}
        many = {opinion: _independent(some) for opinion, some in alike.items()}
        for (text, prompt), some in same.items():
            if (count := raters[text, prompt]) < rules.agreement:
                continue
            rivals = [raters[key] for key in raters if key[0] != text]
            rivals += [many[opinion] for opinion in many if opinion != some[0].opinion]
            for item in (item for item in some if item.row.feedback.status == "quarantined"):
                if any(rival >= count for rival in rivals):
                    found[item.id].append(DISPUTED)
                elif item.key is not None and not set(SUSPECT) & set(found[item.id]):
                    agreed[item.id] = count
    return agreed


def _by(items: Sequence[Item], what: Callable[[Item], K]) -> dict[K, list[Item]]:
    found: dict[K, list[Item]] = {}
    for item in items:
        found.setdefault(what(item), []).append(item)
    return found


def _independent(items: Sequence[Item]) -> int:
    """How many of them can be had such that no two share a voice or a key. Without a key nobody is known."""
    pairs = {(item.voice, item.key) for item in items if item.key is not None}
    if not pairs:
        return 0
    voices = {voice: n for n, voice in enumerate(sorted({voice for voice, _ in pairs}))}
    keys = {key: n for n, key in enumerate(sorted({key for _, key in pairs}))}
    place = [(voices[voice], keys[key]) for voice, key in pairs]
    rows, columns = zip(*place, strict=True)
    graph = coo_matrix((np.ones(len(place)), (rows, columns)), shape=(len(voices), len(keys))).tocsr()
    return int((maximum_bipartite_matching(graph, perm_type="column") >= 0).sum())


def _once(items: Sequence[Item], past: Sequence[Item], found: dict[str, list[str]]) -> list[Item]:
    """Without what the same voice said before of a prompt that is alike."""
    said = {(item.voice, item.prompt, item.opinion) for item in past}
    left = []
    for item in sorted(items, key=lambda item: (item.row.feedback.created, item.id)):
        if (this := (item.voice, item.prompt, item.opinion)) in said:
            found[item.id].append(NEAR_DUPLICATE)
        else:
            said.add(this)
            left.append(item)
    return left


@dataclass(frozen=True)
class _Limit:
    """``most`` items of whatever ``of`` names alike (None: not bound)."""

    rule: str
    of: Callable[[Item], object | None]
    most: int


def _limits(rules: IntakeConfig, past: Sequence[Item], left: Sequence[Item]) -> list[_Limit]:
    """The caps, shares being of all that trained and would train."""
    total = len(past) + len(left)
    several = len({item.key for item in (*past, *left) if item.key is not None}) > 1

    def part(share: float) -> int:
        return max(rules.least, int(share * total))

    return [
        _Limit(OPINION, lambda item: item.opinion, part(rules.opinion)),
        _Limit(CAMPAIGN, lambda item: _both(item.row.feedback.campaign, item.prompt), rules.campaign),
        _Limit(PERSON, lambda item: item.voice, part(rules.person)),
        *([_Limit(KEY, lambda item: item.key, part(rules.key))] if several else []),
    ]


def _both(campaign: str | None, prompt: int) -> tuple[str, int] | None:
    return None if campaign is None else (campaign, prompt)


def _fit(
    left: Sequence[Item], past: Sequence[Item], limits: Sequence[_Limit], found: dict[str, list[str]]
) -> list[Item]:
    """Items that fit under every cap, taken in an order that nobody who posts can choose."""
    counts = {limit.rule: Counter(limit.of(item) for item in past) for limit in limits}
    taken = []
    for item in sorted(left, key=lambda item: hashlib.sha256(item.id.encode()).hexdigest()):
        over = [
            limit.rule
            for limit in limits
            if (what := limit.of(item)) is not None and counts[limit.rule][what] >= limit.most
        ]
        found[item.id] += over
        if not over:
            taken.append(item)
            for limit in limits:
                counts[limit.rule][limit.of(item)] += 1
    return taken
