"""POST /v1/distributions: how the model's answers to closed questions are shared out.

Shape letters: ``K`` options, ``O`` orders.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from fastapi import FastAPI, Request
from starlette.responses import Response as HttpResponse

from serve import schemas as wire
from serve.auth import needs
from serve.errors import ApiError
from serve.links import links
from serve.service import Service, now, said, visit
from valuealign import prompts
from valuealign.store import Response, new_id
from valuealign.types import Cell

MOST_CELLS = 256  # of one request: questions times orders


def add_distributions(app: FastAPI, service: Service) -> None:
    """The route."""

    judge = {"response_id": "$response.body#/distributions/0/response_id"}

    @app.post(
        "/v1/distributions",
        response_model=wire.DistributionResponse,
        responses={200: {"links": links(judge=judge)}},
        **needs("query"),
    )
    async def distributions(request: wire.DistributionRequest, http: Request) -> HttpResponse:
        """Shares of the options of one or several closed questions."""
        asked = request.asked()
        given = [rotations(len(question.options), request.orders) for question in asked]
        if sum(map(len, given)) > MOST_CELLS:
            what = f"questions times orders may be at most {MOST_CELLS}"
            raise ApiError(400, what, code="invalid_parameter", param="orders")
        version = await service.resolve(http, request.model, request.user)
        cells = [
            closed_cell(question, service.template, turn)
            for question, turns in zip(asked, given, strict=True)
            for turn in turns
        ]
        scores = iter(await service.backend.score(version, cells))
        found = [
            _distribution(service, question, turns, [next(scores) for _ in turns])
            for question, turns in zip(asked, given, strict=True)
        ]
        caller = visit(http.scope).caller
        kept, first = [], 0
        for one, turns in zip(found, given, strict=True):
            shares = {"options": list(one.shares), "shares": list(one.shares.values()), "raw_mass": one.raw_mass}
            kept.append(
                Response(
                    one.response_id,
                    "distribution",
                    service.name,
                    version.id,
                    cells[first].prompt,
                    one.answer,
                    {**shares, "orders": one.orders},
                    key_id=caller.id if caller else None,
                    person=request.user,
                )
            )
            first += len(turns)
        await service.keep(kept)
        service.meters.questions.inc(len(found))
        visit(http.scope).detail["questions"] = len(found)
        return said(wire.DistributionResponse(created=now(), model=version.ref, distributions=found))


def rotations(options: int, orders: int) -> list[int]:
    """By how many places the options are turned in each of ``orders`` cyclic orders, as they stand first.

    With as many orders as options, each option stands once in each place.
    """
    return [i * options // min(orders, options) for i in range(min(orders, options))]


def closed_cell(question: wire.Question, template: prompts.Template | None = None, turned: int = 0) -> Cell:
    """The cell that asks ``question``, its options turned by so many places, through the same prompt as training."""
    options = (*question.options[turned:], *question.options[:turned])
    nothing = (0.0,) * len(options)
    messages = prompts.ask(question.item, options, question.group or "", template)
    return Cell(messages, options, desirable=nothing, undesirable=nothing, closed=True, source="served")


def _distribution(
    service: Service, question: wire.Question, turns: Sequence[int], logp_OK: Sequence[np.ndarray]
) -> wire.Distribution:
    """The mean over orders of the shares, each turned back so that options stand as they were given."""
    shares_OK = np.stack([np.roll(_shares(logp_K), turn) for logp_K, turn in zip(logp_OK, turns, strict=True)])
    shares_K, options = shares_OK.mean(axis=0), question.options
    spread_K = np.ptp(shares_OK, axis=0)
    response_id = new_id("dist")
    return wire.Distribution(
        response_id=response_id,
        item=question.item,
        group=question.group,
        shares=_by_option(options, shares_K),
        raw_mass=float(np.mean([min(1.0, math.fsum(np.exp(logp_K))) for logp_K in logp_OK])),
        answer=options[int(np.argmax(shares_K))],
        orders=len(turns),
        order_spread=_by_option(options, spread_K) if len(turns) > 1 else None,
        feedback_token=service.tokens.issue(response_id),
    )


def _shares(logp_K: np.ndarray) -> np.ndarray:
    odds_K = np.exp(logp_K - np.max(logp_K))
    shares_K: np.ndarray = odds_K / odds_K.sum()
    if not np.isfinite(shares_K).all():
        raise ApiError(503, "the model gave no probability to any option", code="model_unavailable")
    return shares_K


def _by_option(options: Sequence[str], figures_K: np.ndarray) -> dict[str, float]:
    return {option: float(figure) for option, figure in zip(options, figures_K, strict=True)}
