"""What the seed model can do, on wordings and options that its text does not have.

``python -m valuealign.models.seed_exam`` makes the seed model where absent and prints its figures.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from valuealign import prompts
from valuealign.models.seed import RECORD, ensure_seed
from valuealign.types import Message

# Questions and options that no maker of seed_text draws; nearly all of these options have words that it lacks.
HELD_OUT: tuple[tuple[str, str, str], ...] = (
    ("How urgent would you call a new bus line?", "Highly urgent|Mildly urgent|Barely urgent|By no means urgent", ""),
    (
        "Should shops close earlier on holidays?",
        "By all means|I lean that way|I am torn|I lean against it|Under no terms",
        "",
    ),
    (
        "Where would you rather put a playground?",
        "Behind the library|Beside the station|Far from traffic",
        "a woman aged 27 to 33",
    ),
    ("How convincing was the last speech you heard?", "Deeply convincing|Mildly convincing|Barely convincing", ""),
    ("Which colour should the new hall have?", "Turquoise|Orange and grey|Purple|Pale pink", "a man from the islands"),
    ("How much noise is there around your flat?", "Unbearable noise|Plenty of noise|Some noise|Silence", ""),
    ("Who ought to look after a shared garden?", "Every tenant|A paid gardener|Nobody", "a person aged 41 to 52"),
    ("Would it trouble you if lunch came late?", "It would upset me|It would bother me slightly|I would shrug", ""),
    ("What should happen to the old cinema?", "Tear it down|Repair it|Turn it into flats|Leave it alone", ""),
    ("How eager are you to try a sport this year?", "Eager|Lukewarm|Reluctant", "a retired woman in a rural area"),
    (
        "How pleasant is your way to work?",
        "Utterly pleasant|Mostly pleasant|Mixed|Mostly unpleasant|Utterly unpleasant",
        "",
    ),
    ("How many cousins have you met?", "Zero|Between one and nine|Ten and above", ""),
    (
        "Is the museum worth its ticket?",
        "Worth every cent|Perhaps on discount|Overpriced",
        "a Hispanic man with some college",
    ),
    ("What would you forbid first?", "Fireworks|Plastic bags|Loud engines|Leaf blowers|Billboards", ""),
    ("How tiring is a day of shopping?", "Exhausting|Tiring|Bearable|Refreshing", "a widow"),
    ("Which rule fits a library best?", "Whispering allowed|Total silence|Talk as you wish", ""),
)
# Survey-like questions of wordings not in the text, on scales most of which are in it.
USUAL: tuple[tuple[str, str, str], ...] = (
    (
        "How important is it to help people who live nearby?",
        "Very important|Somewhat important|Not at all important",
        "",
    ),
    (
        "How much do you trust your local council?",
        "A great deal|Quite a lot|Not very much|None at all",
        "a woman aged 30 to 44 living in the north",
    ),
    (
        "It is right to put work before rest.",
        "Strongly agree|Agree|Neither agree nor disagree|Disagree|Strongly disagree",
        "a man with a college degree",
    ),
    (
        "Being careful matters to this person. Is that you?",
        "Very much like me|Somewhat like me|Not like me",
        "a Black woman",
    ),
    ("Does going to meetings change anything here?", "Yes, a lot|Yes, a little|No", ""),
)
HELD_OUT_TEXT = (
    "Our aunt walked home slowly because the bus was late again.",
    "Some people trust the newspapers, and others believe only what they see.",
    "The council wants to plant more trees near the school.",
    "A family in the north saved for years to buy a small house.",
    "Young people often ask whether hard work still pays.",
)
OPEN = (
    "How should I spend a rainy afternoon?",
    "What should I do about a leaking roof?",
    "Should I lend money to a friend?",
)


class SeedExam(NamedTuple):
    """What was measured, on wordings that the text does not have.

    ``usual``: mean probability on the listed options (option and EOS, exactly) of usual scales; ``mass``:
    the same where the options' words are new; ``worst``: the least of any of those questions; ``evenness``:
    mean entropy of their shares over its largest possible (1 is uniform); ``perplexity``: per token, of
    plain sentences; ``parameters``: how many the model has; ``replies``: the greedy reply to each open request.
    """

    usual: float
    mass: float
    worst: float
    evenness: float
    perplexity: float
    parameters: int
    replies: tuple[str, ...]


def examine(folder: Path) -> SeedExam:
    """Ask the model in ``folder`` what its text did not have."""
    disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    usual = [_on_options(model, tokenizer, *asked)[0] for asked in USUAL]
    masses, evenness = zip(*(_on_options(model, tokenizer, *asked) for asked in HELD_OUT), strict=True)
    texts = [prompts.completion_ids(text, tokenizer) for text in HELD_OUT_TEXT]
    nats = -sum(_logp(model, [tokenizer.bos_token_id], text) for text in texts) / sum(map(len, texts))
    replies = []
    for request in OPEN:
        prompt = prompts.prompt_ids([Message("user", request)], tokenizer)
        replies.append(tokenizer.decode(_reply(model, prompt, tokenizer.eos_token_id)))
    return SeedExam(
        mean(usual), mean(masses), min(masses), mean(evenness), math.exp(nats), model.num_parameters(), tuple(replies)
    )


def _on_options(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, question: str, listed: str, group: str
) -> tuple[float, float]:
    """Probability on the listed options, and the evenness of the shares among them."""
    options = listed.split("|")
    prompt = prompts.prompt_ids(prompts.ask(question, options, group), tokenizer)
    chances_K = [math.exp(_logp(model, prompt, prompts.completion_ids(option, tokenizer))) for option in options]
    mass = sum(chances_K)
    shares_K = [chance / mass for chance in chances_K if chance > 0]
    return mass, -sum(share * math.log(share) for share in shares_K) / math.log(len(options))


@torch.no_grad()
def _logp(model: PreTrainedModel, prompt: Sequence[int], completion: Sequence[int]) -> float:
    """log p(completion | prompt) in nats."""
    logits_TV = model(input_ids=torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
    return -float(F.cross_entropy(logits_TV.double(), torch.tensor(completion), reduction="sum"))


@torch.no_grad()
def _reply(model: PreTrainedModel, prompt: Sequence[int], eos: int, limit: int = 48) -> list[int]:
    """The greedy continuation up to EOS."""
    reply: list[int] = []
    while len(reply) < limit:
        token = int(model(input_ids=torch.tensor([[*prompt, *reply]])).logits[0, -1].argmax())
        if token == eos:
            break
        reply.append(token)
    return reply


def main() -> None:
    """Print the figures of the seed model."""
    folder = ensure_seed()
    exam = examine(folder)
    threads = json.loads((folder / RECORD).read_text(encoding="utf-8"))["threads"]
    print(f"seed model {folder.name}: {exam.parameters:,} parameters, trained with {threads} thread(s)")
    print(f"probability on listed options of usual scales: mean {exam.usual:.3f}")
    print(
        f"probability on listed options of new words: mean {exam.mass:.3f}, "
        f"least {exam.worst:.3f}; evenness {exam.evenness:.3f}"
    )
    print(f"perplexity of plain sentences: {exam.perplexity:.1f} per token")
    for request, reply in zip(OPEN, exam.replies, strict=True):
        print(f"  {request}\n    {reply}")


if __name__ == "__main__":
    main()
