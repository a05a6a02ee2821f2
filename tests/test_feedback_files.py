"""Feedback files: what each form and format says, the same from all of them, and how broken ones are named."""

from __future__ import annotations

import csv
import json
import re
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import make_tiny

from valuealign.cluster.build import build
from valuealign.config import KtoConfig, ModelConfig, TrainConfig, load
from valuealign.engine import LocalEngine, score_all
from valuealign.errors import SignalError, ValuealignError
from valuealign.learner import Stage, kto_term, learn
from valuealign.prompts import render
from valuealign.signals import behaviour_parts, read_feedback
from valuealign.types import Cell, Message

USER, SYSTEM = {"role": "user", "content": "Help?"}, {"role": "system", "content": "Be brief."}
YES, NO = {"role": "assistant", "content": "Yes."}, {"role": "assistant", "content": "No."}
GOOD: dict[str, Any] = {"prompt": "Help?", "completion": "Yes.", "label": True}
PAIR: dict[str, Any] = {"prompt": "Help?", "chosen": "Yes.", "rejected": "No."}
HELP = (Message("user", "Help?"),)
CHATS = ("prompt", "completion", "chosen", "rejected", "messages")


def write(folder: Path, rows: Sequence[dict[str, Any]], ending: str = ".jsonl") -> Path:
    """The rows as a file of that kind, as a user's own script would write it."""
    path = folder / f"rows{ending}"
    if ending == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif ending == ".json":
        path.write_text(json.dumps(rows, indent=2, ensure_ascii=False), encoding="utf-8")
    elif ending == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    else:
        names = list(dict.fromkeys(name for row in rows for name in row))
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            for row in rows:
                nested = {name: json.dumps(v) if isinstance(v, list | dict) else v for name, v in row.items()}
                writer.writerow(nested)
    return path


def named(cells: Sequence[Cell]) -> list[Cell]:
    """Cells without their source, which names the file."""
    return [replace(cell, source="") for cell in cells]


def refused(path: Path, *words: str) -> None:
    with pytest.raises(SignalError) as caught:
        read_feedback(path)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert caught.value.where.startswith(str(path)) and caught.value.mend


# The same rows from every kind of file


def test_real_rows_are_the_same_from_every_kind_of_file(shared_data: Path, tmp_path: Path) -> None:
    real = shared_data / "binary_feedback" / "kto_demo.jsonl"
    rows = [json.loads(line) for line in real.read_text(encoding="utf-8").splitlines()]
    cells, facts = read_feedback(real)
    assert sum(len(c.completions) for c in cells) == len({(str(r["prompt"]), str(r["completion"])) for r in rows})
    assert sum(sum(c.desirable) for c in cells) == sum(row["label"] for row in rows) > 0
    assert sum(sum(c.undesirable) for c in cells) == sum(not row["label"] for row in rows) > 0
    assert len(cells) == len({str(row["prompt"]) for row in rows})
    assert facts["feedback"].startswith(f"{len(rows)} marked answers to {len(cells)} prompts")
    for ending in (".json", ".parquet", ".csv"):
        assert named(read_feedback(write(tmp_path, rows, ending)).cells) == named(cells), ending


def test_weights_raters_and_texts_that_look_like_something_else_survive_every_format(tmp_path: Path) -> None:
    odd = ["NA", "null", "007", "1.50", "true", "2024-05-01", 'He said "no",\nthen left.', "x\u2028y", " padded "]
    rows = [
        {"prompt": f"Which {n % 4}?", "completion": text, "label": n % 3 > 0, "weight": n / 4, "rater": f"r{n % 2}"}
        for n, text in enumerate(odd)
    ]
    read = {ending: read_feedback(write(tmp_path, rows, ending)) for ending in (".jsonl", ".json", ".parquet", ".csv")}
    cells, facts = read[".jsonl"]
    assert {text for cell in cells for text in cell.completions} == set(odd)
    assert cells[1].n_eff == pytest.approx(1.0), "both of its answers are of one rater"
    for ending, found in read.items():
        assert named(found.cells) == named(cells) and found.facts == facts, ending


def test_text_among_chats_stays_text(tmp_path: Path) -> None:
    """What the column's other rows hold is no reason to read a text as a number, a date or a list."""
    rows = [{**GOOD, "prompt": text} for text in ("42", "[1, 2]", "2020-01-01 10:00:00")] + [{**GOOD, "prompt": [USER]}]
    for chosen in (rows, rows[2:3]):
        found = [cell.prompt for cell in read_feedback(write(tmp_path, chosen)).cells]
        wanted = [HELP if row["prompt"] == [USER] else (Message("user", row["prompt"]),) for row in chosen]
        assert found == wanted


# Forms


@pytest.mark.parametrize(
    "row",
    [
        GOOD,
        {"prompt": [USER], "completion": [YES], "label": True},
        {"messages": [USER], "response": "Yes.", "label": True},
        {"messages": [USER, YES], "label": True},
        {"prompt": "Help?", "response": "Yes.", "label": True, "weight": None, "rater": None},
    ],
)
@pytest.mark.parametrize("ending", [".jsonl", ".parquet", ".csv"])
def test_marked_answers_under_the_names_in_use(tmp_path: Path, row: dict[str, Any], ending: str) -> None:
    (cell,) = read_feedback(write(tmp_path, [row], ending)).cells
    assert (cell.prompt, cell.completions) == (HELP, ("Yes.",))
    assert (cell.desirable, cell.undesirable, cell.n_eff) == ((1.0,), (0.0,), 1.0)


@pytest.mark.parametrize(
    "row",
    [
        PAIR,
        {"prompt": [USER], "chosen": [YES], "rejected": [NO]},
        {"messages": [USER], "chosen": "Yes.", "rejected": "No."},
        {"chosen": [USER, YES], "rejected": [USER, NO]},
        {"prompt": "Help?", "chosen": [USER, YES], "rejected": [USER, NO], "messages": [USER, YES]},
        {"chosen": "\n\nHuman: Help?\n\nAssistant: Yes.", "rejected": "\n\nHuman: Help?\n\nAssistant: No."},
    ],
)
@pytest.mark.parametrize("ending", [".jsonl", ".parquet", ".csv"])
def test_pairs_under_the_names_in_use(tmp_path: Path, row: dict[str, Any], ending: str) -> None:
    (cell,) = read_feedback(write(tmp_path, [row], ending)).cells
    assert (cell.prompt, cell.completions) == (HELP, ("Yes.", "No."))
    assert (cell.desirable, cell.undesirable, cell.closed) == ((1.0, 0.0), (0.0, 1.0), False)


def test_a_transcript_is_a_chat_of_its_turns(tmp_path: Path) -> None:
    opening = "Hi. Human: is a word.\n\nand a second paragraph"
    talk = f"\n\nHuman: {opening}\n\nAssistant: Hello.\n\nHuman: Help?\n\nAssistant:"
    (cell,) = read_feedback(write(tmp_path, [{"chosen": f"{talk} Yes.", "rejected": f"{talk} No."}])).cells
    assert [turn.role for turn in cell.prompt] == ["user", "assistant", "user"]
    assert cell.prompt[0].content == opening
    refused(write(tmp_path, [{"chosen": talk, "rejected": f"{talk} No."}]), "line 1", "malformed or empty")


def test_a_chat_keeps_its_system_turn(tmp_path: Path) -> None:
    chat = [SYSTEM, USER, NO, USER]
    (cell,) = read_feedback(write(tmp_path, [{"messages": [*chat, YES], "label": False}])).cells
    assert [turn.role for turn in cell.prompt] == ["system", "user", "assistant", "user"]
    assert cell.undesirable == (1.0,)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"question": "a", "answer": "b"}, ("question, answer", "neither form", "chosen and rejected as whole chats")),
        ({"prompt": "a", "chosen": "b"}, ("prompt, chosen", "neither form")),
        ({**GOOD, **PAIR}, ("both marked answers and pairs", "one form")),
        ({**GOOD, "messages": [USER]}, ("both 'prompt' and 'messages'",)),
        ({**GOOD, "response": "b"}, ("both 'completion' and 'response'",)),
        ({"messages": [YES], "label": True}, ("line 1", "'messages' must end with the user's turn before the answer")),
        ({"messages": [USER], "label": True}, ("line 1", "'messages' must be, or end with, one assistant turn")),
        ({"chosen": "Yes.", "rejected": "No."}, ("line 1", "'chosen' is an answer alone")),
        ({"chosen": [USER, YES], "rejected": [SYSTEM, USER, NO]}, ("line 1", "part before their last turn")),
        ({**PAIR, "chosen": [SYSTEM, YES]}, ("line 1", "the turns of 'chosen' before its answer are not 'prompt'")),
        ({"chosen": [USER, YES], "rejected": [USER, YES]}, ("line 1", "the same text")),
        ({**GOOD, "rater": True}, ("line 1", "'rater' is true")),
        ({**GOOD, "weight": 1e300}, ("line 1", "at most 1e+12")),
        ({**GOOD, "label": "no"}, ("line 1", "'label' is \"no\", not true or false")),
    ],
)
def test_what_has_no_form_is_refused(tmp_path: Path, row: dict[str, Any], says: tuple[str, ...]) -> None:
    refused(write(tmp_path, [row]), *says)


def test_fields_that_say_nothing_are_noted_once(tmp_path: Path) -> None:
    rows = [{"id": n, **GOOD, "source": "web", "empty": None, "rater": n, "traits": {"age": "old"}} for n in range(3)]
    facts = read_feedback(write(tmp_path, rows)).facts
    assert facts["feedback fields not used"] == "id, source"
    assert "feedback fields not used" not in read_feedback(write(tmp_path, [{**GOOD, "weight": 2}])).facts


# Broken files


def test_a_broken_json_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for text, *says in (
        ('{"prompt": "a",\n', "line 2", "not valid JSON", "column"),
        ("[" * 100_000, "line 2", "nested too deeply"),
        ('{"weight": ' + "9" * 5000 + "}", "line 2", "not valid JSON"),
        ('{"prompt": "\\ud800", "completion": "a", "label": true}', "line 2", "half a surrogate pair"),
        ('"prompt"', "line 2", "no JSON object"),
    ):
        path.write_text(json.dumps(GOOD) + "\n" + text)
        refused(path, *says)
    array = tmp_path / "rows.json"
    array.write_text(json.dumps([GOOD, {**GOOD, "label": 1}, GOOD]))
    refused(array, "row 2", "'label' is 1")
    array.write_text(json.dumps([GOOD, "a"]))
    refused(array, "row 2", "no JSON object")
    array.write_text('[\n{"prompt": "a"},\n{"prompt"}]')
    refused(array, "not valid JSON", "line 3, column 10")
    array.write_text("[]")
    refused(array, "no rows")


def test_csv_labels_are_four_words(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    words = {"true": 1, "false": 0, "1": 1, "0": 0, "True": 1, "FALSE": 0}
    path.write_text("prompt,completion,label\n" + "".join(f"p{n},a,{word}\n" for n, word in enumerate(words)))
    assert [cell.desirable for cell in read_feedback(path).cells] == [(float(wanted),) for wanted in words.values()]
    for word in ("yes", "2", "1.0", "t", "-1"):
        path.write_text(f"prompt,completion,label\np,a,true\np,a,{word}\n")
        refused(path, "line 3", f"'label' is \"{word}\", not true or false")
    path.write_text("prompt,completion,label\np,a,\nq,a,true\n")
    refused(path, "line 2", "'label' is missing")


def test_a_broken_csv_is_named_by_the_line_where_its_row_begins(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    head = 'prompt,completion,label,weight\n"two\nlines",a,true,1\n\n'
    for text, *says in (
        ("p,a,true\n", "line 5", "3 values; the header names 4 columns"),
        ("p,a,true,1,2\n", "line 5", "5 values"),
        ('p,"a,true,1\n', "not valid CSV", "quotes"),
        ("p,a,true,-1\n", "line 5", "'weight' is -1.0"),
        ("p,a,true,nan\n", "line 5", "'weight'"),
        ("p,a,true,much\n", "line 5", "'weight' is \"much\""),
        ("p,,true,1\n", "line 5", "'completion' is missing"),
        ("\"[{'role': 'user', 'content': 'x'}]\",a,true,1\n", "line 5", "'prompt' is not valid JSON", "double quotes"),
        ('p,"[{""role"": ""assistant"", ""content"": ""x""",true,1\n', "line 5", "'completion' is not valid JSON"),
        ('p,"[{""role"": ""user"", ""content"": ""x""}]",true,1\n', "line 5", "one assistant turn"),
    ):
        path.write_text(head + text)
        refused(path, *says)
    path.write_text("prompt,prompt,label\na,b,true\n")
    refused(path, "names 'prompt' twice")
    for empty in ("", "prompt,completion,label\n", "prompt,completion,label\n,,\n\n"):
        path.write_text(empty)
        refused(path, "no rows")
    path.write_bytes(b"prompt,completion,label\n\xff,a,true\n")
    refused(path, "UTF-8")


def test_csv_with_other_separators_an_index_and_long_chats(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("\ufeff;prompt;completion;label\r\n0;Help?;Yes, of course.;true\r\n", encoding="utf-8", newline="")
    (cell,), facts = read_feedback(path)
    assert cell.completions == ("Yes, of course.",) and facts["feedback fields not used"] == "(no name)"
    long = [{"role": "user", "content": "word " * 60_000}]
    (cell,) = read_feedback(write(tmp_path, [{**GOOD, "prompt": long}], ".csv")).cells
    assert cell.prompt == (Message("user", "word " * 60_000),)


def test_a_broken_parquet_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    for columns, *says in (
        ({"prompt": ["a", None], "completion": ["b", "c"], "label": [True, False]}, "row 2", "'prompt' is missing"),
        ({"prompt": ["a"], "completion": ["b"], "label": [1]}, "row 1", "'label' is 1"),
        ({"prompt": ["a"], "completion": [b"b"], "label": [True]}, "row 1", "'completion' must be text"),
        ({"prompt": pa.array([], pa.string()), "completion": pa.array([], pa.string())}, "no rows"),
        (
            {**{k: [v] for k, v in GOOD.items()}, "t": pa.array([[("a", "b")]], pa.map_(pa.string(), pa.string()))},
            "not valid Parquet",
        ),
        ({**{k: [v] for k, v in GOOD.items()}, "rater": [1.5]}, "row 1", "'rater' is 1.5"),
    ):
        pq.write_table(pa.table(columns), path)
        refused(path, *says)
    path.write_bytes(b"PAR1")
    refused(path, "not valid Parquet")


def test_what_is_no_feedback_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("a")
    refused(tmp_path / "rows.txt", "ends in '.txt'", ".jsonl, .json, .parquet, .csv")
    for ending in (".jsonl", ".json", ".csv", ".parquet"):
        refused(tmp_path / f"none{ending}", "cannot read")
        (tmp_path / f"folder{ending}").mkdir()
        refused(tmp_path / f"folder{ending}", "cannot read")


def test_reading_leaves_nothing_behind_and_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", ask)
    monkeypatch.setattr(socket.socket, "connect", ask)
    scratch, here = tmp_path / "scratch", tmp_path / "csv"
    scratch.mkdir()
    here.mkdir()  # a folder of the name of the library's reader
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    for ending in (".jsonl", ".csv", ".parquet"):
        read_feedback(write(here, [GOOD], ending))
        for odd in (f"rows[1]*{ending}", f"a::b{ending}", f"file:x?{ending}"):
            (here / odd).write_bytes((here / f"rows{ending}").read_bytes())
            assert named(read_feedback(Path("csv") / odd).cells) == named(read_feedback(here / f"rows{ending}").cells)
    assert not list(scratch.iterdir()) and {path.name for path in tmp_path.iterdir()} == {"scratch", "csv"}


# No file, however broken, ends in anything but words

ROWS = [
    {"prompt": [USER], "completion": "Yes.", "label": True, "weight": 0.5, "rater": "a", "traits": {"sex": "f"}},
    {"prompt": [SYSTEM, USER], "completion": "No, \u00e9 \U0001f600.", "label": False, "rater": "b"},
    {"prompt": [USER], "completion": "Maybe.", "label": False, "rater": "a", "traits": {"sex": "f"}},
]
PAIRS = [{**PAIR, "rater": 3, "traits": {"sex": "m"}}, {**PAIR, "chosen": "Sure.", "rater": 4, "traits": {"sex": "f"}}]
MARGINS = "trait,level,share\nsex,f,0.5\nsex,m,0.5\n"


def in_words(path: Path, margins: Path) -> None:
    for raked in (None, margins):
        try:
            cells, facts = read_feedback(path, margins=raked)
        except ValuealignError as error:
            assert error.what and error.where and error.mend
        else:
            assert facts["feedback"] and all(cell.key and cell.mass >= 0 for cell in cells)


damage = st.lists(
    st.tuples(st.floats(0, 0.999), st.integers(0, 12), st.binary(max_size=4) | st.sampled_from([b'"', b"\n", b"\x00"])),
    min_size=1,
    max_size=3,
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("broken")
    (folder / "margins.csv").write_text(MARGINS)
    return folder, folder / "margins.csv"


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(where=st.sampled_from([".jsonl", ".json", ".csv", ".parquet"]), pairs=st.booleans(), hurt=damage)
def test_a_damaged_file_ends_in_words(bench: tuple[Path, Path], where: str, pairs: bool, hurt: list[Any]) -> None:
    folder, margins = bench
    path = write(folder, PAIRS if pairs else ROWS, where)
    raw = bytearray(path.read_bytes())
    for place, cut, put in hurt:
        at = int(place * len(raw))
        raw[at : at + cut] = put
    path.write_bytes(bytes(raw))
    in_words(path, margins)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["[{'role'", "{}"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["role", "content", "sex"]), inner),
    max_leaves=4,
)
FIELDS = (*CHATS, "response", "label", "weight", "rater", "traits", "person")


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    ending=st.sampled_from([".jsonl", ".json", ".csv"]),
    pairs=st.booleans(),
    row=st.integers(0, 1),
    put=st.dictionaries(st.sampled_from(FIELDS), anything, min_size=1, max_size=2),
)
def test_any_value_in_any_field_ends_in_words(
    bench: tuple[Path, Path], ending: str, pairs: bool, row: int, put: dict[str, Any]
) -> None:
    folder, margins = bench
    rows = [dict(one) for one in (PAIRS if pairs else ROWS)]
    rows[row] |= put
    in_words(write(folder, rows, ending), margins)


# What a run makes of them


def parts_of(path: Path, *overrides: str) -> dict[str, tuple[Cell, ...]]:
    config = load(None, [f"feedback.file={path}", "survey.reader=generic", *overrides])
    return behaviour_parts(config, cast(Any, None), cast(Any, None), cast(Any, None)).parts


def test_parts_are_disjoint_by_prompt_for_marked_answers_and_pairs(tmp_path: Path) -> None:
    pairs = [{"prompt": f"p{n % 20}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(60)]
    marks = [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row in pairs
        for side in ("chosen", "rejected")
    ]
    found = [parts_of(write(tmp_path, rows), "feedback.holdout=0.35") for rows in (pairs, marks)]
    prompts = [{part: {c.prompt for c in cells} for part, cells in parts.items()} for parts in found]
    assert prompts[0] == prompts[1] and [len(p) for p in prompts[0].values()] == [12, 4, 4]
    assert len(set.union(*prompts[0].values())) == 20
    assert [len(c) for c in found[0].values()] == [36, 12, 12], "three pairs of each prompt, apart"
    assert [len(c) for c in found[1].values()] == [12, 4, 4], "one cell of six answers each"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("model"))


def check_that_kto_learns(cells: Sequence[Cell], model: Path) -> None:
    """One full-batch step after the other: the loss falls, and desirable answers gain on undesirable ones."""
    base, adapted = build(ModelConfig(path=str(model), lora_r=4, lora_alpha=8), seed=0, start=None)
    pad = base.tokenizer.pad_token_id
    assert pad is not None
    engine = LocalEngine(adapted, pad_id=pad)
    term = kto_term(cells, KtoConfig(beta=0.2))
    stage = Stage("kto", (term,), epochs=8, learning_rate=0.03, cells_per_step=len(cells))
    rows = [render(cell, base.tokenizer) for cell in stage.referenced]
    reference = score_all(engine, rows, pad_id=pad, packed=True, token_budget=4000)
    train = TrainConfig(token_budget=4000)
    reports = list(learn(engine, stage, base.tokenizer, train=train, pad_id=pad, packed=True, reference=reference))
    assert reports[0].loss == pytest.approx(0.5, abs=1e-4), "r = z0 = 0 at the start"
    assert reports[-1].loss < reports[0].loss - 0.05
    assert reports[-1].stats["r_desirable"] > reports[-1].stats["r_undesirable"] + 0.5


def test_kto_learns_from_the_real_file(shared_data: Path, model: Path) -> None:
    cells = read_feedback(shared_data / "binary_feedback" / "kto_demo.jsonl").cells
    short = sorted(cells, key=lambda c: len(str(c.prompt)) + len(str(c.completions)))[:5]
    assert 0 < sum(sum(c.desirable) for c in short) < sum(c.mass for c in short), "both kinds"
    check_that_kto_learns(short, model)


def test_kto_learns_from_pairs(tmp_path: Path, model: Path) -> None:
    rows = [{"prompt": f"Say {n % 3}.", "chosen": f"Kind {n}.", "rejected": f"Rude {n}!"} for n in range(6)]
    check_that_kto_learns(read_feedback(write(tmp_path, rows, ".parquet")).cells, model)


def test_the_documents_examples_are_read(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "docs" / "feedback-files.md").read_text(encoding="utf-8")
    examples = re.findall(r"```(jsonl|csv)\n(.*?)```", text, flags=re.DOTALL)
    assert len(examples) >= 6
    for number, (ending, body) in enumerate(examples):
        path = tmp_path / f"{number}.{ending}"
        path.write_text(body, encoding="utf-8")
        if "trait,level,share" not in body:
            assert read_feedback(path).cells, body
