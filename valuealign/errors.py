"""One tree of errors. A user's mistake raises one of these; each says what, where, and the mend.

ValuealignError            everything below; jobs print it and exit with status 2
├── ConfigError            a key, a value or a combination in the run's configuration
├── SurveyError            a survey file or its codebook
│   ├── CodebookError      the codebook itself is malformed
│   └── AnswerError        a column, a code or a weight in the data
├── WeightingError         margins that the sample cannot be fitted to
├── SplitError             too few people, items or groups to hold any out
├── SignalError            a feedback or preference file
├── ModelError             a checkpoint that cannot be loaded or trained
│   └── Diverged           training whose figures are no longer numbers
├── JudgeError             a judge model that cannot be asked, or whose answers cannot be read
├── RegistryError          a version or an alias
│   ├── UnknownVersion     no such version or alias
│   └── AliasMoved         somebody else moved the alias first
├── StoreError             the database
│   ├── UnknownResponse    feedback for a response that was never given
│   ├── UnknownFeedback    feedback that was never posted
│   ├── KeyReused          an idempotency key that came with another body before
│   ├── Gone               what was posted before and erased since
│   └── Refused            what cannot be kept as posted, or asked for as asked
├── GateError              an update that cannot be judged
├── Busy                   the service has no room for a request now
│   └── Lent               its GPUs are lent to training
├── ClusterError           processes of a cluster that do not start, answer or agree
└── DiskError              a disk that is full, or a place that cannot be written to
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class ValuealignError(Exception):
    """Base of all errors that a user can mend.

    ``what`` went wrong, ``where`` (file, column, line, key), and the ``mend``.
    """

    def __init__(self, what: str, *, where: str = "", mend: str = "") -> None:
        self.what, self.where, self.mend = what, where, mend
        super().__init__(what, where, mend)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        mend = f"\n  mend: {self.mend}" if self.mend else ""
        return f"{place}{self.what}{mend}"

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders (Ray); rebuild them with their keyword arguments.
        return _rebuild, (type(self), self.what, self.where, self.mend)


def _rebuild(kind: type[ValuealignError], what: str, where: str, mend: str) -> ValuealignError:
    return kind(what, where=where, mend=mend)


class ConfigError(ValuealignError):
    """A key, a value or a combination in the run's configuration."""


class SurveyError(ValuealignError):
    """A survey file or its codebook."""


class CodebookError(SurveyError):
    """The codebook itself is malformed."""


class AnswerError(SurveyError):
    """A column, a code or a weight in the data."""


class WeightingError(ValuealignError):
    """Margins that the sample cannot be fitted to."""


class SplitError(ValuealignError):
    """Too few people, items or groups to hold any out."""


class SignalError(ValuealignError):
    """A feedback or preference file."""


class ModelError(ValuealignError):
    """A checkpoint that cannot be loaded or trained."""


class Diverged(ModelError):
    """Training whose figures are no longer numbers."""


class JudgeError(ValuealignError):
    """A judge model that cannot be asked, or whose answers cannot be read."""


class RegistryError(ValuealignError):
    """A version or an alias."""


class UnknownVersion(RegistryError):
    """No such version or alias."""


class AliasMoved(RegistryError):
    """Somebody else moved the alias first."""


class StoreError(ValuealignError):
    """The database."""


class UnknownResponse(StoreError):
    """Feedback for a response that was never given."""


class UnknownFeedback(StoreError):
    """Feedback that was never posted."""


class KeyReused(StoreError):
    """An idempotency key that came with another body before."""


class Gone(StoreError):
    """What was posted before and erased since; posting it again is refused."""


class Refused(StoreError):
    """What cannot be kept as posted, or asked for as asked: it contradicts itself, or no database holds it."""


class GateError(ValuealignError):
    """An update that cannot be judged."""


class Busy(ValuealignError):
    """The service has no room for a request now; it may be sent again after so many seconds."""

    retry_after = 1


class Lent(Busy):
    """The GPUs are lent to training."""

    retry_after = 30


class ClusterError(ValuealignError):
    """Processes of a cluster that do not start, answer or agree."""


class DiskError(ValuealignError):
    """A disk that is full, or a place that cannot be written to."""


def nearest(word: str, words: Iterable[str]) -> str:
    """A mend that names the nearest known word, or lists what is known."""
    known = sorted(words)
    close = get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
