"""All that models are asked in one evaluation, and the one record that is made of what they answer.

The exam of survey questions, the marked answers, other ways to read answers, the value questions, and sheets of
questions beside the survey. ``SHEETS`` maps a name of ``evaluate.sheets`` to what makes the sheet of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from valuealign.config import RunConfig
from valuealign.errors import AnswerError, CodebookError, ConfigError, JudgeError, SurveyError, nearest
from valuealign.evaluate.asking import Questions
from valuealign.evaluate.behaviour import behaviour_by_stage
from valuealign.evaluate.exam import Exam
from valuealign.evaluate.free.ballots import compare_blind
from valuealign.evaluate.free.generations import free_prompts, generation_sheet
from valuealign.evaluate.free.judge_model import JudgeModel
from valuealign.evaluate.paid.kl import KL, KL_METRICS, option_kl_rows
from valuealign.evaluate.paid.sheets import format_sheet, harmful_sheet, neutral_sheet, read_requests, read_texts
from valuealign.evaluate.probes.figures import probe_sheet, shown
from valuealign.evaluate.probes.file import read_probes
from valuealign.evaluate.probes.stated import stated_vs_shown
from valuealign.evaluate.profiles import ValueExam
from valuealign.evaluate.readouts import Readout, judge_as_read, readouts
from valuealign.evaluate.record import Evaluation, Row, Standing
from valuealign.evaluate.sharing import Sharing
from valuealign.evaluate.sheet import Heard, Sheet, described
from valuealign.metrics import Floats
from valuealign.prompts import ChatTokenizer
from valuealign.types import BASE, EVERYONE, Cell

EXAM, MARKS, VALUES, PROBES, FREE = "exam", "behaviour", "values", "probes", "generations"
FEWEST_PROMPTS = 5  # fewer prompts than these are no evidence of behaviour


@dataclass(frozen=True)
class Examination:
    """What is asked: ``marks`` are held-out answers that people judged, ``values`` is None where no item measures any.

    ``sharing`` says what of the record may be shown.
    ``base`` is the name of the model that behaviour and distance are measured from.
    """

    config: RunConfig
    exam: Exam
    marks: tuple[Cell, ...]
    ways: tuple[Readout, ...]
    sheets: tuple[Sheet, ...]
    sharing: Sharing
    values: ValueExam | None
    base: str = BASE

    @property
    def questions(self) -> dict[str, Questions]:
        """Everything that is asked, by name."""
        return {
            EXAM: Questions(self.exam.cells),
            MARKS: Questions(self.marks),
            VALUES: Questions(self.values.cells if self.values else ()),
            **{way.how: way.asked for way in self.ways},
            **{one.name: Questions(one.cells, one.chats, max_tokens=one.max_tokens) for one in self.sheets},
        }

    @property
    def cells(self) -> dict[str, tuple[Cell, ...]]:
        """What a run that scores but writes nothing can ask."""
        return {name: one.cells for name, one in self.questions.items() if one.cells}

    def judge(self, heard: Mapping[str, Heard]) -> Evaluation:
        """The record of what everybody answered; what nobody was asked is left out, and what few people stand
        behind is withheld (``Sharing.of``, ``ValueExam.small``). Raises as ``Exam.judge``."""
        logps = {name: one.logps for name, one in heard.items()}
        texts = {name: one.texts for name, one in heard.items()}
        evaluation = self.sharing.of(judge_as_read(self.exam, logps[EXAM], self.ways, logps, texts))
        rows = option_kl_rows(logps[EXAM], self.exam.cells, base=self.base)
        asked = [sheet for sheet in self.sheets if heard.get(sheet.name, Heard()).who]
        unjudged = ""
        for sheet in asked:
            try:
                rows += sheet.judge(heard[sheet.name])
            except JudgeError as error:  # what everybody answered is worth more than a judge who cannot be reached
                unjudged = str(error)
        standings, why = self._standings(logps.get(VALUES, {}))
        rows += self._stated(standings, heard)
        sheets = [*(way.sheet for way in self.ways if way.sheet), *asked, _kl_sheet()]
        there = {row.split for row in (*evaluation.rows, *rows)}
        facts: dict[str, Any] = {"sheets": described(sheet for sheet in sheets if sheet.name in there)}
        facts |= {"no value profiles": why} if why else {}
        if standings and self.values is not None:
            facts["withheld"] = evaluation.facts["withheld"] | {"value_profiles": len(self.values.small)}
        facts |= {"not judged by a model": unjudged} if unjudged else {}
        whole = replace(evaluation.joined(rows, **facts), standings=standings)
        counted = sum(1 for cell in self.marks if sum(cell.desirable) and sum(cell.undesirable))
        note = "" if counted >= FEWEST_PROMPTS or not counted else f"on {counted} prompts only"
        return whole.with_behaviour(behaviour_by_stage(logps.get(MARKS, {}), self.marks, base=self.base), note=note)

    def blind(self, folder: Path, heard: Mapping[str, Heard], say: Callable[[str], None]) -> list[Row]:
        """The free answers, compared by people who do not know whose they are (``ballots.compare_blind``).

        Raises SignalError as reading ballots does.
        """
        assert FREE in heard, "free answers were asked for"
        prompts = free_prompts(self.marks, read_probes(self.config.evaluate.probes))
        answers = {who: texts[: len(prompts)] for who, texts in heard[FREE].texts.items()}
        return compare_blind(folder, prompts, answers, seed=self.config.seed, say=say)

    def _standings(self, logps: Mapping[str, Sequence[Floats]]) -> tuple[tuple[Standing, ...], str]:
        if self.values is None or not logps:
            return (), ""
        try:
            return self.values.standings(logps), ""
        except (AnswerError, CodebookError, SurveyError) as error:
            return (), str(error)

    def _stated(self, standings: Sequence[Standing], heard: Mapping[str, Heard]) -> list[Row]:
        """What models choose in the probes, beside what they and the people state."""
        if not standings or PROBES not in heard or not heard[PROBES].who:
            return []
        stated = {one.who: dict(zip(one.values, one.scores, strict=True)) for one in standings}
        return stated_vs_shown(stated, shown(heard[PROBES], self.config.evaluate.probes))


def examination(
    config: RunConfig,
    exam: Exam,
    marks: Sequence[Cell],
    sharing: Sharing,
    values: ValueExam | None = None,
    *,
    base: str = BASE,
    tokenizer: ChatTokenizer | None = None,
) -> Examination:
    """What a run's configuration asks for. Raises ConfigError for unknown names and what reading its files raises.

    ``tokenizer`` is the models' own; without one nothing is told for each token, and answers may be longer.
    """
    for name in config.evaluate.sheets:
        if config.evaluate.sheets.count(name) > 1:
            raise ConfigError(f"'{name}' stands here twice", where="evaluate.sheets", mend=f"write '{name}' once")
        if name not in SHEETS:
            raise ConfigError(f"no sheet is called '{name}'", where="evaluate.sheets", mend=nearest(name, SHEETS))
    sheets = tuple(SHEETS[name](config, exam, marks, tokenizer) for name in config.evaluate.sheets)
    return Examination(config, exam, tuple(marks), readouts(exam, config), sheets, sharing, values, base)


def _probes(config: RunConfig, exam: Exam, marks: Sequence[Cell], tokenizer: ChatTokenizer | None) -> Sheet:
    return probe_sheet(config.evaluate.probes)


def _harmful(config: RunConfig, exam: Exam, marks: Sequence[Cell], tokenizer: ChatTokenizer | None) -> Sheet:
    path = config.evaluate.requests
    return harmful_sheet(read_requests(path) if path else None)


def _neutral(config: RunConfig, exam: Exam, marks: Sequence[Cell], tokenizer: ChatTokenizer | None) -> Sheet:
    path = config.evaluate.texts
    return neutral_sheet(read_texts(path) if path else None, tokenizer=tokenizer)


def _format(config: RunConfig, exam: Exam, marks: Sequence[Cell], tokenizer: ChatTokenizer | None) -> Sheet:
    """The survey's questions that name no group are to be answered with one of their options."""
    return format_sheet([cell for cell in exam.cells if cell.group == EVERYONE.name], tokenizer=tokenizer)


def _generations(config: RunConfig, exam: Exam, marks: Sequence[Cell], tokenizer: ChatTokenizer | None) -> Sheet:
    given = config.evaluate
    probes = read_probes(given.probes)
    judge = JudgeModel(given.judge_url, given.judge_model) if given.judge_url else None
    prompts = free_prompts(marks, probes)
    return generation_sheet(prompts, judge=judge, framings=probes if probes.watched else None)


SHEETS: dict[str, Callable[[RunConfig, Exam, Sequence[Cell], ChatTokenizer | None], Sheet]] = {
    PROBES: _probes,
    "harmful": _harmful,
    "neutral": _neutral,
    "format": _format,
    FREE: _generations,
}


def _kl_sheet() -> Sheet:
    return Sheet(KL, "How far the model has moved from the base", KL_METRICS, lambda heard: ())
