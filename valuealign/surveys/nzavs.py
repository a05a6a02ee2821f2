"""New Zealand Attitudes and Values Study: a profile over the generic wide reader, for the user to adjust.

The study's data go out on request only, so what columns are called and coded is partly guessed
(``nzavs.yaml`` says which). A person has one row in the file and, here, one for each wave in which
he or she took part.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from valuealign.config import SurveyConfig
from valuealign.errors import AnswerError
from valuealign.surveys import files, generic
from valuealign.surveys.codebook import WAVE, Codebook
from valuealign.surveys.codebook_yaml import read_codebook
from valuealign.surveys.instruments import data_file
from valuealign.surveys.table import Survey

PROFILE = Path(__file__).with_name("nzavs.yaml")
OWN_COPY = "your own copy of the NZAVS profile (survey.codebook)"
UNCHECKED = (
    "Read with the built-in NZAVS profile: its column names and codes are partly guessed, its question texts are "
    f"paraphrases. Check them against the study's data dictionary and mend {OWN_COPY}."
)


def profile_text() -> str:
    """The built-in profile as YAML text, to be saved, adjusted and named in ``survey.codebook``."""
    return PROFILE.read_text(encoding="utf-8")


def read(config: SurveyConfig, seed: int) -> Survey:
    """The study's file, read by the user's adjusted profile or else by the built-in one; ``seed`` plays no part.

    The built-in profile leaves out the questions, traits and waves that the file does not have and
    says so in ``Survey.notes``; its person and weight columns must be there. The user's own must
    fit the file.

    Raises SurveyError without a file, CodebookError for the profile, AnswerError for the data, and
    ConfigError for a wave that is not there.
    """
    path = data_file(config)
    if config.codebook is not None:
        return generic.read_survey(path, read_codebook(config.codebook), config)
    book = _fielded(replace(read_codebook(PROFILE), where=OWN_COPY), path)
    survey = generic.read_survey(path, book, config, prune=True)
    return replace(survey, notes=(UNCHECKED, *survey.notes))


def _fielded(book: Codebook, path: Path) -> Codebook:
    """The codebook with those waves only of which the file has a question."""
    names = set(files.layout(path, separator=book.separator).names)
    questions = [book.columns[item.id].name for item in book.items]
    waves = {
        wave: mark
        for wave, mark in book.waves.items()
        if any(question.replace(WAVE, mark) in names for question in questions)
    }
    if not waves:
        raise AnswerError(
            f"no column is named like one of the profile's questions ('{questions[0]}')",
            where=str(path),
            mend=f"name the study's columns in {OWN_COPY}",
        )
    return replace(book, waves=waves)
