"""What one may do with an answer next, in OpenAPI's own words."""

from __future__ import annotations

from typing import Any

FEEDBACK, PROGRESS, REVIEW = "post_feedback", "get_feedback", "review_feedback"
PROMOTE, ROLLBACK = "promote", "roll_back"
_TO = {
    "judge": (FEEDBACK, {"verdict": "desirable"}),
    "progress": (PROGRESS, {}),
    "review": (REVIEW, {"decision": "accepted"}),
    "promote": (PROMOTE, {}),
    "rollback": (ROLLBACK, {"why": "taken back"}),
}


def links(**to: dict[str, str]) -> dict[str, Any]:
    """Links to the operations named, each with where its values stand in the answer.

    Values for the path are named with a ``/`` in front, the others go into the body.
    """
    found = {}
    for name, values in to.items():
        operation, fixed = _TO[name]
        path = {key[1:]: value for key, value in values.items() if key.startswith("/")}
        body = fixed | {key: value for key, value in values.items() if not key.startswith("/")}
        found[name] = {"operationId": operation, "parameters": path} | ({"requestBody": body} if fixed else {})
    return found
