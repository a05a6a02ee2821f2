"""The schema of a run: every key has a default, so an empty file is a complete run on the embedded population."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _yaml_off(value: object) -> object:
    """YAML reads a bare ``off`` as false."""
    return "off" if value is False else value


def _texts(value: object) -> object:
    """A single value is a list of one, and a number in a list of names is a name."""
    if isinstance(value, str | int) and not isinstance(value, bool):
        value = [value]
    if isinstance(value, list | tuple):
        return [str(one) if isinstance(one, int) and not isinstance(one, bool) else one for one in value]
    return value


Lambda = Annotated[float, Field(gt=0)] | Literal["auto"]
Texts = Annotated[tuple[str, ...], BeforeValidator(_texts)]
Screen = Annotated[Literal["off", "flag", "drop"], BeforeValidator(_yaml_off)]


class Section(BaseModel):
    """A frozen part of the configuration that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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
    shrink: bool = Field(True, description="draw small groups' training targets towards everyone (empirical Bayes)")


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


class ModelConfig(Section):
    """The base model, and what of it trains."""

    path: str = Field("seed", description="'seed' (made by the project) or a Hugging Face model folder")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of weights and activations")
    quantize: Literal["none", "nf4"] = Field(
        "none", description="the frozen base in 4 bits (QLoRA: NF4, scales quantized too), by bitsandbytes"
    )
    train: Literal["lora", "full"] = Field("lora", description="what trains: a LoRA adapter, or all weights")
    lora_r: int = Field(16, ge=1, description="rank of the LoRA adapters")
    lora_alpha: float = Field(32.0, gt=0, description="scale of the LoRA adapters")
    chat_template_kwargs: dict[str, bool | int | float | str] = Field(
        {}, description="arguments of the model's chat template, as in {enable_thinking: false}"
    )

    @model_validator(mode="after")
    def _frozen(self) -> ModelConfig:
        if self.quantize != "none" and self.train == "full":
            raise ValueError("quantize is for a base that stays as it is: all weights cannot train in 4 bits")
        return self


class StageConfig(Section):
    """What every training stage has."""

    epochs: float = Field(40.0, gt=0, description="passes over the stage's cells")
    learning_rate: float = Field(4e-3, gt=0, description="peak of the schedule (warm-up, then cosine)")
    cells_per_step: int = Field(32, ge=1, description="cells of an optimizer step, over all ranks")


class DistributionConfig(StageConfig):
    """Stage 1: the model's shares become the people's shares."""

    distance: Literal["kl", "wasserstein"] = Field("kl", description="the loss between shares")
    weigh: Literal["n_eff", "equal", "mass"] = Field("n_eff", description="how cells weigh against each other")
    shrink: float = Field(50.0, ge=0, description="weigh n_eff: a cell weighs n_eff / (n_eff + shrink)")
    raw_mass: float = Field(0.1, ge=0, description="weight of -log(probability that falls on the options at all)")


class FeedbackConfig(Section):
    """Answers that people judged: what stages sft, dpo and kto learn from (docs/feedback-files.md)."""

    file: Path | None = Field(
        None, description="marked answers or pairs (JSON lines, Parquet, CSV); null: the embedded survey's own"
    )
    rater_margins: Path | None = Field(
        None, description="CSV trait,level,share: the feedback's raters are weighted to it; null: all alike"
    )
    rater_traits: Texts = Field((), description="columns of the feedback that hold traits of its raters")
    holdout: float = Field(
        0.3, gt=0, lt=1, description="share of the feedback's prompts held out (half select, half report)"
    )


class PreferenceConfig(StageConfig):
    """What the stages on people's judgements of answers have in common."""

    epochs: float = Field(20.0, gt=0, description="passes over the stage's cells")
    learning_rate: float = Field(5e-4, gt=0, description="peak of the schedule (warm-up, then cosine)")
    on: Literal["behaviour", "survey"] = Field(
        "behaviour", description="train on behaviour cells or (an experiment) survey cells"
    )
    anchor: float = Field(3.0, ge=0, description="weight of the survey cells mixed in under the distribution loss")


class SftConfig(PreferenceConfig):
    """The likelihood of desirable answers (supervised fine-tuning)."""


class DpoConfig(PreferenceConfig):
    """Desirable answers against undesirable ones of the same prompt (Rafailov et al. 2023)."""

    beta: float = Field(0.1, gt=0, description="strength of the pull towards the reference")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="share of the pairs taken to be the wrong way round")
    reference_free: bool = Field(
        False, description="a uniform reference in place of the model that the stage starts from"
    )


class KtoConfig(PreferenceConfig):
    """Stage 2: behaviour that people marked desirable or undesirable (Ethayarajh et al. 2024)."""

    beta: float = Field(0.1, gt=0, description="how fast value saturates; small strays further from the reference")
    lambda_d: Lambda = Field(1.0, description="weight of desirable answers; auto: picked so that the rule holds")
    lambda_u: Lambda = Field(1.0, description="weight of undesirable answers; auto: picked so that the rule holds")
    lambda_range: tuple[float, float] = Field(
        (1.0, 4 / 3),
        description="guidance on lambda_d n_d / (lambda_u n_u): KTO paper v1; later versions print 1 to 1.5",
    )
    z0: Literal["auto", "mismatched", "options", "none", "parity"] = Field(
        "auto", description="auto: options on closed sets, mismatched on open answers; parity: as TRL, for comparison"
    )
    parity_rows: int | None = Field(
        None, ge=2, description="z0 parity: rows of a block, TRL's per_device_train_batch_size"
    )
    negatives: Literal["human", "policy"] = Field(
        "human", description="undesirable mass of survey cells: what people did not choose, or the model's own shares"
    )
    reference_free: bool = Field(
        False, description="a uniform reference in place of the model that the stage starts from"
    )

    @model_validator(mode="after")
    def _consistent(self) -> KtoConfig:
        low, high = self.lambda_range
        if not 0 < low <= high:
            raise ValueError("lambda_range takes (low, high) with 0 < low <= high")
        if (self.z0 == "parity") != (self.parity_rows is not None):
            raise ValueError("z0: parity and parity_rows (rows of a block) go together")
        if self.parity_rows is not None and self.cells_per_step % self.parity_rows:
            raise ValueError("with z0: parity cells_per_step counts rows, and is a multiple of parity_rows")
        return self


class TrainConfig(Section):
    """How training runs."""

    workers: int = Field(2, ge=1, description="Ray Train workers")
    cpus_per_worker: float = Field(0.5, gt=0, description="CPUs reserved for each worker")
    gpus_per_worker: float = Field(0.0, ge=0, description="GPUs reserved for each worker")
    zero: Literal[0, 1, 2, 3] = Field(2, description="DeepSpeed ZeRO stage")
    offload: Literal["none", "optimizer"] = Field(
        "none", description="ZeRO: keep optimizer states in the host's memory"
    )
    recompute: bool = Field(
        False, description="recompute activations in the backward pass: less memory, one more forward"
    )
    token_budget: int = Field(4096, ge=64, description="tokens of a micro-batch, padding included")
    clip: float = Field(1.0, gt=0, description="largest gradient norm")
    weight_decay: float = Field(
        0.1, ge=0, description="AdamW's pull of what trains towards 0 (an adapter's 0 is the base model)"
    )
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps that warm up")
    checkpoint_every: int = Field(50, ge=1, description="steps between checkpoints")
    max_failures: int = Field(2, ge=0, description="worker failures to recover from")

    @model_validator(mode="after")
    def _offload(self) -> TrainConfig:
        if self.offload != "none" and not self.zero:
            raise ValueError("offload needs train.zero 1, 2 or 3")
        return self


class SearchSpace(Section):
    """Ranges of the sweep; each is (low, high), beta on a log scale."""

    beta: tuple[float, float] = Field((0.02, 0.5), description="log-uniform")
    lambda_d: tuple[float, float] = Field((0.7, 1.5), description="uniform")
    lambda_u: tuple[float, float] = Field((0.7, 1.5), description="uniform")

    @model_validator(mode="after")
    def _ranges(self) -> SearchSpace:
        for name, (low, high) in self:
            if not 0 < low < high:
                raise ValueError(f"{name} takes (low, high) with 0 < low < high")
        return self


class SweepConfig(Section):
    """The sweep over KTO's hyperparameters."""

    trials: int = Field(4, ge=1, description="how many settings are tried")
    concurrent: int = Field(2, ge=1, description="trials at a time")
    margin: float = Field(
        0.01, gt=0, description="largest loss of survey distance (JSD, bits) on select that keeps a trial feasible"
    )
    reports: int = Field(4, ge=1, description="evaluations during a trial; ASHA may stop it at each")
    space: SearchSpace = SearchSpace()


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


class GateConfig(Section):
    """What a candidate must show before it serves. Margins are fixed here, beforehand."""

    margin: float = Field(0.01, gt=0, description="non-inferiority margin of survey distance (JSD, bits) on select")


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
    min_items: int = Field(1, ge=1, description="accepted items needed to start an update")


class ServeConfig(Section):
    """The service."""

    host: str = Field("127.0.0.1", description="address to bind; loopback by default")
    port: int = Field(8000, ge=1, le=65535, description="HTTP port")
    replicas: int = Field(1, ge=1, description="model replicas")
    cpus: float = Field(0.5, gt=0, description="CPUs of a replica")
    gpus: float = Field(0.0, ge=0, description="GPUs of a replica")
    max_tokens: int = Field(64, ge=1, description="largest answer a request may ask for")


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
