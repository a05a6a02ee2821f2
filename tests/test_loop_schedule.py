"""When a turn of the loop is due."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest
from typed import typed

from valuealign.errors import ConfigError
from valuealign.loop import Due, seconds, turns
from valuealign.loop.schedule import TURN, since_last
from valuealign.store import Response, Store, new_id
from valuealign.types import Message


def test_spans_of_time():
    assert [seconds(text) for text in ("90s", "30m", "6h", "2d", "1.5h")] == [90, 1800, 21600, 172800, 5400]
    for wrong in ("6", "h", "-1h", "0s", "6 hours"):
        with pytest.raises(ConfigError, match="no span of time"):
            seconds(wrong)


def test_by_time_by_number_or_whichever_is_first():
    both = Due(every=60, items=5)
    assert both.why(since_s=10, waiting=4) == "" and both.why(since_s=60, waiting=0) == "it is time"
    assert both.why(since_s=10, waiting=5) == "5 items wait" and both.why(since_s=None, waiting=0) == "it is time"
    assert Due(items=5).why(since_s=None, waiting=4) == "" and Due(every=60).why(since_s=10, waiting=99) == ""


@pytest.fixture
def store(tmp_path: Path):
    opened = Store.open(tmp_path / "valuealign.db")
    yield opened
    opened.close()


def test_a_turn_at_so_many_new_items(store: Store):
    waiting, slept, number = set(), [], count()

    def post(n: int) -> None:
        waiting.update(f"fb-{next(number)}" for _ in range(n))

    def sleep(span: float) -> None:
        slept.append(span)
        post(2)

    going = turns(Due(items=5), store, "demo", waiting=lambda: waiting, who="t", look_s=7, sleep=sleep)
    assert next(going) == "6 items wait" and slept == [7, 7, 7]
    # The turn left all six (the gate refused): only new ones make the next.
    assert next(going) == "6 items wait" and len(slept) == 6 and len(waiting) == 12
    waiting.clear()
    assert next(going) == "6 items wait" and len(waiting) == 6
    # What comes while a turn runs is new, whether the turn used or left the rest.
    post(5)
    assert next(going) == "5 items wait" and len(slept) == 9
    waiting.clear()
    post(5)
    assert next(going) == "5 items wait" and len(slept) == 9


def test_a_loop_that_was_stopped_goes_on_by_the_same_clock(store: Store):
    class Slept(Exception):
        pass

    def sleep(span: float) -> None:
        raise Slept

    assert since_last(store, "demo") is None
    assert next(turns(Due(every=3600), store, "demo", waiting=tuple, who="t", sleep=sleep)) == "it is time"
    assert 0 <= since_last(store, "demo") < 60 and [e.event for e in store.audit()] == [TURN]
    with pytest.raises(Slept):
        next(turns(Due(every=3600), store, "demo", waiting=tuple, who="t", sleep=sleep))
    assert next(turns(Due(every=3600), store, "other", waiting=tuple, who="t", sleep=sleep)) == "it is time"


def test_update_says_what_waits_and_refuses_what_makes_no_sense(home: Path):
    opened = Store.open(home / "valuealign.db")
    for ask in ("a boat", "the moon", "two shoes", "old songs", "a long road"):
        asked = Response(new_id("chat"), "chat", "demo", "v1", (Message("user", f"What of {ask}?"),), "power")
        posted = opened.add_feedback(
            opened.add_response(asked).id, verdict="correction", correction=f"Kindness to {ask}.", person="eager"
        )
        opened.review([posted.id], "accepted", who="reviewer")
    said = typed("update", "--check", "name=demo").stdout
    assert "5 accepted feedback items wait" in said and "person_cap: 2" in said and "3 would train" in said
    assert opened.feedback(posted.id).screened is None, "it touches nothing"
    opened.close()
    for arguments, words in (
        (("--every", "soon"), "no span of time"),
        (("--rebuild", "--at", "5"), "a rebuild is done once"),
        (("--rebuild", "--every", "6h"), "a rebuild is done once"),
    ):
        refused = typed("update", *arguments)
        assert refused.returncode == 2 and words in refused.stderr, refused.stderr
