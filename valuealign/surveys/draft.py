"""A first codebook for a file, guessed from names, labels and observed codes, for a person to correct.

Every guess is marked ``# guessed`` in the text. What is guessed here is never used unseen: the
draft is a file that a person reads before a survey is read with it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl

from valuealign.surveys import files
from valuealign.surveys.codebook import WAVE, plain_number
from valuealign.surveys.files import Table
from valuealign.surveys.wordings import DONT_KNOW, NOT_ASKED, mentions_non_answer, non_answer

# In a published table these may be answers; in a file they are proposed as none.
UNSURE = re.compile(r"\b(not sure|unsure|no opinion)\b", re.I)
LONGEST_NON_ANSWER = 60
MISSING_WORDS = frozenset({"NA", "N/A", "NAN", "NULL", ".", "#NULL!"})
MISSING_NUMBERS = frozenset({7, 8, 9, 66, 77, 88, 97, 98, 99, 777, 888, 996, 997, 998, 999, 7777, 8888, 9998, 9999})

PERSON = re.compile(
    r"(^|[_.\s])(id|idno|uuid|serial|caseid|respid|respondent|interview|num(ber)?)$|^\w*(resp|case|person)_?id$|^pidp?$",
    re.I,
)
WEIGHT = re.compile(r"(^|[_.])(weight\w*|wgt\w*|wt|w|pspwght|anweight|dweight)($|[_.])|\bweight", re.I)
DURATION = re.compile(r"duration|seconds|interview (length|time)|time taken", re.I)
# Looked for in names and in labels, from their beginning: an item may well ask about education.
TRAITS = (
    ("country", re.compile(r"(b_)?(country|cntry|nation)(_?(code|name|alpha)\w*)?$", re.I)),
    ("sex", re.compile(r"(respondent.?s )?(sex|gender|gndr)( of .*)?$", re.I)),
    ("age", re.compile(r"(pp|r_?|respondent.?s )?age(a|[_ ]?years|[_ ]?group|[_ ]?cat\w*)?( of .*)?$", re.I)),
    ("education", re.compile(r"((highest )?(level of )?education(al)?( .*)?|educ?\w*|isced\w*|degree)$", re.I)),
    ("region", re.compile(r"(region|province|state|district|county)(_?(code|name))?$", re.I)),
    ("settlement", re.compile(r"(urban\w*|rural\w*|urban.rural( .*)?|(type of )?settlement( .*)?|town_?size)$", re.I)),
    ("ethnicity", re.compile(r"(race|ethnic\w*( group| origin)?)$", re.I)),
    ("income", re.compile(r"((scale|level) of |household )?(incomes?|hinc)([_ ]?(cat|group|level|step)\w*)?$", re.I)),
)
# Columns of 0 and 1 with one stem are one trait with several answers where their stem, or each label, says so.
FLAGS = (
    ("ethnicity", re.compile(r"(r_?)?(eth|ethn\w*|race)", re.I), re.compile(r"(ethnic\w*|race)\b", re.I)),
    ("religion", re.compile(r"(r_?)?relig\w*", re.I), re.compile(r"(religion|religious (group|affiliation))\b", re.I)),
)
STEM = re.compile(r"(?P<stem>\w[\w.]*?)([._]?\d+|[._][^\W\d_]+)$")
# A mark of a wave in a column name: trust_w3, trust.2018, Trust.T10, trustT10, w1_trust.
WAVE_STYLES = (
    re.compile(r"^(?P<before>.*\w[._])(?P<mark>(wave|w|t)\d{1,2}|(19|20)\d\d)(?P<after>)$", re.I),
    re.compile(r"^(?P<before>)(?P<mark>(wave|w|t)\d{1,2}|(19|20)\d\d)(?P<after>[._]\w.*)$", re.I),
    re.compile(r"^(?P<before>.*[a-z0-9])(?P<mark>[TW]\d{1,2})(?P<after>)$"),
)
# The column of a long file that says in which wave a row was asked.
WAVE_COLUMN = re.compile(r"(survey|panel|ess|s)?_?(wave|round|year|period)(_?(no|nr|num|number|id|code))?$", re.I)
# Whole numbers are a survey's weight by their name alone; a body has one too.
WHOLE_WEIGHT = re.compile(r"(^|[_.])(weights?|wgts?|wt|[a-z]*weight)$", re.I)
BODY = re.compile(r"\b(kgs?|kilos?|kilograms?|lbs?|pounds|body)\b|(over|under|body|birth)_?weight", re.I)
MOST_OPTIONS, MOST_LEVELS = 12, 250
AGE_CUTS = (30, 45, 60)


@dataclass
class Look:
    """A column, or one question's columns of all waves: how often each code stands, and the labels.

    ``columns`` counts them, ``empty`` the values without anything; ``unique`` where no value is
    empty or comes twice.
    """

    name: str
    label: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    columns: int = 0
    empty: int = 0
    unique: bool = False

    @property
    def id(self) -> str:
        """The name without the place of the wave."""
        return re.sub(r"[._]?" + re.escape(WAVE) + r"[._]?", "", self.name)


@dataclass(frozen=True)
class Coded:
    """The codes of a column: options (or levels) in order with their words, outcomes and missing codes."""

    options: tuple[tuple[str, str], ...]
    outcomes: Mapping[str, str]
    missing: tuple[str, ...]
    labelled: bool


@dataclass
class Draft:
    """What a file seems to hold; ``unplaced`` says of each other column why it was left.

    ``wave`` is the column that names the wave where a person has a row for each (a long panel).
    ``weight_gaps`` counts the empty weights, ``whole_weights`` says that they are whole numbers, known
    by their name only; ``several`` holds the traits with a column of 0 and 1
    for each level.
    """

    path: Path
    separator: str = ","
    waves: tuple[str, ...] = ()
    person: str | None = None
    weight: str | None = None
    weight_gaps: int = 0
    whole_weights: bool = False
    wave: str | None = None
    duration: str | None = None
    traits: dict[str, tuple[Look, Coded]] = field(default_factory=dict)
    several: dict[str, list[tuple[Look, Coded]]] = field(default_factory=dict)
    bands: dict[str, tuple[str, ...]] = field(default_factory=dict)
    items: list[tuple[Look, Coded]] = field(default_factory=list)
    unplaced: dict[str, str] = field(default_factory=dict)

    @property
    def weight_remark(self) -> str:
        """What whole numbers and empty weights mean, to stand behind the weight; nothing where there are none."""
        whole = "; whole numbers: weights of persons, or of bodies?" if self.whole_weights else ""
        if not self.weight_gaps:
            return whole
        who = (
            "right for who answered nothing in that wave"
            if WAVE in str(self.weight)
            else "fill them, or take those out"
        )
        return f"{whole}; empty weights: {self.weight_gaps}, {who}"

    def summary(self) -> list[str]:
        """What was guessed, a line each."""
        scales = {coded.options for _, coded in self.items}
        return [
            f"person: {self.person or 'not found: every row counts as another person'}",
            f"weight: {self.weight or 'not found: everyone counts the same'}" + self.weight_remark,
            *([f"waves: {', '.join(self.waves)}"] if self.waves else []),
            *([f"wave: {self.wave} (a person has a row for each)"] if self.wave else []),
            *([f"duration: {self.duration}"] if self.duration else []),
            f"traits: {', '.join([*self.traits, *self.several]) or 'none found'}",
            f"items: {len(self.items)} on {len(scales)} scales, "
            f"{sum(not coded.labelled for _, coded in self.items)} without labels of their options",
            f"not placed: {len(self.unplaced)} columns (listed at the end of the draft)",
        ]


def draft_codebook(path: Path) -> Draft:
    """Guess what the columns of a file are. Raises AnswerError where the file cannot be read."""
    separator = files.separator(path)
    table = files.load(path, separator=separator)
    looks, waves = _looks(table)
    found = Draft(path, separator, waves)
    found.several = _flags(found, looks)
    taken = {look.name for levels in found.several.values() for look, _ in levels}
    if not waves and not any(look.unique and PERSON.search(look.id) for look in looks):
        found.person, found.wave = _long_panel(table, looks)
    _weigh(found, looks)
    taken |= {name for name in (found.person, found.wave, found.weight) if name is not None}
    for look in looks:
        if look.name in taken:
            continue
        reason = _place(found, look)
        if reason:
            found.unplaced[look.name] = reason
    if "" in table.layout.names:
        found.unplaced["(a column without a name)"] = "row numbers, if R wrote the file; name it to use it"
    return found


# Columns and waves


def _looks(table: Table) -> tuple[list[Look], tuple[str, ...]]:
    """The columns in the order of the file, those of one question in several waves as one."""
    names = [name for name in table.layout.names if name]
    style = max(WAVE_STYLES, key=lambda style: _repeats(style, names))
    # A few columns with years in their names make no panel.
    panel = 4 * _repeats(style, names) >= len(names)
    marks = {name: match["mark"] for name in names if panel and (match := style.match(name))}
    looks: dict[str, Look] = {}
    for name in names:
        match = style.match(name) if name in marks else None
        template = f"{match['before']}{WAVE}{match['after']}" if match else name
        look = looks.setdefault(template, Look(template, unique=not match))
        _add(look, table, name)
    return list(looks.values()), tuple(sorted(set(marks.values()), key=_natural))


def _repeats(style: re.Pattern[str], names: Iterable[str]) -> int:
    """How many columns are of a question that the style finds in at least two waves."""
    stems = Counter((match["before"], match["after"]) for name in names if (match := style.match(name)))
    return sum(count for count in stems.values() if count > 1)


def _natural(mark: str) -> tuple[str, int]:
    digits = re.sub(r"\D", "", mark)
    return re.sub(r"\d", "", mark).lower(), int(digits)


def _add(look: Look, table: Table, name: str) -> None:
    texts, index_P = table.codes(name)
    for place, count in Counter(index_P.tolist()).items():
        if texts[place]:
            look.counts[texts[place]] += count
    look.label = look.label or table.layout.labels.get(name, "")
    look.labels |= {code: words for code, words in table.layout.values.get(name, {}).items() if words}
    look.columns += 1
    look.empty = look.columns * len(index_P) - sum(look.counts.values())
    look.unique &= len(look.counts) == len(index_P)


# What a column is


def _long_panel(table: Table, looks: Iterable[Look]) -> tuple[str | None, str | None]:
    """The columns of persons and of waves in a file where a person has a row for each wave: no pair stands twice."""
    looks = [look for look in looks if not look.empty and 1 < len(look.counts) < len(table.row_P)]
    for person in (look for look in looks if PERSON.search(look.id)):
        for wave in (look for look in looks if WAVE_COLUMN.match(look.id) and look is not person):
            if pl.DataFrame([table.texts(person.name), table.texts(wave.name)]).is_unique().all():
                return person.name, wave.name
    return None, None


def _weigh(found: Draft, looks: Sequence[Look]) -> None:
    """The first column that looks like weights: fractions of that name, or else whole numbers of a plainer one."""
    for whole in (False, True):
        for look in looks:
            if look.counts and (WAVE not in look.name or found.waves) and _is_weight(found, look, whole):
                found.weight, found.whole_weights = look.name, whole
                found.weight_gaps = look.empty + sum(look.counts[text] for text in _absent(look))
                return


def _place(found: Draft, look: Look) -> str:
    """Put a column where it seems to belong; else say why it was left."""
    said = f"{look.id} {look.label}"
    coded = code(look)
    numeric = bool(look.counts) and all(plain_number(text) is not None for text, _ in coded.options)
    if not look.counts:
        return "empty"
    if WAVE in look.name and not found.waves:
        return f"its name holds {WAVE}"
    if found.person is None and look.unique and PERSON.search(look.id):
        found.person = look.name
    elif found.duration is None and numeric and len(coded.options) > MOST_OPTIONS and DURATION.search(said):
        found.duration = look.name
    elif (name := _trait(found, look, coded)) is not None:
        found.traits[name] = look, replace(coded, options=_observed(look, coded))
        if name == "age" and numeric and len(coded.options) > MOST_OPTIONS and not coded.labelled:
            found.bands[name] = _bands([float(text) for text, _ in coded.options])
    elif (again := _again(found, look)) is not None:
        return f"another column of the trait '{again}'"
    elif len(coded.options) < 2:
        apart = f", as {', '.join(coded.missing)} is taken for missing" if coded.missing else ""
        return f"one value only{apart}"
    elif len(coded.options) > MOST_OPTIONS and not look.unique and found.person is None and PERSON.search(look.id):
        return "an id that stands in several rows: if it is the person's, say so with 'person:' (and 'wave:')"
    elif len(coded.options) > MOST_OPTIONS:
        return f"{len(coded.options)} different values"
    elif not numeric and not coded.labelled and 2 * len(coded.options) > sum(look.counts.values()):
        return "free text"
    elif found.waves and WAVE not in look.name:
        return "in which wave it was asked is not clear"
    elif numeric and not coded.labelled and any("." in text for text, _ in coded.options):
        return "a measure, no codes"
    else:
        found.items.append((look, coded))
    return ""


def _is_weight(found: Draft, look: Look, whole: bool) -> bool:
    """Named like one, with numbers of at least 0 (in every wave), some of them fractions; some may be empty.

    With ``whole`` those that hold no fractions, different ones.
    """
    absent = _absent(look)
    values = [plain_number(text) for text in look.counts if text not in absent]
    numbers = [value for value in values if value is not None and value >= 0]
    named = WEIGHT.search(look.id) or WEIGHT.search(look.label)
    if whole:
        named = (
            WHOLE_WEIGHT.search(look.id)
            if len(set(values)) > 1 and not BODY.search(f"{look.id} {look.label}")
            else None
        )
    everywhere = look.columns == (len(found.waves) if WAVE in look.name else 1)
    fractions = any(not value.is_integer() for value in numbers)
    return bool(named) and fractions != whole and everywhere and len(numbers) == len(values) and not look.labels


def _absent(look: Look) -> set[str]:
    """The words of the column that stand for an empty value."""
    return {text for text in look.counts if text.upper() in MISSING_WORDS}


def _flags(found: Draft, looks: Iterable[Look]) -> dict[str, list[tuple[Look, Coded]]]:
    """Trait -> the columns of 0 and 1 that are its levels: at least two of one stem, both codes in each."""
    stems: dict[str, list[tuple[Look, Coded]]] = {}
    for look in looks:
        match, coded = STEM.match(look.id), code(look)
        both = [text for text, _ in _observed(look, coded)] == ["0", "1"]
        if match and both and (found.waves or WAVE not in look.name):
            stems.setdefault(match["stem"], []).append((look, coded))
    several: dict[str, list[tuple[Look, Coded]]] = {}
    for stem, levels in stems.items():
        for name, of_stem, of_label in FLAGS:
            said = of_stem.fullmatch(stem) or all(of_label.match(look.label) for look, _ in levels)
            if said and len(levels) > 1:
                several.setdefault(name, levels)
    return several


def _trait(found: Draft, look: Look, coded: Coded) -> str | None:
    for name, pattern in TRAITS:
        if name in found.traits or name in found.several or not (pattern.match(look.id) or pattern.match(look.label)):
            continue
        most = MOST_LEVELS if name in ("country", "region") else 2 * MOST_OPTIONS
        if name == "age" and all(plain_number(text) is not None for text, _ in coded.options):
            most = len(coded.options)  # numbers become bands
        if 2 <= len(_observed(look, coded)) <= most:
            return name
    return None


def _again(found: Draft, look: Look) -> str | None:
    """The trait that is placed already and that this column seems to be too."""
    placed = {*found.traits, *found.several}
    return next((name for name, pattern in TRAITS if name in placed and pattern.match(look.id)), None)


def _observed(look: Look, coded: Coded) -> tuple[tuple[str, str], ...]:
    """The options that somebody chose: a level without people cannot be read."""
    return tuple(option for option in coded.options if option[0] in look.counts)


def _bands(ages: list[float]) -> tuple[str, ...]:
    """Age bands that all have somebody."""
    floors = sorted({math.floor(age) for age in ages})
    edges = [floors[0], *(cut for cut in AGE_CUTS if cut > floors[0])]
    ends = [*(edge - 1 for edge in edges[1:]), math.inf]
    kept = [(low, high) for low, high in zip(edges, ends, strict=True) if any(low <= floor <= high for floor in floors)]
    return tuple(f"{low}+" if high == math.inf else f"{low}-{high:.0f}" for low, high in kept)


# Codes


def code(look: Look) -> Coded:
    """What the codes of a column seem to be, by their labels; unlabelled ones by their numbers."""
    codes = sorted(
        {*look.counts, *look.labels}, key=lambda text: (plain_number(text) is None, plain_number(text) or 0.0, text)
    )
    outcomes, missing, options = dict[str, str](), list[str](), list[str]()
    away = _outside([text for text in codes if text not in look.labels], codes)
    for text in codes:
        words = look.labels.get(text, text if plain_number(text) is None else "")
        absent = text in away or (text not in look.labels and text.upper() in MISSING_WORDS)
        kind = NOT_ASKED if absent else _no_answer(words)
        if kind == NOT_ASKED:
            missing.append(text)
        elif kind:
            outcomes[text] = kind
        else:
            options.append(text)
    labelled = any(text in look.labels for text in options)
    if labelled and len(options) > MOST_OPTIONS and not {*options} <= {*look.labels}:
        # A measure with a label for its ends only.
        labelled = False
    return Coded(_worded(_filled(options, labelled), look.labels), outcomes, tuple(missing), labelled)


def _no_answer(words: str) -> str | None:
    """The kind of non-answer that a label seems to be; None for an option."""
    loose = len(words) < LONGEST_NON_ANSWER
    unsure = DONT_KNOW if loose and UNSURE.search(words) else None
    return non_answer(words) or unsure or (mentions_non_answer(words) if loose else None)


def _outside(unlabelled: list[str], codes: list[str]) -> set[str]:
    """Unlabelled whole numbers that stand off a scale: negative ones, and 8, 9, 99 and the like beyond a gap."""
    numbers = {text: int(text) for text in codes if re.fullmatch(r"-?\d+", text)}
    usual = sorted(number for number in numbers.values() if number >= 0)
    negative = [number for number in numbers.values() if number < 0]
    # -3..3 is a scale of its own.
    balanced = bool(negative) and bool(usual) and -min(negative) == max(usual) > 1
    away = {text for text in unlabelled if text in numbers and numbers[text] < 0 and not balanced}
    if len(usual) > 2:
        gaps = [place for place in range(1, len(usual)) if usual[place] > usual[place - 1] + 1]
        for place in gaps:
            beyond = usual[place:]
            if place >= 2 and set(beyond) <= MISSING_NUMBERS:
                away |= {text for text in unlabelled if numbers.get(text) in beyond}
                break
    return away


def _filled(options: list[str], labelled: bool) -> list[str]:
    """The options with the whole numbers between them that nobody chose, where nothing is labelled."""
    if labelled or not options or not all(re.fullmatch(r"-?\d+", text) for text in options):
        return options
    low, high = int(options[0]), int(options[-1])
    return [str(number) for number in range(low, high + 1)] if high - low < MOST_OPTIONS - 1 else options


def _worded(options: list[str], labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Codes with words, all different."""
    seen: set[str] = set()
    worded = []
    for text in options:
        words = labels.get(text, text)
        words = f"{words} ({text})" if words in seen else words
        seen.add(words)
        worded.append((text, words))
    return tuple(worded)
