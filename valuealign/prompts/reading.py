"""An answer read token by token while it is written: what is certain of its text, and where it must stop."""

from __future__ import annotations

from collections.abc import Sequence

from valuealign.prompts.chat import ChatTokenizer, answer_opening, turn

HALF = "\N{REPLACEMENT CHARACTER}"  # how bytes decode that the next token completes


class Reading:
    """``answer_text`` of an answer that still grows, cut before the first of the texts ``stop``.

    ``certain`` never takes back what it has shown: outer space, what may become the template's closing or a
    stop text, and characters whose bytes are not all there are held back until the next tokens decide.
    ``stopped`` says that a stop text was found; no token is read after that.
    """

    def __init__(self, tokenizer: ChatTokenizer, stop: Sequence[str] = ()) -> None:
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self._closing = turn(tokenizer).closing.strip()
        self._opening = answer_opening(tokenizer)
        self._begun = not self._opening  # whether the first tokens are known to be, or not to be, the opening
        self._ids: list[int] = []
        self._text = ""
        # Decoded is only the end, from a token whose text was whole: ``_before`` is the part that is in the text.
        self._from, self._to, self._before = 0, 0, ""
        self.stopped = False

    def add(self, token: int) -> None:
        """One more token (not the end of the turn)."""
        self._ids.append(token)
        if not self._begun:
            if len(self._ids) < len(self._opening) and self._ids == self._opening[: len(self._ids)]:
                return
            self._begin()
        after = self._decode(self._ids[self._from :])
        if len(after) > len(self._before) and not after.endswith(HALF):
            self._grow(after)

    def spelled(self, token: int) -> str:
        """What a token would add to those that are there."""
        there = self._ids[self._from :]
        return self._decode([*there, token])[len(self._decode(there)) :]

    @property
    def certain(self) -> str:
        """The text that stays, whatever comes."""
        if self.stopped:
            return self.end()
        bare = self._text.rstrip()
        held = max((_overlap(self._text, stop, len(stop) - 1) for stop in self._stop), default=0)
        closing = _overlap(bare, self._closing, len(self._closing))
        return self._text[: min(len(self._text) - held, len(bare) - closing)].rstrip()

    def end(self) -> str:
        """The whole text, when no token follows."""
        if not self._begun:
            self._begin()
        if not self.stopped and self._to < len(self._ids):
            self._grow(self._decode(self._ids[self._from :]))
        return self._text.rstrip().removesuffix(self._closing).rstrip()

    def _begin(self) -> None:
        self._begun = True
        if self._ids[: len(self._opening)] == self._opening:
            self._from = self._to = len(self._opening)

    def _grow(self, after: str) -> None:
        new, old = after[len(self._before) :], len(self._text)
        self._text = self._text + new if self._text else new.lstrip()
        self._before = self._decode(self._ids[self._to :])
        self._from, self._to = self._to, len(self._ids)
        longest = max(map(len, self._stop), default=0)
        found = [at for stop in self._stop if (at := self._text.find(stop, max(0, old - longest + 1))) >= 0]
        if found:
            self._text, self.stopped = self._text[: min(found)], True

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True)


def _overlap(text: str, pattern: str, most: int) -> int:
    """How many of the pattern's first characters, at most so many, the text ends with."""
    return next((n for n in range(min(len(text), most), 0, -1) if text.endswith(pattern[:n])), 0)
