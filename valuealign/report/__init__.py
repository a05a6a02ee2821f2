"""The figures of an evaluation for people: a table for the terminal, one offline page with charts, JSON and CSV.

``words`` says what the figures say, ``table`` and ``charts`` show them, ``page`` puts it all together.
"""

from __future__ import annotations

from valuealign.report.charts import love_plot
from valuealign.report.page import write_love_plot, write_report, write_sweep
from valuealign.report.rectified import write_rectified
from valuealign.report.table import figures, print_sheets, print_table
from valuealign.report.words import findings, summary

__all__ = [
    "figures",
    "findings",
    "love_plot",
    "print_sheets",
    "print_table",
    "summary",
    "write_love_plot",
    "write_rectified",
    "write_report",
    "write_sweep",
]
