"""A small, valid survey for every reader: what the contract and the property tests read and then break."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl

from valuealign.config import SurveyConfig


def embedded(folder: Path) -> SurveyConfig:
    """Needs no file."""
    return SurveyConfig(people=300)


def wvs(folder: Path) -> SurveyConfig:
    """Five questions in the layout of the World Values Survey, and a folder with a codebook of its layout."""
    scale = {"1": "Much", "2": "Some", "3": "Little"}
    negative = {"-1": "Don't know", "-2": "No answer", "-4": "Not asked", "-5": "Missing"}
    choices = {
        "Q1": scale,
        "Q2": {"10": "All", **{str(code): str(code) for code in range(9, 1, -1)}, "1": "Nothing"},
        "Q56": {"1": "Up", "2": "Down", "3": "Level"},
        "Q60": {"0": "Not at all", **scale},
        "Q254": {"1": "Proud", "2": "Not proud", "3": "From elsewhere"},
    }
    book = {
        name: {"question": f"Label {name}", "type": "multiple_choice", "choices": {**answers, **negative}}
        for name, answers in choices.items()
    }
    book["B_COUNTRY_ALPHA"] = {"question": "Country", "type": "multiple_choice", "choices": {"NZL": "New Zealand"}}
    book["B_COUNTRY"] = {"question": "Country", "type": "multiple_choice", "choices": {"840": "United States"}}
    words = {
        name: {"question": f"What of {name}?", "use_case": "value", "answer_data_type": "ordinal"} for name in choices
    }
    (folder / "book").mkdir()
    for file, entries in (
        ("codebook", book),
        ("question_metadata", words),
        ("answer_adjustment", {"Q56": {"2": "3", "3": "2"}, "Q60": {"0": "1"}, "Q254": {"3": ""}}),
    ):
        (folder / "book" / f"{file}.json").write_text(json.dumps(entries))
    rows = [
        {
            "B_COUNTRY": (554, 840)[place % 2],
            "B_COUNTRY_ALPHA": ("NZL", "USA")[place % 2],
            "D_INTERVIEW": 554070000 + place,
            "W_WEIGHT": 0.5 + place % 3,
            **{name: list(book[name]["choices"])[place % len(book[name]["choices"])] for name in choices},
            "Q260": 1 + place % 2,
            "Q262": 16 + 2 * place,
            "Q275": place % 9,
            "H_URBRURAL": 1 + place // 3 % 2,
            "Q288": 1 + place % 10,
        }
        for place in range(40)
    ]
    pl.DataFrame(rows, infer_schema_length=None).write_csv(folder / "wvs.csv")
    return SurveyConfig(reader="wvs", file=folder / "wvs.csv", codebook=folder / "book")


def ess(folder: Path) -> SurveyConfig:
    """Six of the 21 portraits in the layout of the European Social Survey."""
    items = ("ipcrtiv", "imprich", "ipeqopt", "ipshabt", "impsafe", "impdiff")
    codes = (1, 2, 3, 4, 5, 6, 66, 77, 88, 99)
    rows = [
        {
            "essround": 9,
            "idno": 100 + place // 2,
            "cntry": ("AT", "BE")[place % 2],
            "pspwght": 0.5 + place % 3,
            "anweight": 0.1 + place % 2,
            **{name: codes[(place + 3 * at) % len(codes)] for at, name in enumerate(items)},
            "gndr": 1 + place // 2 % 2,
            "agea": 15 + 2 * place,
            "eisced": 1 + place % 7,
        }
        for place in range(40)
    ]
    pl.DataFrame(rows).write_csv(folder / "ess.csv")
    return SurveyConfig(reader="ess", file=folder / "ess.csv")


def nzavs(folder: Path) -> SurveyConfig:
    """Two waves of three questions, named as the built-in profile names them; some take part once only."""
    rows = [
        {
            "Questionnaire.Num": 1000 + place,
            **{f"Weight.{wave}": 0.5 + place % 3 for wave in ("T09", "T10")},
            **{f"Gender.{wave}": place % 2 for wave in ("T09", "T10")},
            **{f"Age.{wave}": 18 + place for wave in ("T09", "T10")},
            **{f"Ethnic.{name}.T09": (place + at) % 2 for at, name in enumerate(("European", "Maori", "Asian"))},
            "Env.ClimateChgReal.T09": 1 + place % 7,
            "Env.ClimateChgReal.T10": None if place % 3 else 1 + (place + 2) % 7,
            "Issue.Euthanasia.T09": 1 + place // 2 % 7,
            "Pol.Orient.T10": None if place % 3 else 1 + place // 3 % 7,
        }
        for place in range(60)
    ]
    pl.DataFrame(rows).write_csv(folder / "nzavs.csv")
    return SurveyConfig(reader="nzavs", file=folder / "nzavs.csv")


def _numbered(folder: Path, reader: str, stem: str, codes: tuple[int, ...], count: int) -> SurveyConfig:
    """A Schwartz questionnaire with a person, a weight and a trait that a YAML of three lines names."""
    rows = [
        {
            "id": f"p{place}",
            "w": 0.5 + place % 3,
            "sex": "fm"[place % 2],
            **{f"{stem}{number}": codes[(place + 3 * number) % len(codes)] for number in range(1, count + 1)},
        }
        for place in range(30)
    ]
    pl.DataFrame(rows).write_csv(folder / f"{reader}.csv")
    book = "person: id\nweight: w\ntraits: {sex: {as: noun, levels: {f: woman, m: man}}}\n"
    (folder / f"{reader}.yaml").write_text(book)
    return SurveyConfig(reader=reader, file=folder / f"{reader}.csv", codebook=folder / f"{reader}.yaml")


def svs(folder: Path) -> SurveyConfig:
    """All 57 items."""
    return _numbered(folder, "svs", "SVS", tuple(range(-1, 8)), 57)


def pvq40(folder: Path) -> SurveyConfig:
    """All 40 items."""
    return _numbered(folder, "pvq40", "pvq40_", tuple(range(1, 7)), 40)


def pvqrr(folder: Path) -> SurveyConfig:
    """All 57 items."""
    return _numbered(folder, "pvqrr", "PVQRR", tuple(range(1, 7)), 57)


def rvs(folder: Path) -> SurveyConfig:
    """Two rankings a person: complete, or (every fifth person) the four foremost."""
    names = [f"{letter}{number}" for letter in "ti" for number in range(1, 19)]
    rows = []
    for place in range(30):
        ranks = [1 + (5 * at + place) % 18 for at in range(18)] + [1 + (7 * at + 2 * place) % 18 for at in range(18)]
        shown = [None if place % 5 == 0 and rank > 4 else rank for rank in ranks]
        rows.append(dict(zip(names, shown, strict=True)))
    pl.DataFrame(rows).write_csv(folder / "rvs.csv")
    return SurveyConfig(reader="rvs", file=folder / "rvs.csv")


def generic(folder: Path) -> SurveyConfig:
    """A small panel in a wide file: two waves, outcomes, a trait with several answers, weights, duration."""
    rows = [
        {
            "id": f"p{place}",
            "w_1": 0.5 + place % 3,
            "w_2": "" if place % 4 == 3 else 1 + place % 2,
            "time_1": 200 + place,
            "time_2": 300 + place,
            **{f"q{item}_1": (-1, 1, 2, 3)[(place + item) % 4] for item in range(4)},
            **{f"q{item}_2": "" if place % 4 == 3 else (1, 2, -2, 3)[(place * item) % 4] for item in range(4)},
            "sex": "fm"[place % 2],
            "age": 18 + 2 * place,
            "maori": place % 3 // 2,
            "european": int(place % 3 < 2),
        }
        for place in range(30)
    ]
    pl.DataFrame(rows, infer_schema_length=None, strict=False).write_csv(folder / "generic.csv")
    (folder / "generic.yaml").write_text(
        "name: sample\nlicence: CC0-1.0\nperson: id\nweight: 'w_{wave}'\nduration: 'time_{wave}'\n"
        "waves: {spring: 1, autumn: 2}\noutcomes: {no answer: -1, do not know: -2}\n"
        "scales:\n  agree: [1: Agree, 2: In between, 3: Disagree]\nitems:\n"
        + "".join(
            f"  q{item}: {{text: Statement {item}, scale: agree, column: 'q{item}_{{wave}}'}}\n" for item in range(4)
        )
        + "traits:\n  sex: {as: noun, levels: {f: woman, m: man}}\n  age: {bands: [18-49, 50+]}\n"
        "  ethnicity: {several: true, levels: {maori: {column: maori}, european: {column: european}}}\n"
    )
    return SurveyConfig(reader="generic", file=folder / "generic.csv", codebook=folder / "generic.yaml")


def published(folder: Path) -> SurveyConfig:
    """Three questions in two countries, in percent, as JSON lines; one with a share that is no answer."""
    asked = [
        ("How much do you trust the press?", ["A lot", "Some", "Not at all", "DK/Refused"]),
        ("Is the harbour safe?", ["Yes", "No"]),
        ("Which comes first?", ["Jobs", "Forests", "Neither"]),
    ]
    shares = {4: ([40, 30, 20, 10], [25, 25, 25, 25]), 2: ([70, 30], [45, 55]), 3: ([10, 60, 30], [33, 33, 33])}
    lines = [
        {
            "question": text,
            "options": options,
            "selections": dict(zip(("Chile", "Peru"), shares[len(options)], strict=True)),
            "n": {"Chile": 30, "Peru": 20},
        }
        for text, options in asked
    ]
    (folder / "published.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return SurveyConfig(reader="published", file=folder / "published.jsonl")


def votes(folder: Path) -> SurveyConfig:
    """Forty voters on six statements: one rejected by moderators, one pair of the same words, some votes changed."""
    rows = [
        {"timestamp": 1000 + voter + 7 * turn, "comment-id": name, "voter-id": voter, "vote": (voter + turn) % 3 - 1}
        for turn in range(2)
        for voter in range(40)
        for name in range(6)
        if (voter + name + turn) % 4
    ]
    pl.DataFrame(rows).write_csv(folder / "votes.csv")
    bodies = ["More trees, please.", "more  trees, please.", "Buses are late", "Buses are early", "Spam", "Paint it"]
    comments = {"comment-id": range(6), "moderated": [1, 1, 0, 1, -1, 1], "comment-body": bodies}
    pl.DataFrame(comments).write_csv(folder / "comments.csv")
    return SurveyConfig(reader="votes", file=folder / "votes.csv", statements=folder / "comments.csv")


# Reader -> what writes its files into a folder and says how to read them.
SAMPLES: dict[str, Callable[[Path], SurveyConfig]] = {
    "embedded": embedded,
    "generic": generic,
    "wvs": wvs,
    "ess": ess,
    "nzavs": nzavs,
    "svs": svs,
    "pvq40": pvq40,
    "pvqrr": pvqrr,
    "rvs": rvs,
    "published": published,
    "votes": votes,
}
