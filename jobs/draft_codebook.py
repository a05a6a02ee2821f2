"""Draft a codebook for a survey file from its columns, labels and codes, for a person to correct.

python jobs/draft_codebook.py survey.sav                     # writes survey.codebook.yaml beside it
python jobs/draft_codebook.py survey.csv -o codebook.yaml
python jobs/draft_codebook.py --profile nzavs -o nzavs.yaml  # a built-in profile, to be adjusted to your file

What was guessed stands on lines marked '# guessed'; columns without a place are listed at the end.
"""

from __future__ import annotations

import os
from pathlib import Path

import click
from _job import say, user_errors

from valuealign.config import SurveyConfig
from valuealign.errors import ConfigError, ValuealignError
from valuealign.surveys import draft_codebook, draft_text
from valuealign.surveys.codebook_yaml import read_codebook
from valuealign.surveys.generic import read_survey
from valuealign.surveys.nzavs import profile_text

PROFILES = {"nzavs": profile_text}


@click.command(help=str(__doc__).replace("\n\n", "\n\n\b\n"))  # \b: keep the lines
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--profile", type=click.Choice(sorted(PROFILES)), help="write out this built-in profile instead")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="the codebook to write")
@click.option("--force", is_flag=True, help="write over a codebook that is there")
def command(file: Path | None, profile: str | None, output: Path | None, force: bool) -> None:
    with user_errors():
        if (file is None) == (profile is None):
            raise ConfigError("one thing to start from is wanted", where="command line", mend="name FILE or --profile")
        if file is not None and not file.is_file():
            raise ConfigError("no such file", where=str(file), mend="name the survey's data file")
        output = output or (Path(f"{profile}.yaml") if file is None else file.with_suffix(".codebook.yaml"))
        if file is not None and output.exists() and output.samefile(file):
            raise ConfigError("that is the survey itself", where=str(output), mend="name another file with -o")
        if output.is_dir():
            raise ConfigError("that is a folder", where=str(output), mend="name the file to write with -o")
        if output.exists() and not force:
            raise ConfigError("the codebook is there already", where=str(output), mend="name another, or add --force")
        if file is None:
            save(output, PROFILES[str(profile)]())
            say(f"written: {output}; check its column names, then name it in survey.codebook")
            return
        found = draft_codebook(file)
        save(output, draft_text(found))
        for line in found.summary():
            say(line)
        try:
            survey = read_survey(file, read_codebook(output), SurveyConfig())
            say(f"reads: {survey.people.height} rows, {len(survey.codebook.items)} items")
        except ValuealignError as error:
            say(f"does not read yet: {error}")
        say(f"written: {output}; every '# guessed' in it wants your eye")


def save(path: Path, text: str) -> None:
    """Written aside, then renamed: never half a file."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise ConfigError(
            f"cannot write the codebook ({error.strerror})", where=str(path), mend="name a file in a folder of yours"
        ) from None


if __name__ == "__main__":
    command()
