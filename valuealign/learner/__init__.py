"""The offline loop: what a stage trains (``terms``), and how (``loop``)."""

from valuealign.learner.loop import learn, learning_rate
from valuealign.learner.terms import (
    Stage,
    Term,
    distribution_term,
    dpo_term,
    kto_term,
    mismatched_cells,
    pick_lambdas,
    plan_stages,
    preference_term,
    update_stage,
)

__all__ = [
    "Stage",
    "Term",
    "distribution_term",
    "dpo_term",
    "kto_term",
    "learn",
    "learning_rate",
    "mismatched_cells",
    "pick_lambdas",
    "plan_stages",
    "preference_term",
    "update_stage",
]
