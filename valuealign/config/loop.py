"""The loop: what may train, how an update learns, and what a candidate must show. Limits are fixed here, beforehand."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from valuealign.config.section import Section
from valuealign.config.training import StageConfig


class GateConfig(Section):
    """What a candidate must show before it serves. Margins are fixed here, beforehand."""

    margin: float = Field(0.01, gt=0, description="non-inferiority margin of survey distance (JSD, bits) on select")
    group_margin: float | None = Field(
        None, gt=0, description="the same margin in the worst group; null: twice gate.margin"
    )
    dispersion: tuple[float, float] | None = Field(
        (0.9, 1.1), description="range of the entropy of survey answers over the stage-1 model's; null: any"
    )
    kl: float | None = Field(
        0.1, gt=0, description="largest mean KL from the stage-1 model (nats, survey options of select); null: any"
    )
    regression: Path | None = Field(
        None, description="file of marked answers or pairs that must get no worse; null: the built-in requests"
    )
    regression_margin: float | None = Field(
        0.1, ge=0, le=1, description="largest share of regression prompts that may be lost (lower bound); null: any"
    )
    corrected: float = Field(
        0.5, ge=0, le=1, description="least share of the corrected mistakes that are no longer made on their prompts"
    )
    paraphrased: float = Field(0.25, ge=0, le=1, description="the same on paraphrases of their prompts")
    held_out: float = Field(
        0.2, ge=0, le=1, description="largest share of held-out corrections that may be lost (lower bound)"
    )
    kept: float = Field(0.9, ge=0, le=1, description="least share of earlier corrections that are still kept")

    @model_validator(mode="after")
    def _range(self) -> GateConfig:
        if self.dispersion is not None and not 0 <= self.dispersion[0] < 1 < self.dispersion[1]:
            raise ValueError("dispersion takes (low, high) with 0 <= low < 1 < high")
        return self

    @property
    def worst(self) -> float:
        """The margin in the worst group, bits."""
        return 2 * self.margin if self.group_margin is None else self.group_margin


class IntakeConfig(Section):
    """What of the posted feedback may train (docs/loop.md). A share is of all that trained or would train."""

    agreement: int = Field(
        0, ge=0, description="raters (other keys, other persons) who must say the same to accept it; 0: reviewers only"
    )
    least: int = Field(3, ge=1, description="items that a voice, a key or an opinion may have whatever its share")
    person: float = Field(0.01, gt=0, le=1, description="largest share of one person (one key, if no person is named)")
    key: float = Field(0.5, gt=0, le=1, description="largest share of one key, where several keys posted")
    opinion: float = Field(0.05, gt=0, le=1, description="largest share of one opinion: the same text, or nearly")
    campaign: int = Field(5, ge=1, description="largest number of items of one campaign on prompts that are alike")
    alike: float = Field(
        0.8, gt=0, le=1, description="texts are near-duplicates where this much of their pieces overlaps (Jaccard)"
    )
    flood: int = Field(10, ge=2, description="this many items of one opinion within the window may be a flood")
    flood_share: float = Field(0.2, gt=0, le=1, description="and are one, if they are this share of what came in it")
    window_hours: float = Field(24.0, gt=0, description="the window in which a flood is looked for")

    @model_validator(mode="after")
    def _agreement(self) -> IntakeConfig:
        if self.agreement == 1:
            raise ValueError("agreement takes 2 raters or more, or 0: with 1 whoever posts would accept it too")
        return self


class UpdateConfig(StageConfig):
    """Learning from accepted feedback."""

    epochs: float = Field(60.0, gt=0, description="passes over the feedback cells")
    learning_rate: float = Field(5e-4, gt=0, description="peak of the schedule")
    cells_per_step: int = Field(32, ge=1, description="cells of an optimizer step, over all ranks (of the anchor too)")
    beta: float = Field(0.1, gt=0, description="KTO's beta for feedback")
    sft: float = Field(
        0.02, ge=0, description="weight of the corrected texts' likelihood: KTO alone saturates before they are said"
    )
    anchor: float = Field(8.0, ge=0, description="weight of the survey cells mixed in")
    shares: float = Field(1.0, gt=0, description="weight of corrections by shares, under the distribution loss")
    shares_cap: float = Field(100.0, gt=0, description="a correction by shares counts as so many people at most")
    min_items: int = Field(1, ge=1, description="accepted items needed to start an update")
    held_out: float = Field(
        0.1, ge=0, lt=1, description="share of the corrected prompts kept out of training, for the gate"
    )
    canary: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of requests that a promoted candidate serves first, as canary; 0: all at once",
    )
    rater_margins: Path | None = Field(
        None, description="CSV trait,level,share that raters are weighted to; null: the margins of the survey"
    )
    rater_trim: float = Field(5.0, gt=1, description="largest weight of a rater over the mean")
    intake: IntakeConfig = IntakeConfig()
