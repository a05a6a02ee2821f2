"""What the words of an answer give away: that it is no answer, and that a row of answers has an order.

Used where nobody has said so in a codebook. Both lists are short on purpose: what they do not
know stays an option, without an order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

DONT_KNOW, NO_ANSWER, EITHER = "don't know", "no answer", "don't know or no answer"
# People who never had the question: outside the shares, and no outcome either.
NOT_ASKED = "not asked"

NON_ANSWERS = {
    DONT_KNOW: (
        "don't know", "dont know", "do not know", "dk", "can't choose", "cannot choose", "can't say", "cannot say",
    ),
    NO_ANSWER: (
        "no answer", "na", "n/a", "refused", "refusal", "refuse", "ref", "refused to answer", "declined",
        "declined to answer", "decline to answer", "prefer not", "prefer not to answer", "prefer not to say",
        "no response", "not answered",
    ),
    NOT_ASKED: (
        "not asked", "not asked in survey", "not applicable", "inapplicable", "inappropriate", "inap", "iap", "missing",
        "unknown", "not available", "skipped",
    ),
}  # fmt: skip
_KIND = {wording: kind for kind, wordings in NON_ANSWERS.items() for wording in wordings}
# Typed for ': left and right quotes, the acute and the grave accent.
_APOSTROPHES = re.compile("[\u2018\u2019\u00b4`]")
_ASIDE = re.compile(r"[(\[][^)\]]*\b(?:vol|volunteered|spontaneous|do not read|dnr)\b[^)\]]*[)\]]")


def non_answer(text: str) -> str | None:
    """``don't know``, ``no answer``, ``don't know or no answer`` or ``not asked``; None for an option.

    Wordings are compared without case; several of them may be joined by ``/``, ``;``, ``,`` or
    "or" ("DK/Refused"), and remarks such as "(do not read)" do not count. A text with any other
    part is an option.
    """
    words = plain_words(_ASIDE.sub("", _APOSTROPHES.sub("'", text.casefold()))).rstrip(".").removeprefix("i ")
    parts = [words] if words in _KIND else [part.strip() for part in re.split(r"[/;,]|\bor\b", words)]
    kinds = {_KIND.get(part) for part in parts}
    if None in kinds:
        return None
    said = kinds - {NOT_ASKED}
    return EITHER if len(said) > 1 else said.pop() if said else NOT_ASKED


def mentions_non_answer(text: str) -> str | None:
    """The kind of non-answer whose wording stands anywhere in the text ("8. Don't know, spontaneous").

    Looser than ``non_answer``, for what a person looks at afterwards.
    """
    words = plain_words(_APOSTROPHES.sub("'", text))
    for kind, wordings in NON_ANSWERS.items():
        if re.search(rf"(?<!\w)({'|'.join(map(re.escape, wordings))})(?!\w)", words):
            return kind
    return None


def plain_words(text: str) -> str:
    """The text without case and with single blanks: equal for the same words."""
    return " ".join(text.casefold().split())


# Rungs of well-known scales, best match first: the beginning of an option -> its height.
_FREQUENCY = (
    (r"(almost|nearly) always|very often|usually|most of the time", 4.0),
    (r"always|all of the time", 5.0),
    (r"often|frequently", 3.5),
    (r"sometimes|occasionally|some of the time", 3.0),
    (r"rarely|seldom|hardly ever|almost never", 2.0),
    (r"never|none of the time", 1.0),
)
_QUALITY = (
    (r"excellent", 5.0),
    (r"very good", 4.0),
    (r"good", 3.0),
    (r"(only )?fair", 2.0),
    (r"poor", 1.0),
    (r"very poor", 0.0),
)
_AMOUNT = (
    (r"not at all|none|nothing|not .* at all|no .* at all", 0.0),
    (r"not (very|too|so|much|that)|(only )?a little|not a lot", 1.0),
    (r"somewhat|fairly|quite|rather|moderately|some|a fair amount|a moderate amount", 2.0),
    (r"very|extremely|a great deal|a lot|completely", 3.0),
)
_MIDDLE = r"neither|neutral|(stay |about |much )*the same|no (change|difference)|about right"
_STRONG = r"very|strongly|completely|totally|much|a lot|definitely|extremely|fully"
_MILD = r"somewhat|mostly|fairly|rather|a little|slightly|tend to|probably|quite|moderately|partly"
_SIDES = (
    # Comparatives come first: in "less likely" the first word decides.
    ("more|better|increased?|improved?|higher", "less|fewer|worse|decreased?|worsened?|lower"),
    (
        "agree|good|favou?rable|satisfied|positive|likely|support|favou?r|approve|confident|easy|safe|happy",
        "disagree|bad|unfavou?rable|dissatisfied|negative|unlikely|oppose|disapprove|difficult|unsafe|unhappy",
    ),
)


def ordered(texts: Sequence[str]) -> bool:
    """Whether the texts of an item's options, in their order, climb or descend a scale that is known.

    Known are: whole numbers one apart (the two ends may be in words), how often, how much, how
    good (excellent to poor), and two sides with degrees (strongly agree to strongly disagree).
    """
    words = [plain_words(text) for text in texts]
    if len(words) < 2:
        return False
    rows = [[_rung(text, ladder) for text in words] for ladder in (_FREQUENCY, _QUALITY, _AMOUNT)]
    return _numbers(words) or any(_monotone(row) for row in [*rows, [_side(text) for text in words]])


def _rung(text: str, ladder: Sequence[tuple[str, float]]) -> float | None:
    return next((height for pattern, height in ladder if re.match(rf"({pattern})\b", text)), None)


def _side(text: str) -> float | None:
    """Degrees from -3 (strongly against) to 3; None where a text takes no side, or both."""
    if re.match(_MIDDLE, text):
        return 0.0
    if re.search(r"\bnot\b|n't\b", text):
        return None
    for for_it, against in _SIDES:
        pro, con = (re.search(rf"\b({words})\b", text) is not None for words in (for_it, against))
        if pro != con:
            degree = 3.0 if re.search(rf"\b({_STRONG})\b", text) else 1.0 if re.search(rf"\b({_MILD})\b", text) else 2.0
            return degree if pro else -degree
    return None


def _numbers(words: Sequence[str]) -> bool:
    """Whole numbers one apart; of four options or more the ends may be words (1 = never ... 10 = always)."""
    placed = [(place, int(text)) for place, text in enumerate(words) if re.fullmatch(r"-?\d{1,4}", text)]
    inner = set(range(1, len(words) - 1)) if len(words) >= 4 else set(range(len(words)))
    if not inner <= {place for place, _ in placed}:
        return False
    # On a straight line number +- place is the same all along.
    return 1 in (len({number - place for place, number in placed}), len({number + place for place, number in placed}))


def _monotone(row: Sequence[float | None]) -> bool:
    heights = [height for height in row if height is not None]
    signs = {(later > earlier) - (later < earlier) for earlier, later in zip(heights, heights[1:], strict=False)}
    return len(heights) == len(row) and signs in ({1}, {-1})
