"""Rokeach's eighteen terminal and eighteen instrumental values. People *rank* them; there is no circle."""

from __future__ import annotations

from valuealign.values.theory import Theory

TERMINAL = (
    "a-comfortable-life",
    "an-exciting-life",
    "a-sense-of-accomplishment",
    "a-world-at-peace",
    "a-world-of-beauty",
    "equality",
    "family-security",
    "freedom",
    "happiness",
    "inner-harmony",
    "mature-love",
    "national-security",
    "pleasure",
    "salvation",
    "self-respect",
    "social-recognition",
    "true-friendship",
    "wisdom",
)
INSTRUMENTAL = (
    "ambitious",
    "broadminded",
    "capable",
    "cheerful",
    "clean",
    "courageous",
    "forgiving",
    "helpful",
    "honest",
    "imaginative",
    "independent",
    "intellectual",
    "logical",
    "loving",
    "obedient",
    "polite",
    "responsible",
    "self-controlled",
)

ROKEACH = Theory(
    name="rokeach",
    title="Rokeach's terminal and instrumental values",
    source="Rokeach 1973, The Nature of Human Values",
    structure="list",
    values=(*TERMINAL, *INSTRUMENTAL),
    higher={"terminal": TERMINAL, "instrumental": INSTRUMENTAL},
)
