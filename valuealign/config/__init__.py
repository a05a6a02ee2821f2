"""The schema of a run (``data``, ``training``, and the whole in ``schema``) and how it is read (``read``)."""

from valuealign.config.data import (
    GroupsConfig,
    PromptsConfig,
    ScreensConfig,
    SplitsConfig,
    SurveyConfig,
    WeightingConfig,
)
from valuealign.config.loop import GateConfig, IntakeConfig, UpdateConfig
from valuealign.config.read import describe, differences, dump, dump_identity, home, keys, load, with_keys
from valuealign.config.schema import EvaluateConfig, RunConfig, ServeConfig
from valuealign.config.section import Section, Shrink
from valuealign.config.training import (
    Axis,
    DistributionConfig,
    DpoConfig,
    FeedbackConfig,
    KtoConfig,
    ModelConfig,
    PreferenceConfig,
    SearchSpace,
    SftConfig,
    StageConfig,
    SweepConfig,
    TrainConfig,
)

__all__ = [
    "Axis",
    "DistributionConfig",
    "DpoConfig",
    "EvaluateConfig",
    "FeedbackConfig",
    "GateConfig",
    "GroupsConfig",
    "IntakeConfig",
    "KtoConfig",
    "ModelConfig",
    "PreferenceConfig",
    "PromptsConfig",
    "RunConfig",
    "ScreensConfig",
    "SearchSpace",
    "Section",
    "ServeConfig",
    "Shrink",
    "SftConfig",
    "SplitsConfig",
    "StageConfig",
    "SurveyConfig",
    "SweepConfig",
    "TrainConfig",
    "UpdateConfig",
    "WeightingConfig",
    "describe",
    "differences",
    "dump",
    "dump_identity",
    "home",
    "keys",
    "load",
    "with_keys",
]
