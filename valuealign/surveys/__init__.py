"""SURVEYS: the name of a reader and the function that reads the survey (one file, one line here)."""

from __future__ import annotations

from collections.abc import Callable

from valuealign.config import SurveyConfig
from valuealign.errors import ConfigError, nearest
from valuealign.surveys import embedded, generic
from valuealign.surveys.table import Survey

SURVEYS: dict[str, Callable[[SurveyConfig, int], Survey]] = {
    "embedded": embedded.read,
    "generic": generic.read,
}


def read_survey(config: SurveyConfig, seed: int) -> Survey:
    """The survey that ``config`` names. Raises ConfigError for an unknown reader, SurveyError for its files."""
    if config.reader not in SURVEYS:
        mend = nearest(config.reader, SURVEYS)
        raise ConfigError(f"no reader is called '{config.reader}'", where="survey.reader", mend=mend)
    return SURVEYS[config.reader](config, seed)
