"""Kiesel et al.'s 54 values in 20 categories. They tag items and texts; no questionnaire scores people on them."""

from __future__ import annotations

from valuealign.values.theory import Theory

CATEGORIES = {
    "self-direction-thought": (
        "be-creative",
        "be-curious",
        "have-freedom-of-thought",
    ),
    "self-direction-action": (
        "be-choosing-own-goals",
        "be-independent",
        "have-freedom-of-action",
        "have-privacy",
    ),
    "stimulation": (
        "have-an-exciting-life",
        "have-a-varied-life",
        "be-daring",
    ),
    "hedonism": ("have-pleasure",),
    "achievement": (
        "be-ambitious",
        "have-success",
        "be-capable",
        "be-intellectual",
        "be-courageous",
    ),
    "power-dominance": (
        "have-influence",
        "have-the-right-to-command",
    ),
    "power-resources": ("have-wealth",),
    "face": (
        "have-social-recognition",
        "have-a-good-reputation",
    ),
    "security-personal": (
        "have-a-sense-of-belonging",
        "have-good-health",
        "have-no-debts",
        "be-neat-and-tidy",
        "have-a-comfortable-life",
    ),
    "security-societal": (
        "have-a-safe-country",
        "have-a-stable-society",
    ),
    "tradition": (
        "be-respecting-traditions",
        "be-holding-religious-faith",
    ),
    "conformity-rules": (
        "be-compliant",
        "be-self-disciplined",
        "be-behaving-properly",
    ),
    "conformity-interpersonal": (
        "be-polite",
        "be-honoring-elders",
    ),
    "humility": (
        "be-humble",
        "have-life-accepted-as-is",
    ),
    "benevolence-caring": (
        "be-helpful",
        "be-honest",
        "be-forgiving",
        "have-the-own-family-secured",
        "be-loving",
    ),
    "benevolence-dependability": (
        "be-responsible",
        "have-loyalty-towards-friends",
    ),
    "universalism-concern": (
        "have-equality",
        "be-just",
        "have-a-world-at-peace",
    ),
    "universalism-nature": (
        "be-protecting-the-environment",
        "have-harmony-with-nature",
        "have-a-world-of-beauty",
    ),
    "universalism-tolerance": (
        "be-broadminded",
        "have-the-wisdom-to-accept-others",
    ),
    "universalism-objectivity": (
        "be-logical",
        "have-an-objective-view",
    ),
}

KIESEL = Theory(
    name="kiesel",
    title="Fifty-four values behind arguments, in twenty categories",
    source="Kiesel et al. 2022, ACL, Identifying the Human Values behind Arguments",
    structure="list",
    values=tuple(value for values in CATEGORIES.values() for value in values),
    higher=CATEGORIES,
    scores_people=False,
)
