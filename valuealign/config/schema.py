"""The schema of a run: every key has a default, so an empty file is a complete run on the embedded population."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from valuealign.config.data import (
    GroupsConfig,
    PromptsConfig,
    ScreensConfig,
    SplitsConfig,
    SurveyConfig,
    WeightingConfig,
)
from valuealign.config.loop import GateConfig, UpdateConfig
from valuealign.config.section import Section, Texts
from valuealign.config.training import (
    DistributionConfig,
    DpoConfig,
    FeedbackConfig,
    KtoConfig,
    ModelConfig,
    PreferenceConfig,
    SftConfig,
    SweepConfig,
    TrainConfig,
)


class EvaluateConfig(Section):
    """How figures are made."""

    bootstrap: int = Field(200, ge=20, description="resamples behind intervals and the noise floor")
    readouts: Texts = Field(
        (), description="further ways to read answers: letters, per_byte, orders, declined, sampled, verbalised"
    )
    sheets: Texts = Field(
        ("probes", "harmful", "neutral"),
        description="what is asked beside the survey: probes, harmful, neutral, format, generations",
    )
    probes: Path | None = Field(None, description="YAML of scenario probes of your own; null: the built-in ones")
    requests: Path | None = Field(
        None, description="file of prompt and harmful (true or false); null: the built-in ones"
    )
    texts: Path | None = Field(None, description="plain text whose cost is measured; null: the built-in paragraphs")
    judge_url: str | None = Field(None, description="generations: a judge model's address (OpenAI-compatible)")
    judge_model: str = Field("judge", description="generations: the judge model's name")
    samples: int = Field(
        0, ge=0, description="answers drawn of each open prompt for the distance from the base; 0: none"
    )

    @model_validator(mode="after")
    def _no_secrets(self) -> EvaluateConfig:
        place = (self.judge_url or "").partition("://")[2]
        if "@" in place.partition("/")[0] or "?" in place:
            raise ValueError("judge_url takes no user, password or query: reports show it; set VALUEALIGN_JUDGE_KEY")
        return self


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class ServeConfig(Section):
    """The service."""

    host: str = Field("127.0.0.1", description="address to bind; loopback by default")
    port: int = Field(8000, ge=1, le=65535, description="HTTP port")
    replicas: int = Field(1, ge=1, description="model replicas; with max_replicas the fewest")
    max_replicas: int | None = Field(
        None, ge=1, description="most replicas: Ray Serve adds and removes them by load; null: always as many"
    )
    max_batch: int = Field(32, ge=1, description="chats that a replica answers at once, in one forward")
    queue: int = Field(
        128, ge=1, description="requests that may wait for a replica's model; more are refused with 503 and Retry-After"
    )
    cpus: float = Field(0.5, gt=0, description="CPUs of a replica")
    gpus: float = Field(
        0.0, ge=0, description="GPUs of a replica; over 1, a whole number: they share the layers of one model"
    )
    max_tokens: int = Field(64, ge=1, description="largest answer a request may ask for")
    auth: bool = Field(True, description="ask for API keys; false only on loopback")
    per_minute: int | None = Field(
        None, ge=1, description="requests a minute of a key without a limit of its own; null: no limit"
    )
    token_hours: int = Field(24, ge=1, description="how long an answer may be judged by its token, without a key")
    open_metrics: bool = Field(True, description="whether /metrics answers without a key")
    origins: Texts = Field((), description="web pages (https://example.org) whose scripts may ask and judge")

    @model_validator(mode="after")
    def _no_open_house(self) -> ServeConfig:
        if not self.auth and not _is_loopback(self.host):
            raise ValueError(f"serve.auth=false lets anybody who reaches {self.host} do anything: keep it on")
        return self

    @model_validator(mode="after")
    def _whole_gpus(self) -> ServeConfig:
        if self.gpus > 1 and self.gpus % 1:
            raise ValueError("gpus over 1 must be a whole number")
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError("max_replicas must not be less than replicas")
        return self


class RunConfig(Section):
    """One run. See the sections for what each key does."""

    name: str = Field("demo", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="names the run and its model family")
    seed: int = Field(0, ge=0, description="of everything random")
    stages: tuple[Literal["distribution", "sft", "dpo", "kto"], ...] = Field(
        ("distribution", "kto"), min_length=1, description="what align runs, in order"
    )
    survey: SurveyConfig = SurveyConfig()
    screens: ScreensConfig = ScreensConfig()
    weighting: WeightingConfig = WeightingConfig()
    groups: GroupsConfig = GroupsConfig()
    splits: SplitsConfig = SplitsConfig()
    prompts: PromptsConfig = PromptsConfig()
    model: ModelConfig = ModelConfig()
    distribution: DistributionConfig = DistributionConfig()
    feedback: FeedbackConfig = FeedbackConfig()
    sft: SftConfig = SftConfig()
    dpo: DpoConfig = DpoConfig()
    kto: KtoConfig = KtoConfig()
    train: TrainConfig = TrainConfig()
    sweep: SweepConfig = SweepConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    gate: GateConfig = GateConfig()
    update: UpdateConfig = UpdateConfig()
    serve: ServeConfig = ServeConfig()

    @model_validator(mode="after")
    def _order(self) -> RunConfig:
        if len(set(self.stages)) < len(self.stages) or "distribution" in self.stages[1:]:
            raise ValueError("stages takes each of sft, dpo, kto at most once, after distribution if that is there")
        if self.model.quantize != "none" and self.train.zero == 3:
            raise ValueError("train.zero 3 cannot shard weights that model.quantize has packed: take 0, 1 or 2")
        return self

    @property
    def preferences(self) -> dict[str, PreferenceConfig]:
        """The stages of the run that learn from people's judgements of answers, in order."""
        return {name: getattr(self, name) for name in self.stages if name != "distribution"}
