"""SURVEYS: the name of a reader and the function that reads the survey (one file, one line here)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

from valuealign.config import SurveyConfig
from valuealign.errors import ConfigError, nearest
from valuealign.surveys import embedded, ess, generic, nzavs, published, rokeach, schwartz, votes, wvs
from valuealign.surveys.choices import keep_only, outcomes_as_options
from valuealign.surveys.codebook import Tier, tier_of
from valuealign.surveys.draft import draft_codebook
from valuealign.surveys.draft_yaml import draft_text
from valuealign.surveys.rows import refuse_keys
from valuealign.surveys.screening import Screened, screen
from valuealign.surveys.table import Survey

__all__ = ["SURVEYS", "Screened", "Survey", "draft_codebook", "draft_text", "read_survey", "screen"]

SURVEYS: dict[str, Callable[[SurveyConfig, int], Survey]] = {
    "embedded": embedded.read,
    "generic": generic.read,
    "wvs": wvs.read,
    "ess": ess.read,
    "nzavs": nzavs.read,
    "svs": schwartz.svs,
    "pvq40": schwartz.pvq40,
    "pvqrr": schwartz.pvqrr,
    "rvs": rokeach.read,
    "published": published.read,
    "votes": votes.read,
}


# Keys that would be ignored in silence: the embedded public needs no file, and only votes have statements.
UNUSED = {"embedded": ("file", "codebook", "weight", "waves", "statements"), "votes": ()}


def read_survey(config: SurveyConfig, seed: int) -> Survey:
    """The survey that ``config`` names, with its ``only`` and ``outcomes`` applied.

    Raises ConfigError for an unknown reader, trait or level, or a key that the reader has no use for,
    SurveyError for the survey's files.
    """
    if config.reader not in SURVEYS:
        mend = nearest(config.reader, SURVEYS)
        raise ConfigError(f"no reader is called '{config.reader}'", where="survey.reader", mend=mend)
    refuse_keys(config, UNUSED.get(config.reader, ("statements",)))
    survey = keep_only(SURVEYS[config.reader](config, seed), config.only)
    if config.outcomes == "options":
        survey = outcomes_as_options(survey)
    return _licensed(survey, config)


def _licensed(survey: Survey, config: SurveyConfig) -> Survey:
    """With the run's licence and tier: a licence without a tier never lets more be passed on than the reader knows."""
    book = survey.codebook
    licence, tier = config.licence or book.licence, config.tier or book.tier
    notes = survey.notes
    if config.licence and not config.tier:
        order = get_args(Tier)
        tier = max(book.tier, tier_of(licence), key=order.index)
        if tier != book.tier:
            notes += (f"Under the licence in survey.licence the tier is {tier}; survey.tier says what else it allows.",)
    return replace(survey, codebook=replace(book, licence=licence, tier=tier), notes=notes)
