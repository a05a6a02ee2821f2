"""Phrases that the seed model's text is put together from: groups, sentences on a theme, answers to pick from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from valuealign.models.seed_words import (
    ADJECTIVES,
    INSTITUTIONS,
    NOUNS,
    PEOPLE,
    PLACES,
    THEMES,
    TIMES,
    TITLES,
    TRAITS,
    Theme,
)

AGES: tuple[tuple[int, int], ...] = (
    (16, 24),
    (18, 24),
    (18, 29),
    (18, 34),
    (25, 34),
    (25, 44),
    (30, 44),
    (30, 49),
    (35, 44),
    (35, 49),
)
AGES += ((35, 54), (35, 64), (40, 59), (45, 54), (45, 59), (45, 64), (50, 64), (50, 69), (55, 64), (60, 69), (60, 74))
OLD = (55, 60, 65, 70, 75)

# What made-up words are made of.
SYLLABLES = tuple(
    c + v + e for c in "bcdfghjklmnprstvwyz" for v in "aeiou" for e in ("", "n", "r", "s", "t", "l", "ng")
)
VOCABULARY = tuple(
    dict.fromkeys(
        word
        for theme in THEMES
        for text in (theme.title, *theme.things, *theme.acts, *theme.reasons)
        for word in text.split()
        if len(word) > 3
    )
)


def group_phrase(rng: Random) -> tuple[str, dict[str, int]]:
    """How a prompt may name a group, with the facts it tells (trait -> level; ``age`` -> a year of life)."""
    names = rng.sample([*TRAITS, "age", "age"], rng.choice((1, 1, 2, 2, 3)))
    facts: dict[str, int] = {}
    head, rest = "a person", list[str]()
    for name in dict.fromkeys(names):
        if name == "age":
            low, high = rng.choice(AGES) if rng.random() < 0.75 else (rng.choice(OLD), 95)
            facts["age"] = low + 1
            rest.append(_age_phrase(rng, low, high))
            continue
        levels = TRAITS[name][1]
        facts[name] = rng.randrange(len(levels))
        phrase = rng.choice(levels[facts[name]][0])
        if name == "sex":
            head = phrase
        else:
            rest.append(phrase)
    return _join(rng, head, rest), facts


def _join(rng: Random, head: str, rest: Sequence[str]) -> str:
    if not rest:
        return head
    glue = rng.choice((" ", " ", ", "))
    tail = rng.choice((" and ", glue)).join(rest)
    return f"{head}{glue}{tail}"


def _age_phrase(rng: Random, low: int, high: int) -> str:
    if high == 95:
        return rng.choice((f"aged {low} or older", f"over {low}", f"aged {low} and over", f"{low} or older"))
    return rng.choice(
        (f"aged {low} to {high}", f"between {low} and {high} years old", f"aged {low}-{high}", f"aged {low} to {high}")
    )


def sentence(rng: Random, theme: Theme) -> str:
    """A plain sentence on a theme."""
    form = rng.choice(
        (
            "{who} likes to {their} {when}.",
            "{who} wants to {their}, because {r}.",
            "Many people {their} {place}.",
            "Some say that {r}; others disagree.",
            "{T} and {t} belong together.",
            "To {d} is a matter of {title}.",
            "{who} talked about {t} {when}.",
            "It is not easy to {d} {place}.",
            "{who} said: {r}.",
            "{T} can be important to {group}.",
            "One hears {i} speak about {t}.",
            "When people {their}, they think of {t}.",
            "{who} does not want to {their}.",
            "People who value {title} also care about {t}.",
        )
    )
    text = form.replace("{group}", group_phrase(rng)[0]) if "{group}" in form else form
    return fill(rng, text, theme)


def fill(rng: Random, form: str, theme: Theme) -> str:
    """The form with its slots filled from one theme."""
    words = {
        "{who}": PEOPLE,
        "{when}": TIMES,
        "{place}": PLACES,
        "{i}": INSTITUTIONS,
        "{title}": (theme.title,),
        "{t}": theme.things,
        "{T}": tuple(capital(t) for t in theme.things),
        "{d}": theme.acts,
        "{their}": tuple(as_of(act, "their", "themselves") for act in theme.acts),
        "{r}": theme.reasons,
    }
    for slot, choices in words.items():
        while slot in form:
            form = form.replace(slot, rng.choice(choices), 1)
    return form


def as_of(act: str, whose: str, self: str) -> str:
    """The act as somebody else's: "visit your parents" becomes "visit their parents"."""
    return act.replace("yourself", self).replace("your ", f"{whose} ")


def distinct(rng: Random, make: Callable[[Random], str], count: int) -> list[str]:
    """``count`` different texts, in the order in which they were drawn."""
    made: dict[str, None] = {}
    while len(made) < count:
        made.setdefault(make(rng))
    return list(made)


def two_words(rng: Random) -> str:
    """An adjective and a noun: "Quiet garden"."""
    return capital(f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}")


def made_up(rng: Random) -> str:
    """One to four words of no meaning, from syllables and chips of words: what can only be copied."""
    words = []
    for _ in range(rng.randint(1, 4)):
        word = "".join(rng.choice(SYLLABLES) if rng.random() < 0.5 else _chip(rng) for _ in range(rng.randint(1, 3)))
        words.append(word.capitalize() if rng.random() < 0.1 else word)
    return capital(" ".join(words))


def _chip(rng: Random) -> str:
    word = rng.choice(VOCABULARY)
    start = rng.randrange(len(word))
    return word[start : start + rng.randint(2, 6)]


def an_act(rng: Random) -> str:
    """Something to do, from any theme."""
    return capital(rng.choice(rng.choice(THEMES).acts))


def a_thing(rng: Random) -> str:
    """A thing or a title, from any theme."""
    return capital(rng.choice((*rng.choice(THEMES).things, *TITLES)))


def an_institution(rng: Random) -> str:
    """Somebody whom one may trust or not."""
    return capital(rng.choice(INSTITUTIONS))


def capital(text: str) -> str:
    """The text with its first letter large."""
    return text[:1].upper() + text[1:]
