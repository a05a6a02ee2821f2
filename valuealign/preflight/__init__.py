"""Before a long run: checks of this box that pass, fail with the mend, or are skipped and say why."""

from valuealign.preflight.checks import CHECKS
from valuealign.preflight.outcome import Check, Outcome, Skip, examine, failed, record, table
from valuealign.preflight.packages import read_pins
from valuealign.preflight.site import Service, Site

__all__ = ["CHECKS", "Check", "Outcome", "Service", "Site", "Skip", "examine", "failed", "read_pins", "record", "table"]
