"""Answers written side by side: what each is must not depend on who is beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import CHATML, byte_tokenizer, make_tiny

from valuealign.errors import ModelError
from valuealign.models.cohort import Cohort
from valuealign.models.generate import ABANDONED, Draft, draft, generate
from valuealign.models.load import load_base
from valuealign.prompts import PLAIN_TEMPLATE, Reading, answer_text, prompt_ids
from valuealign.types import Message, Sampling

KINDS = ("llama", "gemma2", "qwen3_moe")  # full attention; a sliding window of 16 tokens; experts
ASKED = ("Who sings?", "Is rain good? Say why, and say it slowly, so that I can follow.", "No?", "How far is far?")


class Loaded:
    def __init__(self, folder: Path) -> None:
        self.model, self.tokenizer, *_ = load_base(str(folder))
        with torch.no_grad():  # a fresh model is so sure of nothing that all answers look alike
            for p in self.model.parameters():
                p.mul_(3.0)

    def draft(self, asked: str, sampling: Sampling) -> Draft:
        return draft(self.model, self.tokenizer, [Message("user", asked)], sampling)

    def alone(self, asked: str, sampling: Sampling) -> Draft:
        one = self.draft(asked, sampling)
        return self.finished([one])[0]

    def finished(self, drafts: list[Draft]) -> list[Draft]:
        cohort = Cohort(self.model, drafts)
        while cohort.drafts:
            cohort.step(self.model)
        return drafts


@pytest.fixture(scope="module", params=KINDS)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return Loaded(make_tiny(tmp_path_factory.mktemp("models") / request.param, request.param))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return Loaded(make_tiny(tmp_path_factory.mktemp("models") / "llama"))


@torch.no_grad()
def by_transformers(loaded: Loaded, asked: str, most: int) -> list[int]:
    ids = prompt_ids([Message("user", asked)], loaded.tokenizer)
    out = loaded.model.generate(
        input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), max_new_tokens=most,
        do_sample=False, eos_token_id=[1], pad_token_id=2,
    )  # fmt: skip
    found: list[int] = out[0, len(ids) :].tolist()
    return found


def test_greedy_answers_are_those_of_transformers_own_loop(loaded: Loaded) -> None:
    side = loaded.finished([loaded.draft(asked, Sampling(30)) for asked in ASKED])
    for asked, one in zip(ASKED, side, strict=True):
        want = by_transformers(loaded, asked, 30)
        stop = min((i for i, token in enumerate(want) if token in one._ends), default=len(want))
        assert one.new == want[: stop + 1]
    assert len({tuple(one.new) for one in side}) > 1


def test_an_answer_does_not_depend_on_who_is_beside_it(loaded: Loaded) -> None:
    """Of different lengths, temperatures and limits; some greedy."""
    how = [Sampling(5 + 9 * n, 0.4 * n, seed=n) for n in range(4)]
    alone = [loaded.alone(asked, sampling) for asked, sampling in zip(ASKED, how, strict=True)]
    beside = loaded.finished([loaded.draft(asked, sampling) for asked, sampling in zip(ASKED, how, strict=True)])
    for one, two in zip(alone, beside, strict=True):
        assert (one.new, one.text, one.finish) == (two.new, two.text, two.finish)
    other = loaded.alone(ASKED[3], how[3]._replace(seed=9))
    assert other.new != alone[3].new


def test_who_comes_later_joins_and_who_is_done_leaves(llama: Loaded) -> None:
    how = [Sampling(60, seed=0), Sampling(8, 1.0, seed=1), Sampling(40, 0.7, seed=2), Sampling(20, 1.0, seed=3)]
    alone = [llama.alone(asked, sampling) for asked, sampling in zip(ASKED, how, strict=True)]
    drafts = [llama.draft(asked, sampling) for asked, sampling in zip(ASKED, how, strict=True)]
    cohort, late = Cohort(llama.model, drafts[:2]), drafts[2:]
    sizes = []
    while cohort.drafts or late:
        cohort.step(llama.model)
        if late and len(drafts[0].new) % 6 == 0:
            cohort.join(Cohort(llama.model, [late.pop(0)]))
        sizes.append(len(cohort._rows))
    assert [one.new for one in drafts] == [one.new for one in alone]
    assert max(sizes) == 3 and sizes[-1] == 1, "rows came and went"


def test_columns_that_only_pad_are_cut(llama: Loaded) -> None:
    long, short = llama.draft("long " * 20, Sampling(2)), llama.draft("short", Sampling(12, 1.0, seed=5))
    cohort = Cohort(llama.model, [long, short])
    while cohort.drafts:
        cohort.step(llama.model)
    assert cohort._mask_BT.shape[1] < len(long.prompt)
    assert short.new == llama.alone("short", Sampling(12, 1.0, seed=5)).new


def test_an_abandoned_draft_takes_no_more_place(loaded: Loaded) -> None:
    stays, goes = (loaded.draft(asked, Sampling(20, 1.0, seed=7)) for asked in ASKED[:2])
    cohort = Cohort(loaded.model, [stays, goes])
    cohort.step(loaded.model)
    goes.abandon()
    written = len(goes.new)
    while cohort.drafts:
        cohort.step(loaded.model)
    assert goes.finish == ABANDONED and stays.new == loaded.alone(ASKED[0], Sampling(20, 1.0, seed=7)).new
    assert len(goes.new) == written


def test_sampling_follows_the_models_own_probabilities(llama: Loaded) -> None:
    """At a temperature of 2, over 2,000 seeds: within four standard errors of each likely token's share."""
    first = [llama.draft(ASKED[0], Sampling(1, 2.0, seed=seed)) for seed in range(2000)]
    Cohort(llama.model, first)
    with torch.no_grad():
        logits_V = llama.model(input_ids=torch.tensor([first[0].prompt])).logits[0, -1]
    p_V = (logits_V / 2.0).softmax(-1)
    counts_V = torch.bincount(torch.tensor([one.new[0] for one in first]), minlength=len(p_V))
    likely = p_V.topk(5).indices
    error = (p_V * (1 - p_V) / len(first)).sqrt()
    assert bool((((counts_V / len(first)) - p_V).abs() < 4 * error + 1e-9)[likely].all())


def test_log_probabilities_are_the_models_own(llama: Loaded) -> None:
    """Whatever the temperature, and only of those who ask."""
    asks = llama.draft(ASKED[0], Sampling(6, 1.5, seed=1, top_logprobs=3))
    none = llama.draft(ASKED[1], Sampling(6, 1.5, seed=1))
    llama.finished([asks, none])
    assert none.answer().tokens == () and len(asks.tokens) == len([t for t in asks.new if t not in asks._ends])
    ids = [*asks.prompt, *asks.new]
    with torch.no_grad():
        logp_TV = llama.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    for n, one in enumerate(asks.tokens):
        logp_V = logp_TV[len(asks.prompt) + n - 1]
        assert one.logp == pytest.approx(float(logp_V[asks.new[n]]), abs=1e-4)
        assert [p for _, p in one.top] == pytest.approx(logp_V.topk(3).values.tolist(), abs=1e-4)
    assert llama.alone(ASKED[0], Sampling(3, top_logprobs=0)).tokens[0].top == ()


def test_a_chat_without_room_is_refused_and_a_long_one_is_cut(llama: Loaded) -> None:
    with pytest.raises(ModelError, match="reads 512"):
        llama.draft("x" * 600, Sampling(5))
    near = generate(llama.model, llama.tokenizer, [Message("user", "x" * 480)], max_tokens=64, temperature=0.0)
    assert near.finish == "stop" or near.prompt_tokens + near.completion_tokens == 512


def read(text: str, template: str | None, stop: tuple[str, ...] = ()) -> tuple[list[str], str, bool]:
    """What is certain after each byte of a text, and the whole."""
    tokenizer = byte_tokenizer(template)
    reading, seen = Reading(tokenizer, stop), []
    for token in tokenizer.encode(text, add_special_tokens=False):
        if not reading.stopped:
            reading.add(token)
            seen.append(reading.certain)
    return seen, reading.end(), reading.stopped


BRACKETS = (
    "{% for m in messages %}{% if m.role == 'user' %}[I] {{ m.content }} [/I]"
    "{% else %}<a> {{ m.content }} </a>{{ eos_token }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("template", [None, CHATML, PLAIN_TEMPLATE, BRACKETS])
@pytest.mark.parametrize(
    "text",
    [
        " Yes. ",
        "",
        "  ",
        "Zürich – 東京 🙂!",
        "<think>\n\n</think>\n\nWell",
        "<think>\n\n</th",
        "two </a>",
        "a </ b </a> ",
    ],
)
def test_what_is_certain_is_never_taken_back(text: str, template: str | None) -> None:
    tokenizer: Any = byte_tokenizer(template)
    seen, whole, _ = read(text, template)
    assert whole == answer_text(tokenizer.encode(text, add_special_tokens=False), tokenizer)
    assert all(later.startswith(one) for one, later in zip(seen, [*seen[1:], whole], strict=False))
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(seen)
    if text == "Zürich – 東京 🙂!":
        assert len(set(seen)) >= 10, "it grows as it comes"


def test_an_answer_stops_before_a_stop_text() -> None:
    seen, whole, stopped = read("One, two, three", None, ("two,", "three"))
    assert (whole, stopped) == ("One,", True)
    assert all("t" not in one for one in seen), "what may become a stop text is held back"
    assert read("One, twelve", None, ("two",))[1:] == ("One, twelve", False)
    assert read("aab", None, ("ab",))[1:] == ("a", True)
    assert read("\n\nfirst\n\nsecond", None, ("\n\n",))[1:] == ("first", True), "not at the space before it"


def test_a_stop_text_ends_a_draft(llama: Loaded) -> None:
    whole = llama.alone(ASKED[0], Sampling(30)).text
    assert len(whole) > 6
    stop = whole[3:5]
    one = llama.alone(ASKED[0], Sampling(30, stop=(stop,)))
    assert (one.text, one.finish) == (whole[: whole.index(stop)].rstrip(), "stop") and len(one.new) < 30
