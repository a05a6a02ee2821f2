"""How a prompt names the groups of OpinionQA and SubPOP: the attributes of Pew's American Trends Panel."""

from __future__ import annotations

WHOSE = {
    "CREGION": "region",
    "AGE": "age",
    "SEX": "sex",
    "EDUCATION": "highest education",
    "CITIZEN": "answer to 'are you a citizen of the United States?'",
    "MARITAL": "marital status",
    "RELIG": "religion",
    "RELIGATTEND": "attendance at religious services",
    "POLPARTY": "political party",
    "INCOME": "family income",
    "POLIDEOLOGY": "political view",
    "RACE": "race or ethnicity",
}


def phrase(attribute: str, group: str) -> str:
    """``a person in the United States whose political party is: Democrat``; an unknown attribute by its own name."""
    return f"a person in the United States whose {WHOSE.get(attribute.upper(), attribute.lower())} is: {group}"
