"""What people with the right to do so decide: reviews, promotions and rollbacks, erasures; and the history of it."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Path, Query, Request
from starlette.responses import Response as HttpResponse

from serve import schemas as wire
from serve.auth import Caller, caller, needs
from serve.errors import ApiError
from serve.listening import LONGEST_PAGE, PAGE, FeedbackId, IdempotencyKey, InFlight, replayed, required, status_of
from serve.service import Service, said
from valuealign.errors import StoreError, UnknownVersion
from valuealign.registry import Registry
from valuealign.store import AliasState, Erased, Feedback, Move


def add_governing(app: FastAPI, service: Service, flying: InFlight) -> None:
    """The routes."""
    _reviewing(app, service)
    _moving(app, service)
    _erasing(app, service, flying)


def _reviewing(app: FastAPI, service: Service) -> None:
    @app.post("/v1/feedback/{feedback_id}/review", response_model=wire.FeedbackStatus, **needs("review"))
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

    @app.post("/v1/models/{name}/promote", response_model=wire.AliasEntry, **needs("admin"))
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

    @app.post("/v1/models/{name}/rollback", response_model=wire.AliasEntry, **needs("admin"))
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
            erased = await service.off_loop(
                service.store.erase, request.person, who=asking.who, key=key, principal=asking.principal
            )
        models = await service.off_loop(affected, service.registry, service.name, erased.manifests)
        return said(_receipt(erased, models), status=202, headers=replayed(erased.replayed))


def affected(registry: Registry, name: str, manifests: tuple[str, ...]) -> list[wire.AffectedModel]:
    """The versions of a family that learned from manifests, themselves or by descent, and when they served."""
    found: dict[str, list[str]] = {}
    for version in registry.versions(name):  # oldest first: parents before their children
        manifest = (version.card.get("manifest") or {}).get("id")
        if manifest in manifests or version.parent in found:
            found[version.id] = [manifest] if manifest in manifests else []
    served: dict[str, list[wire.Served]] = {id: [] for id in found}
    for state in registry.store.aliases(name) if found else ():
        moves = registry.history(name, state.alias)
        ends = [move.created for move in moves[1:]]
        for move, end in zip(moves, [*ends, None], strict=True):
            if move.to_version in served:
                served[move.to_version].append(wire.Served(alias=state.alias, since=move.created, until=end))
    return [wire.AffectedModel(id=f"{name}@{id}", manifests=direct, served=served[id]) for id, direct in found.items()]


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


def _receipt(erased: Erased, models: list[wire.AffectedModel]) -> wire.ErasureReceipt:
    return wire.ErasureReceipt(
        id=erased.id,
        created=erased.created,
        rows=dict(erased.rows),
        feedback=list(erased.feedback),
        manifests=list(erased.manifests),
        models=models,
    )
