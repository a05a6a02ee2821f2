"""A judge model behind an OpenAI-compatible address: asked at temperature 0, read strictly.

The key stands in an environment variable and nowhere else: in no record, no log and no error.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

from valuealign.errors import JudgeError

PATH = "/chat/completions"
KEY = "VALUEALIGN_JUDGE_KEY"
AGAIN = (429, 500, 502, 503, 504)  # what may pass by itself
SHOWN = 200  # characters of a server's complaint that an error passes on
Read = TypeVar("Read")


@dataclass(frozen=True)
class JudgeModel:
    """``url`` is the server's address (``https://host/v1``, or the whole ``.../chat/completions``).

    ``timeout`` and ``pause`` (between ``tries``, where the server is busy or fails) are in seconds;
    ``at_once`` requests are under way at a time. ``key_env`` names the variable that holds the key (unset: none
    is sent). Raises JudgeError for an address that is none.
    """

    url: str
    model: str
    key_env: str = KEY
    timeout: float = 60.0
    max_tokens: int = 64
    tries: int = 3
    pause: float = 2.0
    at_once: int = 4

    def __post_init__(self) -> None:
        try:
            fits = httpx.URL(self.url).scheme in ("http", "https") and bool(httpx.URL(self.url).host)
        except httpx.InvalidURL:
            fits = False
        if not fits:
            raise JudgeError("this is no address of a server", where=self.place, mend="write http(s)://host:port/v1")

    @property
    def place(self) -> str:
        """The address without a user's name, password or query: what errors and records show."""
        scheme, mark, rest = self.url.split("?")[0].split("#")[0].partition("://")
        host, slash, path = rest.partition("/")
        return scheme + mark + host.rpartition("@")[2] + slash + path

    @property
    def endpoint(self) -> httpx.URL:
        """Where requests go."""
        url = httpx.URL(self.url)
        path = url.path.rstrip("/")
        return url.copy_with(path=path if path.endswith(PATH) else (path or "/v1") + PATH)

    def ask(self, prompts: Sequence[str]) -> list[str]:
        """The judge's answer to each prompt, a user's turn.

        Raises JudgeError, with address and status, where the server cannot be reached, is too slow, refuses or
        fails (after ``tries``), or sends what is no chat completion.
        """
        key = os.environ.get(self.key_env, "")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        with (
            httpx.Client(headers=headers, timeout=self.timeout) as client,
            ThreadPoolExecutor(max_workers=self.at_once) as pool,
        ):
            return list(pool.map(lambda prompt: self._one(client, prompt, key), prompts))

    def _one(self, client: httpx.Client, prompt: str, key: str) -> str:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": self.max_tokens,
        }
        for trial in range(1, self.tries + 1):
            last = trial == self.tries
            try:
                answer = client.post(self.endpoint, json=body)
            except httpx.TransportError as error:
                if last:
                    raise self._unreachable(error) from None
            else:
                if answer.status_code not in AGAIN or last:
                    return self._content(answer, key)
            time.sleep(self.pause)
        raise AssertionError("the last trial returns or raises")

    def _unreachable(self, error: httpx.TransportError) -> JudgeError:
        if isinstance(error, httpx.TimeoutException):
            return JudgeError(
                f"the judge gave no answer in {self.timeout:g} s", where=self.place, mend="give it a longer timeout"
            )
        return JudgeError(
            f"the judge cannot be reached ({type(error).__name__})", where=self.place, mend="check the address"
        )

    def _content(self, answer: httpx.Response, key: str) -> str:
        if answer.status_code != 200:
            said = answer.text.replace(key, "***") if key else answer.text
            said = " ".join(said.split())[:SHOWN]
            mend = f"set ${self.key_env} to the judge's key" if answer.status_code in (401, 403) else "see its own log"
            raise JudgeError(f"the judge answers with status {answer.status_code}: {said}", where=self.place, mend=mend)
        try:
            content: Any = answer.json()["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError):
            content = None
        if not isinstance(content, str):
            raise JudgeError(
                "the judge's answer is no chat completion",
                where=self.place,
                mend="name a server that speaks /v1/chat/completions; a model that thinks first needs more max_tokens",
            )
        return content


def read_all(judge: JudgeModel, prompts: Sequence[str], read: Callable[[str], Read], wanted: str) -> list[Read]:
    """Each answer as ``read`` reads it, None where it is not of the form that was ``wanted``.

    Raises what ``JudgeModel.ask`` does, and JudgeError where no answer at all can be read.
    """
    answers = judge.ask(prompts)
    found = [read(answer) for answer in answers]
    if answers and all(one is None for one in found):
        raise JudgeError(
            f"not one of {len(answers)} answers is {wanted}; the first is {answers[0][:SHOWN]!r}",
            where=judge.place,
            mend="take a judge that follows instructions",
        )
    return found
