"""Schwartz's nineteen refined values in circle order, with the key of the PVQ-RR.

Values stand at equal steps around the circle. Three lie on a border between higher-order values:
hedonism, which the scoring instructions count to openness to change; face and humility, which are
counted to none.
"""

from __future__ import annotations

from valuealign.values.theory import Theory

SCHWARTZ19 = Theory(
    name="schwartz19",
    title="Schwartz's nineteen refined values",
    source="Schwartz et al. 2012, JPSP 103(4); PVQ-RR coding and analysis instructions 2021",
    structure="circle",
    values=(
        "self-direction-thought",
        "self-direction-action",
        "stimulation",
        "hedonism",
        "achievement",
        "power-dominance",
        "power-resources",
        "face",
        "security-personal",
        "security-societal",
        "tradition",
        "conformity-rules",
        "conformity-interpersonal",
        "humility",
        "benevolence-dependability",
        "benevolence-caring",
        "universalism-concern",
        "universalism-nature",
        "universalism-tolerance",
    ),
    higher={
        "openness-to-change": ("self-direction-thought", "self-direction-action", "stimulation", "hedonism"),
        "self-enhancement": ("achievement", "power-dominance", "power-resources"),
        "conservation": (
            "security-personal",
            "security-societal",
            "tradition",
            "conformity-rules",
            "conformity-interpersonal",
        ),
        "self-transcendence": (
            "benevolence-dependability",
            "benevolence-caring",
            "universalism-concern",
            "universalism-nature",
            "universalism-tolerance",
        ),
    },
    boundary={
        "hedonism": ("openness-to-change", "self-enhancement"),
        "face": ("self-enhancement", "conservation"),
        "humility": ("conservation", "self-transcendence"),
    },
    lengths={"PVQ-RR": 57},
    instruments={
        "PVQ-RR": {
            "self-direction-thought": (1, 23, 39),
            "self-direction-action": (16, 30, 56),
            "stimulation": (10, 28, 43),
            "hedonism": (3, 36, 46),
            "achievement": (17, 32, 48),
            "power-dominance": (6, 29, 41),
            "power-resources": (12, 20, 44),
            "face": (9, 24, 49),
            "security-personal": (13, 26, 53),
            "security-societal": (2, 35, 50),
            "tradition": (18, 33, 40),
            "conformity-rules": (15, 31, 42),
            "conformity-interpersonal": (4, 22, 51),
            "humility": (7, 38, 54),
            "universalism-nature": (8, 21, 45),
            "universalism-concern": (5, 37, 52),
            "universalism-tolerance": (14, 34, 57),
            "benevolence-caring": (11, 25, 47),
            "benevolence-dependability": (19, 27, 55),
        },
    },
)
