"""What people with the right to do so decide: reviews, promotions and rollbacks, erasures; and the history of it."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Path, Query, Request
from starlette.responses import Response as HttpResponse

from serve import schemas as wire
from serve.auth import Caller, caller, needs
from serve.errors import ApiError
from serve.links import PROMOTE, REVIEW, ROLLBACK, links
from serve.listening import LONGEST_PAGE, PAGE, FeedbackId, IdempotencyKey, InFlight, replayed, required, status_of
from serve.service import Service, said
from valuealign import loop
from valuealign.errors import StoreError, UnknownVersion
from valuealign.store import AliasState, Feedback, Move


def add_governing(app: FastAPI, service: Service, flying: InFlight) -> None:
    """The routes."""
    _reviewing(app, service)
    _moving(app, service)
    _erasing(app, service, flying)


def _reviewing(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/feedback/{feedback_id}/review", operation_id=REVIEW, response_model=wire.FeedbackStatus, **needs("review")
    )
    def review(feedback_id: FeedbackId, request: wire.ReviewRequest, http: Request) -> HttpResponse:
        """Accept feedback for training, or decline it. What has trained, or is training, stays as it is."""
        try:
            (found,) = service.store.review(
                [feedback_id], request.decision, who=_asking(http).who, reason=request.reason or ""
            )
        except StoreError:
            if _in_use(service.store.feedback(feedback_id)):
                message = "the feedback has trained a version, or an update is learning from it now"
                raise ApiError(409, message, code="feedback_in_use", param="feedback_id") from None
            raise
        return said(status_of(found))


def _moving(app: FastAPI, service: Service) -> None:
    registry = service.registry

    back = {"/name": "$response.body#/name", "expected": "$response.body#/version"}

    @app.post(
        "/v1/models/{name}/promote",
        operation_id=PROMOTE,
        response_model=wire.AliasEntry,
        responses={200: {"links": links(rollback=back)}},
        **needs("admin"),
    )
    def promote(name: Annotated[wire.Word, Path()], request: wire.PromoteRequest, http: Request) -> HttpResponse:
        """Point an alias at a version, if it still points where you think it does."""
        _check_family(service, name)
        state = registry.move(
            name,
            request.alias,
            request.version,
            expected=request.expected,
            who=_asking(http).who,
            why=request.why,
        )
        return said(_alias(state))

    @app.post("/v1/models/{name}/rollback", operation_id=ROLLBACK, response_model=wire.AliasEntry, **needs("admin"))
    def rollback(name: Annotated[wire.Word, Path()], request: wire.RollbackRequest, http: Request) -> HttpResponse:
        """Point an alias back at what it pointed at before, if it still points where you think it does."""
        _check_family(service, name)
        state = registry.rollback(
            name, request.alias, expected=request.expected, who=_asking(http).who, why=request.why
        )
        return said(_alias(state))

    @app.get("/v1/history", response_model=wire.MoveList, **needs("review"))
    def history(
        alias: Annotated[wire.Alias, Query()] = "champion",
        limit: Annotated[int, Query(ge=1, le=LONGEST_PAGE)] = PAGE,
        before: Annotated[int | None, Query(ge=1, le=2**31 - 1, description="`next` of a page")] = None,
    ) -> HttpResponse:
        """Where an alias of the served model has pointed: who moved it, why, and on what figures."""
        moves = [move for move in registry.history(service.name, alias) if before is None or move.epoch < before]
        shown = moves[::-1][:limit]
        more = len(moves) > limit
        entries = [_move(move) for move in shown]
        return said(wire.MoveList(data=entries, has_more=more, next=shown[-1].epoch if more else None))


def _erasing(app: FastAPI, service: Service, flying: InFlight) -> None:
    @app.post("/v1/erasure-requests", status_code=202, response_model=wire.ErasureReceipt, **needs("admin"))
    async def erase(
        request: wire.ErasureRequest, http: Request, idempotency_key: IdempotencyKey = None
    ) -> HttpResponse:
        """Remove what a person asked, was answered and said. The receipt names the versions that had learned
        from it; they go on answering until they are replaced."""
        asking, key = _asking(http), required(idempotency_key)
        with flying.hold(asking.principal, key):
            receipt = await service.off_loop(
                loop.erase,
                request.person,
                store=service.store,
                registry=service.registry,
                who=asking.who,
                key=key,
                principal=asking.principal,
            )
        return said(_receipt(receipt), status=202, headers=replayed(receipt.replayed))


def _asking(http: Request) -> Caller:
    found = caller(http)
    assert found is not None, "the route needs a scope"
    return found


def _in_use(found: Feedback) -> bool:
    return found.status == "used" or found.manifest_id is not None


def _check_family(service: Service, name: str) -> None:
    if name != service.name:
        raise UnknownVersion(f"no model '{name}'", mend=f"this service answers as '{service.name}'")


def _alias(state: AliasState) -> wire.AliasEntry:
    return wire.AliasEntry(name=state.name, alias=state.alias, version=state.version, epoch=state.epoch)


def _move(move: Move) -> wire.MoveEntry:
    names = ("kind", "alias", "from_version", "to_version", "epoch", "who", "why", "created")
    return wire.MoveEntry(**{name: getattr(move, name) for name in names}, figures=dict(move.figures))


def _receipt(receipt: loop.Receipt) -> wire.ErasureReceipt:
    return wire.ErasureReceipt(
        id=receipt.id,
        created=receipt.created,
        rows=receipt.rows,
        feedback=list(receipt.feedback),
        manifests=list(receipt.manifests),
        trained=list(receipt.trained),
        descendants=list(receipt.descendants),
        served=[
            wire.Served(model=f"{one.name}@{one.version}", alias=one.alias, since=one.start, until=one.end)
            for one in receipt.served
        ],
        mend=receipt.mend,
    )
