"""What is read of people, and how it is put: survey, screens, weights, groups, splits, wordings."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from valuealign.config.section import Screen, Section, Shrink, Texts


class SurveyConfig(Section):
    """Which survey, read how."""

    reader: str = Field("embedded", description="a name in SURVEYS: embedded, generic, wvs, ess, ... (docs/surveys.md)")
    file: Path | None = Field(None, description="the survey's data file (CSV, Parquet, SPSS .sav, Stata .dta)")
    codebook: Path | None = Field(None, description="what its columns and codes mean (YAML; wvs: a folder of JSON)")
    people: int = Field(8000, ge=100, description="embedded: how many people are sampled")
    rows: int | None = Field(None, ge=1, description="read the first rows only (a quick look)")
    weight: str | None = Field(None, description="the column of design weights, in place of the codebook's")
    only: dict[str, Texts] = Field({}, description="keep these levels of a trait, as in {country: [NZL]}")
    waves: Texts | None = Field(None, min_length=1, description="panels: the waves to read; null: all")
    outcomes: Literal["apart", "options"] = Field(
        "apart", description="don't know and the like: apart from the shares, or counted as options"
    )
    fieldwork: date | None = Field(
        None, description="when the people were asked (its middle), as 2024-05-15: the anchor's age is counted from it"
    )
    assumed_n: int = Field(500, ge=1, description="published: people behind a table that does not say how many")
    statements: Path | None = Field(None, description="votes: the file of the statements' texts")
    licence: str | None = Field(None, description="the data's licence, in place of what the reader knows")
    tier: Literal["open", "aggregates", "closed"] | None = Field(
        None, description="what that licence lets you pass on, in place of what the reader knows"
    )


class ScreensConfig(Section):
    """Signs of careless answering, looked for in a person's own answers only."""

    longest_string: Screen = Field("flag", description="most equal answers in a row: off, flag or drop")
    variance: Screen = Field("flag", description="all ratings (almost) equal: off, flag or drop")
    speeders: Screen = Field("flag", description="interviews far quicker than the others: off, flag or drop")
    duplicates: Screen = Field("flag", description="the very answers of another person: off, flag or drop")
    longest_string_share: float = Field(
        0.9, gt=0, le=1, description="a string of equal answers over at least this share of a person's items is a sign"
    )
    variance_below: float = Field(
        0.001, ge=0, le=0.25, description="a variance of ratings (scales as 0..1) at most this small is a sign"
    )
    speeders_below: float = Field(
        0.33, gt=0, lt=1, description="less than this share of the median interview's duration is a sign"
    )
    least_items: int = Field(10, ge=2, description="persons who answered fewer items are not judged")


class WeightingConfig(Section):
    """From the sample to the population."""

    everyone: Literal["country", "adults", "equal"] | None = Field(
        None, description="of several countries: all their adults, or countries counted equally; null: one country"
    )
    populations: Path | None = Field(None, description="CSV country,adults for everyone: adults")
    margins: Path | None = Field(
        None, description="CSV of population margins: trait,level,share; the embedded survey brings its own"
    )
    method: Literal["rake", "poststratify"] = Field(
        "rake", description="fit margins one by one, or the cells of a single joint margin"
    )
    trim: float | None = Field(5.0, gt=1, description="largest weight over the mean weight; null: no trimming")
    design_effect: float | None = Field(
        None, gt=1, description="trim to this design effect instead; null: trim as weighting.trim says"
    )


class GroupsConfig(Section):
    """Which groups get targets."""

    traits: tuple[str, ...] | None = Field(None, description="traits that form groups; null: all of the codebook")
    crossings: Literal[0, 1, 2] = Field(2, description="0: everyone only; 1: single traits; 2: also pairs")
    crossed: tuple[tuple[str, ...], ...] | None = Field(
        None, description="exactly these crossings, as in [[country], [country, sex]]; beats traits and crossings"
    )
    min_n_eff: float = Field(60.0, gt=0, description="smaller groups (effective respondents, all people) are left out")
    max_groups: int | None = Field(None, ge=1, description="keep the largest groups only")
    shrink: Shrink = Field(
        "everyone",
        description="what small groups' training targets are drawn towards (empirical Bayes): everyone, traits (a "
        "regression on the group's traits), or off",
    )


class SplitsConfig(Section):
    """Who and what is held out. People are split once; items, groups and cells are held out of training."""

    train: float = Field(0.5, gt=0, lt=1, description="share of the people whose answers make training targets")
    select: float = Field(0.25, gt=0, lt=1, description="share of the people behind the select part (gates, sweeps)")
    items: float = Field(0.25, ge=0, lt=1, description="share of the items held out")
    groups: float = Field(0.15, ge=0, lt=1, description="share of the groups held out (pairs of traits first)")
    cells: float = Field(0.15, ge=0, lt=1, description="share of the remaining (item, group) cells held out")
    waves: Texts = Field((), description="waves held out of training and judged on their own")
    near_duplicates: float = Field(
        0.9, gt=0, le=1, description="items whose words overlap this much are held out together; 1: the same words"
    )

    @model_validator(mode="after")
    def _room_for_report(self) -> SplitsConfig:
        if self.train + self.select >= 1:
            raise ValueError("train + select must leave people for the report part (sum below 1)")
        return self


class PromptsConfig(Section):
    """How questions are put: names of templates (docs/training.md)."""

    train: Texts = Field(("chat",), min_length=1, description="templates of training prompts; several are mixed")
    evaluate: Texts | None = Field(None, min_length=1, description="templates of evaluation; null: train's first")
    file: Path | None = Field(None, description="a YAML file of templates of your own, beside the built-in ones")
