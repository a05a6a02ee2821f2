"""The schema of a run: one YAML file, overridden on the command line, unknown keys refused.

Every key has a default, so an empty file is a complete run on the embedded population. A key is
written ``section.name``; ``python jobs/align.py kto.beta=0.2`` overrides one. ``describe()``
prints them all and is what ``--help`` shows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from valuealign.errors import ConfigError, nearest


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


class ModelConfig(Section):
    """The base model, and what of it trains."""

    path: str = Field("seed", description="'seed' (made by the project) or a Hugging Face model folder")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of weights and activations")
    train: Literal["lora", "full"] = Field("lora", description="what trains: a LoRA adapter, or all weights")
    lora_r: int = Field(16, ge=1, description="rank of the LoRA adapters")
    lora_alpha: float = Field(32.0, gt=0, description="scale of the LoRA adapters")


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


class KtoConfig(StageConfig):
    """Stage 2: behaviour that people marked desirable or undesirable (Ethayarajh et al. 2024)."""

    epochs: float = Field(20.0, gt=0, description="passes over the behaviour cells")
    learning_rate: float = Field(5e-4, gt=0, description="peak of the schedule (warm-up, then cosine)")
    beta: float = Field(0.1, gt=0, description="how fast value saturates; small strays further from the reference")
    lambda_d: float = Field(1.0, gt=0, description="weight of desirable answers")
    lambda_u: float = Field(1.0, gt=0, description="weight of undesirable answers")
    lambda_range: tuple[float, float] = Field(
        (1.0, 4 / 3),
        description="guidance on lambda_d n_d / (lambda_u n_u): KTO paper v1; later versions print 1 to 1.5",
    )
    z0: Literal["auto", "mismatched", "options", "none"] = Field(
        "auto", description="auto: options on closed sets, mismatched on open answers"
    )
    negatives: Literal["human", "policy"] = Field(
        "human", description="undesirable mass of survey cells: what people did not choose, or the model's own shares"
    )
    feedback: Path | None = Field(None, description="JSON lines of prompt, completion, label; null: the embedded one")
    on: Literal["behaviour", "survey"] = Field(
        "behaviour", description="train on behaviour cells or (an experiment) survey cells"
    )
    anchor: float = Field(3.0, ge=0, description="weight of the survey cells mixed in under the distribution loss")
    holdout: float = Field(
        0.3, gt=0, lt=1, description="share of the feedback's prompts held out (half select, half report)"
    )


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
    weight_decay: float = Field(0.1, ge=0, description="AdamW's pull of the adapter towards the base model")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps that warm up")
    checkpoint_every: int = Field(50, ge=1, description="steps between checkpoints")
    max_failures: int = Field(2, ge=0, description="worker failures to recover from")


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
    stages: tuple[Literal["distribution", "kto"], ...] = Field(
        ("distribution", "kto"), min_length=1, description="what align runs, in order"
    )
    survey: SurveyConfig = SurveyConfig()
    screens: ScreensConfig = ScreensConfig()
    weighting: WeightingConfig = WeightingConfig()
    groups: GroupsConfig = GroupsConfig()
    splits: SplitsConfig = SplitsConfig()
    model: ModelConfig = ModelConfig()
    distribution: DistributionConfig = DistributionConfig()
    kto: KtoConfig = KtoConfig()
    train: TrainConfig = TrainConfig()
    sweep: SweepConfig = SweepConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    gate: GateConfig = GateConfig()
    update: UpdateConfig = UpdateConfig()
    serve: ServeConfig = ServeConfig()

    @model_validator(mode="after")
    def _order(self) -> RunConfig:
        if self.stages not in (("distribution",), ("kto",), ("distribution", "kto")):
            raise ValueError("stages takes [distribution], [distribution, kto] or, as an experiment, [kto]")
        return self


def home() -> Path:
    """Where valuealign keeps what it makes: ``$VALUEALIGN_HOME``, else ``~/.valuealign``."""
    return Path(os.environ.get("VALUEALIGN_HOME") or Path.home() / ".valuealign").absolute()


def load(path: Path | str | None = None, overrides: Sequence[str] = ()) -> RunConfig:
    """The run of a YAML file (or of the defaults) with ``section.key=value`` overrides applied.

    Values are read as YAML. Paths in a file are relative to the file, on the command line to the
    working directory; both become absolute. Raises ConfigError naming file, key and the mend.
    """
    tree: dict[str, Any] = {}
    where = "command line"
    if path is not None:
        where = str(path)
        tree = _read(Path(path))
        _anchor_paths(tree, RunConfig, Path(path).absolute().parent)
    for override in overrides:
        _apply(tree, override)
    return _validate(tree, where)


def describe() -> str:
    """Every key with its default and meaning, one a line."""
    return "\n".join(f"  {key:28} {default!s:22} {text}" for key, default, text in _keys(RunConfig))


def dump(config: RunConfig) -> str:
    """The resolved run as YAML that ``load`` reads back to an equal run."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read the configuration ({error.strerror})", where=str(path), mend="name an existing YAML file"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError("the configuration is not UTF-8 text", where=str(path), mend="save it as UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(
            f"not valid YAML: {getattr(error, 'problem', error)}",
            where=f"{path}{line}",
            mend="check indentation and colons",
        ) from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError("a configuration is a mapping of sections", where=str(path), mend="write 'section:' lines")
    return tree


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"'{override}' is no override", where="command line", mend="write section.key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(
            f"cannot read the value of '{key}'", where="command line", mend="quote it as in YAML"
        ) from None
    *sections, name = key.split(".")
    node = tree
    schema: type[Section] = RunConfig
    for section in sections:
        if section not in schema.model_fields:
            raise ConfigError(f"unknown key '{key}'", where="command line", mend=_nearest_key(key))
        inner = node.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"'{section}' is no section", where="command line", mend=_nearest_key(key))
        node, schema = inner, _section(schema, section)
    if name not in schema.model_fields:
        raise ConfigError(f"unknown key '{key}'", where="command line", mend=_nearest_key(key))
    if key == "model.path" and isinstance(value, str) and Path(value).is_dir():
        value = str(Path(value).absolute())
    node[name] = str(Path(value).absolute()) if _is_path(schema, name) and isinstance(value, str) else value


def _section(schema: type[Section], name: str) -> type[Section]:
    kind = schema.model_fields[name].annotation
    if isinstance(kind, type) and issubclass(kind, Section):
        return kind
    raise ConfigError(f"'{name}' has no keys of its own", where="command line", mend=f"write {name}=value")


def _is_path(schema: type[Section], name: str) -> bool:
    field = schema.model_fields.get(name)
    return field is not None and "Path" in str(field.annotation)


def _anchor_paths(tree: dict[str, Any], schema: type[Section], base: Path) -> None:
    """Make the relative paths of a file absolute, seen from the file's folder."""
    for name, value in tree.items():
        if isinstance(value, dict) and name in schema.model_fields:
            kind = schema.model_fields[name].annotation
            if isinstance(kind, type) and issubclass(kind, Section):
                _anchor_paths(value, kind, base)
        elif isinstance(value, str) and _is_path(schema, name):
            tree[name] = str((base / value).absolute())
    model = tree.get("model") if schema is RunConfig else None
    if isinstance(model, dict) and isinstance(model.get("path"), str) and (base / model["path"]).is_dir():
        model["path"] = str((base / model["path"]).absolute())


def _validate(tree: dict[str, Any], where: str) -> RunConfig:
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"unknown key '{key}'", where=where, mend=_nearest_key(key)) from None
        raise ConfigError(
            f"'{key}': {first['msg'].lower()}" if key else first["msg"],
            where=where,
            mend=f"got {first['input']!r}; see --help for what the key takes",
        ) from None


def _nearest_key(key: str) -> str:
    known = [name for name, _, _ in _keys(RunConfig)]
    last = key.rsplit(".", 1)[-1]
    same_name = [name for name in known if name.rsplit(".", 1)[-1] == last]
    return f"did you mean '{same_name[0]}'?" if same_name else nearest(key, known)


def _keys(schema: type[Section], prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    for name, field in schema.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from _keys(kind, f"{prefix}{name}.")
        else:
            default = list(field.default) if isinstance(field.default, tuple) else field.default
            shown = yaml.safe_dump(default).split("\n")[0] if default is None or isinstance(default, bool) else default
            yield f"{prefix}{name}", shown, field.description or ""
