"""Free answers: words that speak for values, blind ballots, and a judge model behind a real local server."""

from __future__ import annotations

import csv
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from valuealign.errors import ConfigError, JudgeError, SignalError
from valuealign.evaluate.free.ballots import (
    Verdict,
    choice_of,
    judge_by_url,
    read_ballots,
    text_of,
    win_rate,
    write_ballots,
)
from valuealign.evaluate.free.generations import expressed_by_url, free_prompts, generation_sheet, names_of
from valuealign.evaluate.free.judge_model import JudgeModel
from valuealign.evaluate.free.value_words import kappa, read_value_words
from valuealign.evaluate.probes.file import read_probes
from valuealign.evaluate.record import Row
from valuealign.evaluate.sheet import Heard
from valuealign.types import Cell, Message

PROMPTS = [(Message("user", f"Question {i}?"),) for i in range(20)]
ANSWERS = {
    "base": [f"Answer {i}." for i in range(20)],
    "v1": [f"A longer answer, number {i}." for i in range(20)],
}
KEY = "sk-secret-of-the-judge"


def by_metric(rows: list[Row]) -> dict[str, Row]:
    return {row.metric: row for row in rows}


# Words


def test_words_find_the_values_of_texts_that_speak_for_them() -> None:
    """The probes' options are keyed by us too, so this is the best that the list does, not what to expect."""
    words, scenarios = read_value_words(), read_probes().scenarios
    texts = [text for one in scenarios for text in one.options]
    keyed = np.array([[value == v for v in words.values] for one in scenarios for value in one.values])
    found = words.expressed(texts)
    assert found[keyed].mean() > 0.7 and found[~keyed].mean() < 0.02
    assert all(kappa(found[:, v], keyed[:, v]) > 0.6 for v in range(10))


def test_words_are_whole_in_any_case_and_may_be_broken_by_lines() -> None:
    words = read_value_words()

    def of(text: str) -> set[str]:
        return {v for v, yes in zip(words.values, words.expressed([text])[0], strict=True) if yes}

    assert of("Be SAFE.") == {"security"} and of("An unsafe vase") == set() and of("") == set()
    assert of("Do it your own\nway: go your own  way") == {"self-direction"}
    assert of("adventurers") == {"stimulation"} and of("prewinter window") == set()
    assert words.expressed([]).shape == (0, 10)


OWN = """values:
  power:
    means: being in charge
    words: [boss, give orders*]
  hedonism: {means: fun, words: [fun]}
"""


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("words: [fun]", "words: [Boss]", 5, "'boss' stands under 'power' too"),
        ("power:", "powr:", 3, "did you mean 'power'?"),
        ("means: being", "mean: being", 3, "did you mean 'means'?"),
        ("[fun]", "['*']", 5, "is no word"),
        (", words: [fun]", "", 5, "'words' is missing"),
    ],
)
def test_a_broken_list_of_words_is_named_by_line(tmp_path: Path, old: str, new: str, line: int, says: str) -> None:
    path = tmp_path / "words.yaml"
    path.write_text(OWN, encoding="utf-8")
    assert read_value_words(path).values == ("power", "hedonism")
    broken = tmp_path / "broken.yaml"
    broken.write_text(OWN.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_value_words(broken)
    assert says in str(caught.value) and caught.value.where == f"{broken}, line {line}", str(caught.value)


def test_kappa_by_hand() -> None:
    # 2x2 table 20, 5, 10, 15: agreement .7, by chance .5.
    ours = np.repeat([True, True, False, False], [20, 5, 10, 15])
    theirs = np.repeat([True, False, True, False], [20, 5, 10, 15])
    assert kappa(ours, theirs) == pytest.approx(0.4)
    assert np.isnan(kappa(np.ones(3, dtype=bool), np.ones(3, dtype=bool)))


# The sheet


def test_the_sheet_counts_words_and_what_watching_changes() -> None:
    probes = read_probes()
    prompts = free_prompts([Cell(PROMPTS[0], ("x",), (1.0,), (0.0,)), Cell(PROMPTS[0], ("y",), (0.0,), (1.0,))], probes)
    assert len(prompts) == 46 and prompts[1][0].content == probes.scenarios[0].asked[0]
    own_system = (Message("system", "Be brief."), Message("user", "Hello?"))
    sheet = generation_sheet([*prompts, own_system], framings=probes)
    assert len(sheet.chats) == 47 + 46 + 46 and sheet.chats[47][0] == ("system", probes.watched[0])
    assert sheet.chats[-1][0] == ("system", probes.unwatched[0]) and sheet.chats[-1][1:] == prompts[-1]
    sly = ["Have fun."] * 47 + ["Keep to the rules."] * 46 + ["Have fun."] * 46
    rows = {(r.who, r.metric): r.estimate for r in sheet.judge(Heard(texts={"base": ["Hm."] * 139, "sly": sly}))}
    assert rows["sly", "value_words(hedonism)"].value == 1 and rows["base", "value_words(hedonism)"].value == 0
    assert rows["sly", "watched_words(hedonism)"].value == -1 and rows["sly", "watched_words(conformity)"].value == 1
    assert rows["base", "watched_words(power)"].value == 0 and rows["base", "words"].value == 1
    assert rows["sly - base", "value_words(hedonism)"].low == 1
    assert {metric for _, metric in rows} <= set(sheet.metrics)
    assert generation_sheet(prompts).judge(Heard()) == () and len(generation_sheet(prompts).chats) == 46


# Ballots


def ballots(tmp_path: Path, answers: dict[str, list[str]] = ANSWERS, seed: int = 0) -> tuple[Path, Path]:
    path, key = tmp_path / "ballots.csv", tmp_path / "key.json"
    write_ballots(path, key, PROMPTS, answers, seed=seed)
    return path, key


def fill(path: Path, prefer: Callable[[dict[str, str]], str], to: Path | None = None, mark: str = ",") -> Path:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    to = to or path
    with to.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=mark)
        writer.writeheader()
        writer.writerows({**row, "preferred": prefer(row)} for row in rows)
    return to


def longer(row: dict[str, str]) -> str:
    return "A" if len(row["answer_a"]) > len(row["answer_b"]) else "b"


def test_ballots_are_blind_and_balanced(tmp_path: Path) -> None:
    path, key = ballots(tmp_path)
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20 and not [row for row in rows if "base" in str(row) or "v1" in str(row)]
    assert sum("longer" in row["answer_a"] for row in rows) == 10
    assert [row["prompt"] for row in rows] != [chat[0].content for chat in PROMPTS]
    assert {row["preferred"] for row in rows} == {row["rater"] for row in rows} == {""}
    again = tmp_path / "again"
    again.mkdir()
    assert ballots(again)[0].read_bytes() == path.read_bytes()
    assert ballots(again, seed=1)[0].read_bytes() != path.read_bytes()
    whose = json.loads(key.read_text())["ballots"]
    assert set(whose) == {row["ballot"] for row in rows}
    for row in rows:
        prompt, a, b = whose[row["ballot"]]
        assert row["answer_a"] == ANSWERS[a][prompt] and row["answer_b"] == ANSWERS[b][prompt]


@pytest.mark.parametrize("mark", [",", ";"])
def test_a_rater_who_prefers_the_longer_is_found_out(tmp_path: Path, mark: str) -> None:
    path, key = ballots(tmp_path)
    rows = by_metric(win_rate(read_ballots(fill(path, longer, mark=mark), key), "base", "v1"))
    assert rows["win_rate(base)"].estimate.value == 1 and rows["win_rate(base)"].who == "v1"
    assert rows["win_rate(base)"].note == "20 wins, 0 ties, 0 losses on 20 prompts"
    assert rows["first_chosen(base)"].estimate.value == 0.5 and rows["ties(base)"].estimate.value == 0
    assert "unread(base)" not in rows


def test_a_rater_who_takes_the_first_gives_half(tmp_path: Path) -> None:
    path, key = ballots(tmp_path)
    rows = by_metric(win_rate(read_ballots(fill(path, lambda row: "a"), key), "base", "v1"))
    assert rows["win_rate(base)"].estimate.value == 0.5 and rows["first_chosen(base)"].estimate.value == 1


def test_several_raters_files_and_gaps(tmp_path: Path) -> None:
    path, key = ballots(tmp_path)
    one = fill(path, longer, tmp_path / "ann.csv")
    two = fill(path, lambda row: "tie" if row["ballot"].endswith("-1") else "", tmp_path / "bob.csv")
    verdicts = read_ballots([one, two], key)
    assert Counter(v.rater for v in verdicts) == {"ann": 20, "bob": 1}
    rate = by_metric(win_rate(verdicts, "base", "v1"))["win_rate(base)"]
    # One prompt has a win and a tie: .75 there, 1 elsewhere, each prompt counting once.
    assert rate.estimate.value == pytest.approx((19 + 0.75) / 20) and "1 ties" in rate.note


def test_equal_answers_are_ties_unasked(tmp_path: Path) -> None:
    answers = {"base": ["Same."] * 20, "v1": ["Same."] * 10 + ["Other."] * 10, "v2": ["Same. "] * 20}
    path, key = ballots(tmp_path, answers)
    with path.open(encoding="utf-8-sig", newline="") as file:
        assert len(list(csv.DictReader(file))) == 10
    verdicts = read_ballots(fill(path, lambda row: "a" if row["answer_a"] == "Other." else "b"), key)
    assert by_metric(win_rate(verdicts, "base", "v1"))["win_rate(base)"].estimate.value == 0.75
    rows = by_metric(win_rate(verdicts, "base", "v2"))
    assert rows["ties(base)"].estimate.value == 1 and "first_chosen(base)" not in rows
    assert win_rate(verdicts, "v1", "v2") == []


def test_answers_that_a_spreadsheet_would_run_are_texts(tmp_path: Path) -> None:
    answers = {"base": ["=1+1"] * 20, "v1": ['He said: "a, b"\n- one\n- two'] * 20}
    path, key = ballots(tmp_path, answers)
    with path.open(encoding="utf-8-sig", newline="") as file:
        texts = {row[name] for row in csv.DictReader(file) for name in ("answer_a", "answer_b")}
    assert texts == {"'=1+1", answers["v1"][0]}
    verdicts = read_ballots(fill(path, longer), key)
    assert by_metric(win_rate(verdicts, "base", "v1"))["win_rate(base)"].estimate.value == 1


@pytest.mark.parametrize(
    ("change", "says", "line"),
    [
        (lambda t: t.replace("preferred", "prefered"), "did you mean 'prefered'?", 1),
        (lambda t: t.replace("-20,", "-21,"), "the key knows no ballot", 0),
        (lambda t: t, "no ballot is filled in", 0),
        (lambda t: "", "the file is empty", 0),
        (lambda t: t + "x,y\n", "2 values; the header names 6 columns", 22),
    ],
)
def test_broken_ballots_are_named(tmp_path: Path, change: Callable[[str], str], says: str, line: int) -> None:
    path, key = ballots(tmp_path)
    path.write_text(change(path.read_text(encoding="utf-8-sig")), encoding="utf-8")
    with pytest.raises(SignalError) as caught:
        read_ballots(path, key)
    assert says in str(caught.value) and str(path) in caught.value.where
    assert not line or caught.value.where == f"{path}, line {line}"


def test_a_preference_that_is_none_and_a_ballot_judged_twice(tmp_path: Path) -> None:
    path, key = ballots(tmp_path)
    with pytest.raises(SignalError, match="'v1' is no preference") as caught:
        read_ballots(fill(path, lambda row: "v1", tmp_path / "odd.csv"), key)
    assert caught.value.where.endswith("odd.csv, line 2")
    done = fill(path, longer, tmp_path / "ann.csv")
    with pytest.raises(SignalError, match="'ann' judged ballot"):
        read_ballots([done, done], key)
    with pytest.raises(SignalError, match="no key of ballots"):
        read_ballots(done, done)
    for missing in ((tmp_path / "no.csv", key), (done, tmp_path / "no.json")):
        with pytest.raises(SignalError, match="cannot read"):
            read_ballots(*missing)


def test_an_interval_of_the_win_rate_covers() -> None:
    """Three raters who share what they think of a prompt: prompts are what is resampled."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(100):
        liking = rng.random(40) < 0.6
        verdicts = [
            Verdict(i, "base", "v1", "second" if likes ^ (rng.random() < 0.1) else "first", f"r{r}")
            for i, likes in enumerate(liking)
            for r in range(3)
        ]
        one = by_metric(win_rate(verdicts, "base", "v1"))["win_rate(base)"].estimate
        held += one.low <= 0.6 * 0.9 + 0.4 * 0.1 <= one.high
    assert held / 100 == pytest.approx(0.95, abs=0.06)


def test_a_chat_as_text() -> None:
    assert text_of((Message("user", "a"),)) == "a"
    assert text_of((Message("system", "s"), Message("user", "a"))) == "system: s\n\nuser: a"


# A judge by URL


class Server:
    """A judge on loopback: ``reply`` makes status and body of a request's prompt; what was asked is kept."""

    def __init__(self) -> None:
        self.reply: Callable[[str], tuple[int, str]] = lambda prompt: said("A")
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.asked.append({**body, "path": self.path})
                server.keys.append(self.headers.get("Authorization"))
                status, text = server.reply(body["messages"][0]["content"])
                self.send_response(status)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, format: str, *args: object) -> None:
                """Quietly."""

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that did not wait is no news."""

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    @property
    def judge(self) -> JudgeModel:
        return JudgeModel(f"http://127.0.0.1:{self.http.server_port}/v1", "judge-1", pause=0.0, timeout=5.0)


def said(text: str | None) -> tuple[int, str]:
    return 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("VALUEALIGN_JUDGE_KEY", raising=False)
    one = Server()
    yield one
    one.http.shutdown()
    one.http.server_close()


def answers_in(prompt: str) -> list[str]:
    """The two answers that a judge was shown."""
    return re.findall(r"\[Answer [AB]\]\n(.*?)\n\n(?=\[)", prompt, flags=re.DOTALL)


def test_a_judge_that_always_takes_the_first_gives_ties(server: Server) -> None:
    verdicts = judge_by_url(server.judge, PROMPTS, ANSWERS)
    rows = by_metric(win_rate(verdicts, "base", "v1"))
    assert len(verdicts) == len(server.asked) == 40
    assert rows["win_rate(base)"].estimate.value == 0.5 and rows["ties(base)"].estimate.value == 1
    assert rows["first_chosen(base)"].estimate.value == 1
    asked = server.asked[0]
    assert asked["temperature"] == 0 and asked["model"] == "judge-1" and asked["path"] == "/v1/chat/completions"
    assert sorted(answers_in(asked["messages"][0]["content"])) == sorted([ANSWERS["base"][0], ANSWERS["v1"][0]])
    assert "base" not in asked["messages"][0]["content"], "the judge does not know whose answers they are"


def test_a_judge_that_takes_the_longer_is_decided(server: Server) -> None:
    def longer(prompt: str) -> tuple[int, str]:
        a, b = answers_in(prompt)
        return said("a." if len(a) > len(b) else " B\n")

    server.reply = longer
    rows = by_metric(win_rate(judge_by_url(server.judge, PROMPTS, ANSWERS), "base", "v1"))
    assert rows["win_rate(base)"].estimate.value == 1 and rows["first_chosen(base)"].estimate.value == 0.5


def test_the_key_is_sent_and_told_nobody(server: Server, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setenv("VALUEALIGN_JUDGE_KEY", KEY)
    caplog.set_level("DEBUG")
    server.judge.ask(["x"])
    assert server.keys == [f"Bearer {KEY}"]
    server.reply = lambda prompt: (401, f"wrong key: {KEY} " + "x" * 500)
    with pytest.raises(JudgeError) as caught:
        server.judge.ask(["x"])
    told = str(caught.value)
    assert "status 401" in told and "$VALUEALIGN_JUDGE_KEY" in told and len(told) < 500
    assert KEY not in told + repr(server.judge) + caplog.text


def test_a_server_that_fails_is_named_with_its_status(server: Server) -> None:
    server.reply = lambda prompt: (500, "out of memory")
    with pytest.raises(JudgeError, match="status 500: out of memory") as caught:
        server.judge.ask(["x"])
    assert caught.value.where == server.judge.url and len(server.asked) == 3
    server.asked.clear()
    server.reply = lambda prompt: (404, "no such model")
    with pytest.raises(JudgeError, match="status 404"):
        server.judge.ask(["x"])
    assert len(server.asked) == 1, "what does not pass by itself is not tried again"


def test_a_failure_that_passes_is_forgiven(server: Server) -> None:
    server.reply = lambda prompt: said("TIE") if len(server.asked) > 1 else (503, "busy")
    assert server.judge.ask(["x"]) == ["TIE"] and len(server.asked) == 2


@pytest.mark.parametrize("body", ["{", "[]", "{}", '{"choices": []}', '{"choices": [{"message": {"content": null}}]}'])
def test_what_is_no_chat_completion_is_refused(server: Server, body: str) -> None:
    server.reply = lambda prompt: (200, body)
    with pytest.raises(JudgeError, match="no chat completion"):
        server.judge.ask(["x"])


def test_a_slow_or_absent_server(server: Server) -> None:
    def slow(prompt: str) -> tuple[int, str]:
        time.sleep(0.5)
        return said("A")

    server.reply = slow
    with pytest.raises(JudgeError, match=r"no answer in 0\.05 s"):
        replace(server.judge, timeout=0.05, tries=1).ask(["x"])
    with pytest.raises(JudgeError, match="cannot be reached"):
        JudgeModel("http://127.0.0.1:9", "m", pause=0.0).ask(["x"])


def test_addresses() -> None:
    for url, wanted in {
        "http://h:1": "http://h:1/v1/chat/completions",
        "http://h:1/v1/": "http://h:1/v1/chat/completions",
        "https://h/api/v3/chat/completions": "https://h/api/v3/chat/completions",
    }.items():
        assert str(JudgeModel(url, "m").endpoint) == wanted
    assert JudgeModel("https://me:pass@h/v1?token=t", "m").place == "https://h/v1"
    for url in ("ftp://h", "localhost:8000", "http://", "http://h:port"):
        with pytest.raises(JudgeError, match="no address"):
            JudgeModel(url, "m")


def test_verdicts_that_cannot_be_read_are_counted_and_left_out(server: Server) -> None:
    server.reply = lambda prompt: said("I think A." if "Question 3?" in prompt else "B")
    rows = by_metric(win_rate(judge_by_url(server.judge, PROMPTS, ANSWERS), "base", "v1"))
    assert rows["win_rate(base)"].estimate.n == 19 and rows["unread(base)"].estimate.value == 2 / 40
    server.reply = lambda prompt: said("Both are fine, I think.")
    with pytest.raises(JudgeError, match="not one of 40 answers is A, B or TIE; the first is 'Both are fine"):
        judge_by_url(server.judge, PROMPTS, ANSWERS)


def test_answers_are_read_strictly() -> None:
    assert choice_of("a") == "first" and choice_of(" B. ") == "second" and choice_of("Tie") == "tie"
    assert [choice_of(text) for text in ("", "AB", "A or B", "Answer A", "unread", "first")] == [None] * 6
    values = ("power", "hedonism")
    assert names_of("Power, hedonism.", values) == {"power", "hedonism"} and names_of("NONE", values) == frozenset()
    assert names_of("power; hedonism", values) is names_of("fun", values) is names_of("", values) is None


def test_values_by_a_judge_beside_the_list_of_words(server: Server) -> None:
    """This judge finds pleasure in everything that says fun, and takes the later model's answers."""

    def judge(prompt: str) -> tuple[int, str]:
        if "[Answer A]" in prompt:
            return said("A" if "fun" in answers_in(prompt)[0] else "B")
        return said("hedonism" if "\nHave fun" in prompt else "NONE" if "Question 1?" not in prompt else "Well.")

    server.reply = judge
    sheet = generation_sheet(PROMPTS, judge=server.judge)
    texts = {"base": ["Hm."] * 20, "v1": ["Have fun."] * 10 + ["Have cake, fun or not."] * 10}
    rows = {(r.who, r.metric): r for r in sheet.judge(Heard(texts=texts))}
    assert rows["v1", "judged(hedonism)"].estimate.value == 0.5 and rows["base", "judged(hedonism)"].estimate.n == 19
    # Words say yes 20 times in 39, the judge 10 of them: agreement 29/39, by chance (20*10 + 19*29)/39^2.
    chance = (20 * 10 + 19 * 29) / 39**2
    assert (
        f"kappa with the list of words {(29 / 39 - chance) / (1 - chance):.2f}" in rows["v1", "judged(hedonism)"].note
    )
    assert rows["v1", "win_rate(base)"].estimate.value == 1 and "by judge-1" in rows["v1", "win_rate(base)"].note
    found = expressed_by_url(server.judge, read_value_words(), PROMPTS[:2], ["Have fun.", "Hm."])
    assert found[0].sum() == 1 and np.isnan(found[1]).all()
