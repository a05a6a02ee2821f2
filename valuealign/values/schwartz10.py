"""Schwartz's ten basic values (Schwartz 1992) with the keys of the questionnaires that measure them.

Item numbers are those of the published scoring instructions. In the PVQ-21 as the European Social
Survey fields it, code 1 is "very much like me": give its options falling positions, or ``reversed``.

Values stand at equal steps around the circle. Tradition and conformity share a wedge in the theory
(tradition outside); here they stand side by side. Hedonism has something of openness to change and
of self-enhancement; the scoring instructions count it to the former.
"""

from __future__ import annotations

from valuealign.values.theory import Theory

SCHWARTZ10 = Theory(
    name="schwartz10",
    title="Schwartz's ten basic values",
    source="Schwartz 1992, Advances in Experimental Social Psychology 25; PVQ-21, PVQ-40 and SVS scoring instructions",
    structure="circle",
    values=(
        "self-direction",
        "stimulation",
        "hedonism",
        "achievement",
        "power",
        "security",
        "conformity",
        "tradition",
        "benevolence",
        "universalism",
    ),
    higher={
        "self-transcendence": ("universalism", "benevolence"),
        "self-enhancement": ("achievement", "power"),
        "openness-to-change": ("self-direction", "stimulation", "hedonism"),
        "conservation": ("security", "conformity", "tradition"),
    },
    boundary={"hedonism": ("openness-to-change", "self-enhancement")},
    # The SVS is centred on all its items; eleven are keyed to no value.
    lengths={"PVQ-21": 21, "PVQ-40": 40, "SVS-57": 57},
    instruments={
        "PVQ-21": {
            "conformity": (7, 16),
            "tradition": (9, 20),
            "benevolence": (12, 18),
            "universalism": (3, 8, 19),
            "self-direction": (1, 11),
            "stimulation": (6, 15),
            "hedonism": (10, 21),
            "achievement": (4, 13),
            "power": (2, 17),
            "security": (5, 14),
        },
        "PVQ-40": {
            "conformity": (7, 16, 28, 36),
            "tradition": (9, 20, 25, 38),
            "benevolence": (12, 18, 27, 33),
            "universalism": (3, 8, 19, 23, 29, 40),
            "self-direction": (1, 11, 22, 34),
            "stimulation": (6, 15, 30),
            "hedonism": (10, 26, 37),
            "achievement": (4, 13, 24, 32),
            "power": (2, 17, 39),
            "security": (5, 14, 21, 31, 35),
        },
        "SVS-57": {
            "conformity": (11, 20, 40, 47),
            "tradition": (18, 32, 36, 44, 51),
            "benevolence": (33, 45, 49, 52, 54),
            "universalism": (1, 17, 24, 26, 29, 30, 35, 38),
            "self-direction": (5, 16, 31, 41, 53),
            "stimulation": (9, 25, 37),
            "hedonism": (4, 50, 57),
            "achievement": (34, 39, 43, 55),
            "power": (3, 12, 27, 46),
            "security": (8, 13, 15, 22, 56),
        },
    },
)
