"""From a survey to weighted targets, splits and cells: what every other job starts from.

    python jobs/prepare.py
    python jobs/prepare.py survey.reader=generic survey.file=answers.csv survey.codebook=codebook.yaml

Reads and checks the survey, screens it, fits the weights, finds the groups, holds people, items,
groups and cells out, and prints what training and evaluation will see. Keeps it all as Parquet with
a datasheet and a picture of the margins, below $VALUEALIGN_HOME/data; jobs/export.py releases it. Nothing is trained.
"""

from __future__ import annotations

from pathlib import Path

from _job import run_job, say

from valuealign import config as configuration
from valuealign.config import RunConfig
from valuealign.dataset import folder_of, read_sheet, write
from valuealign.errors import SurveyError
from valuealign.prepared import prepare
from valuealign.report import write_love_plot
from valuealign.weighting import Gap


def keep(config: RunConfig) -> Path:
    """The data set's folder, written if these settings and files have not been prepared before.

    A file of feedback is no part of it, and is read and counted every time.
    """
    folder = folder_of(config, configuration.home())
    known = folder.exists()
    if known:
        try:
            sheet = read_sheet(folder)
        except SurveyError as error:
            say(f"prepared before, but damaged, so it is made anew: {error.what} ({error.where})")
            known = False
    if known and config.feedback.file is None:
        for name, fact in sheet["facts"].items():
            say(f"{name}: {fact}")
        draw(folder)
        say(f"data set, prepared before: {folder}")
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)  # a home that cannot be written says so before the work
    if config.feedback.file is None and config.survey.reader != "embedded":
        say("behaviour prompts: none; stage kto would need feedback.file")
        config = config.model_copy(update={"stages": ("distribution",)})
    prepared = prepare(config)
    if not known:
        write(prepared.dataset, folder, say)
    draw(folder)
    say(f"data set: {folder}")
    return folder


def draw(folder: Path) -> None:
    """The love plot beside a datasheet that has margins: what weighting mended of each."""
    gaps = [Gap(**margin) for margin in read_sheet(folder)["weights"]["margins"]]
    if gaps:
        say(f"margins before and after weighting: {write_love_plot(folder / 'margins.svg', gaps)}")


if __name__ == "__main__":
    run_job(__doc__, lambda config: keep(config) and None)
