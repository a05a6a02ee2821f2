"""A README in Markdown that tells a person what a version's card holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def model_card(card: Mapping[str, Any]) -> str:
    """A README in Markdown that tells a person what a card holds."""
    lines = [
        f"# {card['name']}",
        "",
        "Weights trained by valuealign; `card.json` holds the same facts in full.",
        "",
    ]
    facts = {
        "Base model": "base",
        "Parent": "parent",
        "Licence of the survey": "licence",
        "Created": "created",
        "Data (SHA-256)": "data_hash",
        "Manifest": "manifest",
    }
    for title, key in facts.items():
        if card.get(key) is not None:
            lines.append(f"- {title}: {_inline(card[key])}")
    if card.get("results"):
        lines += ["", "## Results", "", *_table(card["results"])]
    if card.get("all_figures"):
        lines += ["", f"These are the main figures; all of them: {_inline(card['all_figures'])}."]
    if card.get("gate"):
        lines += ["", "## Gate", "", *_table(card["gate"])]
    if card.get("config"):
        config = json.dumps(card["config"], indent=2, ensure_ascii=False, default=str)
        lines += ["", "## Configuration", "", "```json", config, "```"]
    lines += ["", "## Files", "", *(f"- `{name}` `{sha256}`" for name, sha256 in card["files"].items())]
    return "\n".join(lines) + "\n"


def _table(results: Any) -> list[str]:
    """A list of like mappings as a Markdown table, a mapping as two columns, else JSON."""
    if isinstance(results, Mapping):
        results = [{"figure": key, "value": value} for key, value in results.items()]
    if not (isinstance(results, (list, tuple)) and results and all(isinstance(row, Mapping) for row in results)):
        return ["```json", json.dumps(results, indent=2, ensure_ascii=False, default=str), "```"]
    columns = list(dict.fromkeys(key for row in results for key in row))
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    return lines + [f"| {' | '.join(_inline(row.get(column, '')) for column in columns)} |" for row in results]


def _inline(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text.replace("|", "\\|").replace("\n", " ")
