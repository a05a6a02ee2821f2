"""What is trained, on what, and how: the model, the stages, the feedback, the sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from valuealign.config.section import Section, Texts, texts

Lambda = Annotated[float, Field(gt=0)] | Literal["auto"]
Trackers = Annotated[tuple[Literal["tensorboard", "mlflow", "wandb"], ...], BeforeValidator(texts)]


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
    log_to: Trackers = Field(
        ("tensorboard",), description="who keeps the curves of a training: tensorboard, mlflow, wandb; []: none"
    )

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        if self.offload != "none" and not self.zero:
            raise ValueError("offload needs train.zero 1, 2 or 3")
        if len(set(self.log_to)) < len(self.log_to):
            raise ValueError("log_to names each tracker once")
        return self


class Axis(Section):
    """What a key is drawn from: between ``low`` and ``high`` (evenly, or in its logarithm), or one of ``choices``."""

    low: float | None = Field(None, description="smallest value")
    high: float | None = Field(None, description="largest value")
    log: bool = Field(False, description="drawn evenly in the logarithm")
    choices: tuple[bool | int | float | str, ...] = Field((), description="the values themselves")

    @model_validator(mode="after")
    def _one_kind(self) -> Axis:
        if bool(self.choices) == (self.low is not None or self.high is not None):
            raise ValueError("takes either choices or low and high")
        if not self.choices and (self.low is None or self.high is None or not self.low < self.high):
            raise ValueError("takes low and high, low < high")
        if self.log and (self.low is None or self.low <= 0):
            raise ValueError("log takes low > 0")
        return self

    @property
    def span(self) -> tuple[float, float] | None:
        """``low`` and ``high``; None where there are choices."""
        return None if self.low is None or self.high is None else (self.low, self.high)


class SearchSpace(Section):
    """Ranges of the sweep; each is (low, high), beta on a log scale."""

    beta: tuple[float, float] = Field((0.02, 0.5), description="log-uniform")
    lambda_d: tuple[float, float] = Field((0.7, 1.5), description="uniform")
    lambda_u: tuple[float, float] = Field((0.7, 1.5), description="uniform")
    also: dict[str, Axis] = Field(
        {}, description="further keys of kto, distribution or train, each {low, high, log} or {choices}"
    )

    @model_validator(mode="after")
    def _ranges(self) -> SearchSpace:
        for name in ("beta", "lambda_d", "lambda_u"):
            low, high = getattr(self, name)
            if not 0 < low < high:
                raise ValueError(f"{name} takes (low, high) with 0 < low < high")
            if f"kto.{name}" in self.also:
                raise ValueError(f"kto.{name} has a range of its own: set {name}")
        return self

    @property
    def axes(self) -> dict[str, Axis]:
        """What every key is drawn from, by ``section.key``."""
        return {
            f"kto.{name}": Axis(low=low, high=high, log=name == "beta")
            for name, (low, high) in (("beta", self.beta), ("lambda_d", self.lambda_d), ("lambda_u", self.lambda_u))
        } | self.also


class SweepConfig(Section):
    """The sweep over KTO's hyperparameters."""

    trials: int = Field(4, ge=1, description="how many settings are tried")
    workers: int | Literal["auto"] = Field(
        "auto", description="workers of a trial; auto: one where a trial fits on one GPU, else all GPUs under ZeRO 3"
    )
    concurrent: int | Literal["auto"] = Field(
        "auto", description="trials at a time; auto: as many as the GPUs hold, two where there are none"
    )
    sampler: Literal["tpe", "random"] = Field("tpe", description="who draws settings: Optuna's TPE, or chance")
    objective: Literal[
        "auc",
        "jsd_bits",
        "wasserstein",
        "total_variation",
        "mode_accuracy",
        "dispersion",
        "dispersion_variance",
        "calibration_slope",
    ] = Field("auc", description="what feasible trials are ranked by, on select: behaviour (auc), or a survey figure")
    margin: float | None = Field(
        0.01, gt=0, description="largest loss of survey distance (JSD, bits) on select of a feasible trial; null: any"
    )
    dispersion: tuple[float, float] | None = Field(
        None, description="range of the dispersion ratio on select of a feasible trial; null: any"
    )
    kl: float | None = Field(
        None, gt=0, description="largest mean KL from stage 1 (nats, survey options of select); null: any"
    )
    reports: int = Field(8, ge=1, description="evaluations during a trial; the scheduler may stop it at some")
    scheduler: Literal["asha", "none"] = Field("asha", description="who stops weak trials early: ASHA, or nobody")
    reduction: int = Field(
        2, ge=2, description="ASHA looks after 1, reduction, reduction^2, ... reports; about 1 in so many goes on"
    )
    space: SearchSpace = SearchSpace()

    @model_validator(mode="after")
    def _range(self) -> SweepConfig:
        for key in ("workers", "concurrent"):
            number = getattr(self, key)
            if number != "auto" and number < 1:
                raise ValueError(f"{key} takes auto, or a number of at least 1")
        if self.dispersion is not None and not 0 <= self.dispersion[0] < self.dispersion[1]:
            raise ValueError("dispersion takes (low, high) with 0 <= low < high")
        return self
