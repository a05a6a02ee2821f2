"""Answers and weights become targets: p(option | item, group) with n_eff and an interval."""

from __future__ import annotations

from valuealign.population.cells import membership, person_codes
from valuealign.population.centre import Centre, by_traits, choose_ridge, everyone, regress, relations
from valuealign.population.countries import Missing, missing_countries
from valuealign.population.floor import Floor, noise_floor
from valuealign.population.groups import find_groups, list_groups, population_shares
from valuealign.population.needed import GroupNeed, Needed, respondents_needed
from valuealign.population.sensitivity import self_report, styles, targets_with_and_without, with_and_without
from valuealign.population.table import (
    Repair,
    ShareTable,
    outcome_shares,
    repair,
    tabulate,
    truth_error,
)
from valuealign.population.targets import Shrunk, shrink, target_frame

__all__ = [
    "Centre",
    "Floor",
    "GroupNeed",
    "Missing",
    "Needed",
    "Repair",
    "ShareTable",
    "Shrunk",
    "by_traits",
    "choose_ridge",
    "everyone",
    "find_groups",
    "list_groups",
    "membership",
    "missing_countries",
    "noise_floor",
    "outcome_shares",
    "person_codes",
    "population_shares",
    "regress",
    "relations",
    "repair",
    "respondents_needed",
    "self_report",
    "shrink",
    "styles",
    "tabulate",
    "target_frame",
    "targets_with_and_without",
    "truth_error",
    "with_and_without",
]
