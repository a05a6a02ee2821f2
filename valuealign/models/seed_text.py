"""The text the seed model learns from: made by grammar and chance, from no outside source.

Four kinds of sample. *Passages* teach which words keep company. *Closed chats* (exactly as
``prompts.ask`` writes them) are answered with each listed option alike, over very many scales and with
made-up options besides: the model learns to answer from the list, and nothing of what people think.
*Reading chats* have one right answer that the prompt itself gives away (the group's age, what a word is
about): they teach that question and group matter. *Open chats* get short replies from every theme alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import NamedTuple

from valuealign import prompts
from valuealign.models.seed_phrases import (
    a_thing,
    an_act,
    an_institution,
    as_of,
    capital,
    distinct,
    fill,
    group_phrase,
    made_up,
    sentence,
    two_words,
)
from valuealign.models.seed_words import ADJECTIVES, INSTITUTIONS, NOUNS, THEMES, TITLES, TRAITS, Theme
from valuealign.types import Message

# Degrees from none to most; {a} is an adjective.
RUNGS = (
    ("Not at all {a}", "Not {a} at all", "Not {a}"),
    ("Not very {a}", "Not so {a}", "Not too {a}", "Hardly {a}"),
    ("A little {a}", "Slightly {a}", "A bit {a}"),
    ("Somewhat {a}", "Rather {a}", "Moderately {a}"),
    ("Fairly {a}", "Quite {a}", "Pretty {a}"),
    ("Very {a}", "Really {a}"),
    ("Extremely {a}", "Completely {a}", "Totally {a}"),
)

# Questions about one adjective; {t} a thing, {d} an act.
DEGREES: dict[str, tuple[str, ...]] = {
    "important": ("How important is {t} to you?", "How important is it to {d}?", "Is {t} important in your life?"),
    "likely": ("How likely are you to {d}?", "How likely is it that you will {d} next year?"),
    "satisfied": ("How satisfied are you with {t}?", "Are you satisfied with {t} these days?"),
    "worried": ("How worried are you about {t}?", "Do you feel worried about {t}?"),
    "interested": ("How interested are you in {t}?", "Are you interested in {t}?"),
    "proud": ("How proud are you when people {their}?", "How proud are you of {t}?"),
    "happy": ("How happy does {t} make you?", "How happy are you to {d}?"),
    "useful": ("How useful is {t}?", "How useful is it to {d}?"),
    "difficult": ("How difficult is it to {d}?", "How difficult is it to understand {t}?"),
    "safe": ("How safe do you feel when you {d}?", "How safe do you feel with {t}?"),
    "confident": ("How confident are you in {t}?", "How confident are you that you can {d}?"),
    "necessary": ("How necessary is {t} today?", "How necessary is it to {d}?"),
    "fair": ("How fair is it to {d}?", "How fair is the way we treat {t}?"),
    "serious": ("How serious a matter is {t}?", "How serious is it not to {d}?"),
    "true": ("How true is this: it is good to {d}?", "How true is it that {r}?"),
    "close": ("How close do you feel to {t}?",),
    "honest": ("How honest is {i}?", "How honest would you call {i}?"),
}

# Whole scales with their questions; {s} a statement, {i} an institution, {r} a reason.
SCALES: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        (
            "Strongly disagree|Disagree|Neither agree nor disagree|Agree|Strongly agree",
            "Disagree strongly|Disagree|Agree|Agree strongly",
            "Completely disagree|Mostly disagree|Undecided|Mostly agree|Completely agree",
            "Disagree|Agree",
            "Tend to disagree|No opinion|Tend to agree",
            "Strongly disagree|Somewhat disagree|Somewhat agree|Strongly agree",
            "Disagree completely|Disagree a little|Agree a little|Agree completely",
        ),
        (
            "Do you agree or disagree: {s}?",
            "{s}. Do you agree?",
            "Some people say that {r}. How far do you agree?",
            'How much do you agree with this: "{s}"?',
            "How do you feel about the statement that {r}?",
        ),
    ),
    (
        (
            "None at all|Not very much|Quite a lot|A great deal",
            "No trust|A little trust|Some trust|Much trust|Full trust",
            "Not at all|A little|Somewhat|A lot|Completely",
            "Do not trust|Trust",
            "Hardly any|Only some|A great deal",
            "Never|Some of the time|Most of the time|Always",
        ),
        (
            "How much do you trust {i}?",
            "How much confidence do you have in {i}?",
            "Can {i} be trusted to {their}?",
            "Do you trust {i} on {t}?",
        ),
    ),
    (
        (
            "Never|Rarely|Sometimes|Often|Always",
            "Never|Hardly ever|Now and then|Very often",
            "Every day|Once a week|Once a month|Once a year|Never",
            "Not once|Once or twice|Many times",
            "Daily|Weekly|Monthly|Less often|Never",
            "Almost never|From time to time|Almost always",
        ),
        ("How often do you {d}?", "How often should people {their}?", "In the past year, how often did you {d}?"),
    ),
    (
        (
            "Not like me at all|Not like me|A little like me|Somewhat like me|Like me|Very much like me",
            "Nothing like me|Little like me|Much like me|Exactly like me",
            "Does not describe me|Describes me somewhat|Describes me well",
            "Not me|Partly me|Me",
        ),
        (
            "This person likes to {their}. How much is this person like you?",
            "How well does this describe you: someone who wants to {their}?",
            "Someone thinks that {r}. Are you like that?",
        ),
    ),
    (
        ("Yes|No", "Yes|No|Not sure", "Yes|Maybe|No", "Definitely yes|Probably yes|Probably no|Definitely no"),
        (
            "Would you {d}?",
            "Should {i} do more about {t}?",
            "Should children learn to {their}?",
            "Do you think that {r}?",
            "Have you ever wanted to {d}?",
        ),
    ),
    (
        (
            "Much less|A little less|About the same|A little more|Much more",
            "Less|The same|More",
            "Far too little|Too little|Enough|Too much|Far too much",
            "Cut a lot|Cut a little|Keep as it is|Raise a little|Raise a lot",
        ),
        (
            "Should we spend more or less on {t}?",
            "Compared with the past, do people {their} more or less?",
            "Is there too much or too little talk about {t}?",
        ),
    ),
    (
        (
            "Very bad|Bad|Neither good nor bad|Good|Very good",
            "Poor|Fair|Good|Excellent",
            "Terrible|Poor|Average|Good|Perfect",
            "Better|The same|Worse",
            "A bad thing|A good thing|It makes no difference",
        ),
        (
            "What do you think of {t}?",
            "How would you rate {i}?",
            "How is it when people {their}?",
            "How does {t} look to you?",
        ),
    ),
    (
        (
            "Strongly oppose|Oppose|Neutral|Favour|Strongly favour",
            "Against|For",
            "Oppose|Support|Not sure",
            "Never acceptable|Sometimes acceptable|Always acceptable",
            "Always wrong|Sometimes wrong|Never wrong",
        ),
        ("Are you for or against a law on {t}?", "Do you support a plan to {d}?", "Is it right or wrong to {d}?"),
    ),
)

NUMBERS = ("1|2|3", "1|2|3|4", "1|2|3|4|5", "1|2|3|4|5|6|7", "0|1|2|3|4|5", "0|5|10", "one|two|three|four")

REQUESTS = (
    "How should I spend {o}?",
    "What should I do about {p}?",
    "Give me advice for {o}.",
    "I need help with {p}. What now?",
    "What matters most on {o}?",
    "What would you do about {p}?",
    "Please give me a tip for {o}.",
    "What is the best way to deal with {p}?",
)
OCCASIONS = tuple(
    "a free weekend,my birthday,the summer holidays,my first day at work,a long evening,a visit to my aunt,"
    "a day in the city,a trip with friends,the new year,a wedding,a quiet Sunday,my last school year,"
    "a party next door,my lunch break,a week alone,moving day,a talk with my boss,a school project".split(",")
)
PROBLEMS = tuple(
    "a noisy neighbour,a hard choice,my old car,a rude guest,a small salary,an angry friend,a broken promise,"
    "too much work,a boring job,an unfair rule,a big debt,a late train,a bad mark,a shy child,a new colleague,"
    "a difficult parent,a secret,a strange letter,a sick pet,too little sleep,a wrong bill,a jealous cousin".split(",")
)
REPLIES = (
    "For {x}, I would {d}, because {r}.",
    "With {x}, it helps to {d}: {r}.",
    "Think of {t} first, since {r}.",
    "When it comes to {x}, {d}, for {r}.",
    "Try to {d}, because {r}.",
    "You could {d}; after all, {r}.",
    "About {x}: {d}, and remember that {r}.",
    "I would put {t} first, because {r}.",
)
MANNERS = ("Be brief.", "Answer in one sentence.", "You are a helpful assistant.", "Give kind and plain advice.")


class Sample(NamedTuple):
    """A chat with its equally good completions; without messages, a plain passage."""

    messages: tuple[Message, ...]
    completions: tuple[str, ...]


def samples(seed: int) -> Iterator[Sample]:
    """An endless stream of samples; the same seed gives the same stream."""
    rng = Random(f"1:{seed}")
    makers: tuple[Callable[[Random], Sample], ...]
    makers, shares = zip(*MIX, strict=True)
    while True:
        yield rng.choices(makers, shares)[0](rng)


def passage(rng: Random) -> Sample:
    """Two to four plain sentences on one theme."""
    theme = rng.choice(THEMES)
    return Sample((), (" ".join(sentence(rng, theme) for _ in range(rng.randint(2, 4))),))


def closed(rng: Random) -> Sample:
    """A survey-like question on some scale; every listed option is an equally good answer."""
    theme = rng.choice(THEMES)
    question, options = _degree(rng, theme) if rng.random() < 0.5 else _scale(rng, theme)
    return _asked(rng, question, options, theme)


def picked(rng: Random) -> Sample:
    """A choice among things that share no scale: themes' things and acts, or made-up names."""
    theme = rng.choice(THEMES)
    make = rng.choice((two_words, two_words, made_up, an_act, a_thing, an_institution))
    options = distinct(rng, make, rng.randint(2, 6))
    question = rng.choice(
        ("Which one do you choose?", "Which of these comes first?", "What do you pick?", "Which matters more to you?",
         "Which of these do you like best?", "Who or what should decide about {t}?", "Pick one for {t}.")
    )  # fmt: skip
    return _asked(rng, fill(rng, question, theme), options, theme)


def echo(rng: Random) -> Sample:
    """Words in no order, to be said again: the densest lesson in copying."""
    pools = (NOUNS, ADJECTIVES, INSTITUTIONS, TITLES)
    words = [made_up(rng) if rng.random() < 0.4 else rng.choice(rng.choice(pools)) for _ in range(rng.randint(3, 12))]
    text = rng.choice((" ", ", ", " ", "\n- ")).join(words)
    return Sample(
        (Message("user", rng.choice(("Say this again: {x}", "Repeat: {x}", "{x}")).replace("{x}", text)),), (text,)
    )


def reading(rng: Random) -> Sample:
    """A question that the prompt itself answers: a fact of the named group, or what a word is about."""
    return _about(rng) if rng.random() < 0.4 else _fact(rng)


def advice(rng: Random) -> Sample:
    """An open request with several short replies, each from a theme of its own, all themes alike."""
    if rng.random() < 0.25:
        return _should_i(rng)
    request = rng.choice(REQUESTS)
    x = rng.choice(OCCASIONS if "{o}" in request else PROBLEMS)
    themes = rng.sample(THEMES, 3)
    replies = tuple(fill(rng, rng.choice(REPLIES).replace("{x}", x), theme) for theme in themes)
    user = Message("user", request.replace("{o}", x).replace("{p}", x))
    return Sample((*_manner(rng), *_talk(rng), user), replies)


def _degree(rng: Random, theme: Theme) -> tuple[str, list[str]]:
    adjective = rng.choice(list(DEGREES))
    rungs = sorted(rng.sample(range(len(RUNGS)), rng.randint(2, 6)))
    bare = rng.random() < 0.15
    options = [rng.choice(RUNGS[rung]).replace("{a}", adjective) for rung in rungs]
    if bare and not any(option.startswith("Not ") and option.endswith(("all", adjective)) for option in options):
        options = [option.replace(f" {adjective}", "") for option in options]
    return fill(rng, rng.choice(DEGREES[adjective]), theme), options


def _scale(rng: Random, theme: Theme) -> tuple[str, list[str]]:
    scales, questions = rng.choice(SCALES)
    if rng.random() < 0.12:
        scales = NUMBERS
    statement = (
        f"it is {rng.choice(('good', 'right', 'important', 'wrong', 'useful', 'a duty'))} to {rng.choice(theme.acts)}"
    )
    question = rng.choice(questions).replace("{s}", statement)
    return capital(fill(rng, question, theme)), rng.choice(scales).split("|")


def _asked(rng: Random, question: str, options: Sequence[str], theme: Theme) -> Sample:
    """The question as ``prompts.ask`` writes it, with each option a completion."""
    options = list(options)
    if rng.random() < 0.4:
        options.reverse()
    if rng.random() < 0.1:
        options.append(rng.choice(("Don't know", "No answer", "Other", "Hard to say", "None of these")))
    if rng.random() < 0.1:
        options = [option.lower() for option in options]
    if rng.random() < 0.15:
        question = f"{sentence(rng, theme)} {question}"
    group = group_phrase(rng)[0] if rng.random() < 0.6 else ""
    return Sample(prompts.ask(question, options, group), tuple(options))


def _about(rng: Random) -> Sample:
    """Which theme a word belongs to."""
    theme, *others = rng.sample(THEMES, rng.randint(2, 5))
    options = [theme.title, *(other.title for other in others)]
    rng.shuffle(options)
    form = rng.choice(
        ("Which of these has most to do with {x}?", "What is this about: {x}?", "Where does this belong: {x}?")
    )
    clue = rng.choice((rng.choice(theme.things), f"to {rng.choice(theme.acts)}", f"{rng.choice(theme.reasons)}"))
    return Sample(prompts.ask(form.replace("{x}", clue), options), (theme.title,))


def _fact(rng: Random) -> Sample:
    """A fact about the group: the option that fits where the group tells it, else any."""
    group, facts = group_phrase(rng)
    trait = rng.choice([*facts, *facts, *TRAITS]) if facts else rng.choice(list(TRAITS))
    if trait == "age":
        return _age(rng, group, facts["age"])
    questions, levels = TRAITS[trait]
    options = [rng.choice(names) for _, names in levels]
    completions = (options[facts[trait]],) if trait in facts else tuple(options)
    listed = options[::-1] if rng.random() < 0.4 else options
    return Sample(prompts.ask(rng.choice(questions), listed, group), completions)


def _age(rng: Random, group: str, age: int) -> Sample:
    cuts = rng.choice(((30, 50), (35, 55), (30, 45, 60), (25, 35, 50, 65), (40,), (50,), (35, 50, 65)))
    edges = [16, *cuts, 99]
    options = [f"{low} to {high - 1}" for low, high in zip(edges, edges[1:], strict=False)]
    options[0], options[-1] = f"Under {cuts[0]}", f"{cuts[-1]} or older"
    answer = options[sum(age >= cut for cut in cuts)]
    question = rng.choice(("How old are you?", "What is your age?", "Which age group are you in?"))
    return Sample(prompts.ask(question, options, group), (answer,))


def _should_i(rng: Random) -> Sample:
    theme, other = rng.sample(THEMES, 2)
    act = rng.choice(theme.acts)
    ask = rng.choice(("Should I {my}?", "My friend wants to {their}. Is that wise?", "Is it a good idea to {d}?"))
    ask = ask.replace("{my}", as_of(act, "my", "myself")).replace("{their}", as_of(act, "their", "themselves"))
    replies = (
        fill(rng, rng.choice((f"Yes, {act}, because {{r}}.", f"I think so: to {act} is good, since {{r}}.")), theme),
        fill(rng, rng.choice(("Perhaps, but do not forget to {d}, because {r}.", "Rather {d} first: {r}.")), other),
    )
    return Sample((*_manner(rng), Message("user", ask.replace("{d}", act))), replies)


def _manner(rng: Random) -> tuple[Message, ...]:
    """A system turn, in a third of the open chats."""
    draw = rng.random()
    if draw < 0.17:
        return (Message("system", rng.choice(MANNERS)),)
    return (Message("system", f"Answer as {group_phrase(rng)[0]}."),) if draw < 0.34 else ()


def _talk(rng: Random) -> tuple[Message, ...]:
    """An earlier exchange, seldom, so that a chat may have several turns."""
    if rng.random() > 0.12:
        return ()
    theme = rng.choice(THEMES)
    said = fill(rng, rng.choice(("What do you know about {t}?", "Tell me something about {t}.")), theme)
    return Message("user", said), Message("assistant", sentence(rng, theme))


# How often each kind is drawn.
MIX: tuple[tuple[Callable[[Random], Sample], float], ...] = (
    (passage, 0.10),
    (closed, 0.24),
    (picked, 0.24),
    (echo, 0.18),
    (reading, 0.12),
    (advice, 0.12),
)
