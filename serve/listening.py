"""POST and GET /v1/feedback: what people say about answers, kept before it is acknowledged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Header, Path, Query, Request
from starlette.responses import Response as HttpResponse

from serve import schemas as wire
from serve.auth import caller, forbidden, known_query, needs, unauthorized
from serve.errors import ApiError
from serve.links import FEEDBACK, PROGRESS, links
from serve.service import Service, said
from valuealign.errors import KeyReused
from valuealign.store import Feedback, Judged, Response

IdempotencyKey = Annotated[
    str | None,
    Header(min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$", description="the same post again: the same key"),
]
FeedbackId = Annotated[wire.Id, Path()]
OF_A_TOKEN = "token"  # the idempotency key of all posts with one token: it is good for one
PAGE, LONGEST_PAGE = 50, 200


class InFlight:
    """Idempotency keys whose first request is still being answered in this process."""

    def __init__(self) -> None:
        self._held: set[tuple[str, str]] = set()

    @contextmanager
    def hold(self, principal: str, key: str) -> Iterator[None]:
        """Raises ApiError 409 if somebody holds it."""
        if (principal, key) in self._held:
            message = "the first request with this Idempotency-Key is still being answered"
            raise ApiError(
                409, message, code="idempotency_key_in_use", param="Idempotency-Key", headers={"Retry-After": "1"}
            )
        self._held.add((principal, key))
        try:
            yield
        finally:
            self._held.discard((principal, key))


def required(key: str | None) -> str:
    """The key that a request came with. Raises ApiError 400."""
    if key is None:
        message = "give an Idempotency-Key: with it, a repeated request changes nothing twice"
        raise ApiError(400, message, code="idempotency_key_required", param="Idempotency-Key")
    return key


def replayed(again: bool) -> dict[str, str]:
    """The header that tells a saved answer from a fresh one."""
    return {"Idempotent-Replayed": "true"} if again else {}


def add_feedback(app: FastAPI, service: Service, flying: InFlight) -> None:
    """The routes."""
    store, posted = service.store, {"/feedback_id": "$response.body#/id"}

    @app.post(
        "/v1/feedback",
        status_code=201,
        operation_id=FEEDBACK,
        response_model=wire.FeedbackReceipt,
        responses={201: {"links": links(progress=posted, review=posted)}},
        openapi_extra={"security": [{"key": []}, {}], "x-scope": "feedback"},
    )
    async def post(
        request: wire.FeedbackRequest, http: Request, idempotency_key: IdempotencyKey = None
    ) -> HttpResponse:
        """Keep a verdict, a corrected text or corrected shares. 201 means: committed and synced to disk."""
        principal, key = _who_posts(service, http, request, idempotency_key)
        with flying.hold(principal, key):
            try:
                receipt = await service.off_loop(_keep, service, request, principal, key)
            except KeyReused:
                if request.token is None:
                    raise
                message = "this token has judged its answer already, in another way"
                raise ApiError(409, message, code="token_used", param="token") from None
        if not receipt.replayed:
            service.meters.feedback.labels(_verdict(request)).inc()
        answer = wire.FeedbackReceipt(
            id=receipt.id, response_id=receipt.response_id, status=receipt.status, created=receipt.created
        )
        return said(answer, status=201, headers=replayed(receipt.replayed))

    @app.get("/v1/feedback", response_model=wire.FeedbackPage, **needs("review"))
    def page(
        status: Annotated[wire.Status | None, Query(description="only feedback that is so far")] = None,
        limit: Annotated[int, Query(ge=1, le=LONGEST_PAGE)] = PAGE,
        after: Annotated[str | None, Query(min_length=1, max_length=200, description="`next` of a page")] = None,
    ) -> HttpResponse:
        """Feedback with the answers that it is about, oldest first."""
        found = store.page_feedback(status=status, name=service.name, limit=limit, after=after)
        entries = [_entry(judged) for judged in found.items]
        return said(wire.FeedbackPage(data=entries, has_more=found.next is not None, next=found.next))

    @app.get(
        "/v1/feedback/{feedback_id}", operation_id=PROGRESS, response_model=wire.FeedbackStatus, **needs("feedback")
    )
    def status(feedback_id: FeedbackId) -> HttpResponse:
        """How far a piece of feedback has come."""
        return said(status_of(store.feedback(feedback_id)))


def status_of(found: Feedback) -> wire.FeedbackStatus:
    """How far it has come, for whoever posted it."""
    return wire.FeedbackStatus(**_progress(found))


def _who_posts(
    service: Service, http: Request, request: wire.FeedbackRequest, idempotency_key: str | None
) -> tuple[str, str]:
    """Whose post it is, and the key under which it is kept once. Raises ApiError 401, 403 or 400."""
    known_query(http)
    if request.token is not None:
        service.tokens.check(request.token, request.response_id)
        if request.rater is not None:
            raise _bad("rater", "a token counts for whoever was answered; leave rater out, or post with an API key")
        return f"token:{request.response_id}", OF_A_TOKEN
    asking = caller(http)
    if asking is None:
        raise unauthorized("give an API key (Authorization: Bearer va-...) or the answer's feedback_token")
    if not asking.may("feedback"):
        raise forbidden("feedback")
    return asking.principal, required(idempotency_key)


def _keep(service: Service, request: wire.FeedbackRequest, principal: str, key: str) -> Any:
    """Write it down. A correction must fit the answer that it corrects."""
    shares = request.shares
    if request.correction is not None or shares is not None:
        response = service.store.response(request.response_id)
        if request.correction is not None:
            _check_correction(response, request.correction)
        if shares is not None:
            shares = _checked_shares(response, shares)
    rater = request.rater
    return service.store.add_feedback(
        request.response_id,
        verdict=_verdict(request),
        correction=request.correction,
        shares=shares,
        n=request.n,
        comment=request.comment,
        metadata=request.metadata,
        person=rater.id if rater else None,
        traits=rater.traits if rater else None,
        campaign=request.campaign,
        principal=principal,
        key=key,
    )


def _verdict(request: wire.FeedbackRequest) -> Any:
    if request.verdict is not None:
        return request.verdict
    return "correction" if request.correction is not None else "shares"


def _check_correction(response: Response, correction: str) -> None:
    if correction == response.answer:
        raise _bad("correction", "the correction is the answer itself; post verdict: desirable")
    if response.kind == "distribution" and correction not in response.detail.get("options", ()):
        raise _bad("correction", f"a distribution is corrected by one of its options: {_options(response)}")


def _checked_shares(response: Response, shares: dict[str, float]) -> dict[str, float]:
    """Shares of all the options in their order, adding up to 1 exactly."""
    if response.kind != "distribution":
        raise _bad("shares", "shares correct a distribution; a chat is corrected by a text")
    options = list(response.detail.get("options", ()))
    if strangers := [option for option in shares if option not in options]:
        raise _bad("shares", f"'{strangers[0]}' is no option of this question: {_options(response)}")
    total = sum(shares.values())
    return {option: shares.get(option, 0.0) / total for option in options}


def _options(response: Response) -> str:
    return ", ".join(f"'{option}'" for option in response.detail.get("options", ()))


def _bad(param: str, message: str) -> ApiError:
    return ApiError(400, message, code="invalid_parameter", param=param)


def _progress(found: Feedback) -> dict[str, Any]:
    names = ("id", "response_id", "status", "created", "verdict", "reason", "reviewed")
    return {name: getattr(found, name) for name in names}


def _entry(judged: Judged) -> wire.FeedbackEntry:
    found, response = judged.feedback, judged.response
    names = ("correction", "shares", "n", "comment", "metadata", "campaign", "screened")
    return wire.FeedbackEntry(
        **_progress(found),
        **{name: getattr(found, name) for name in names},
        response=wire.JudgedResponse(
            kind=response.kind,
            model=f"{response.name}@{response.version}",
            messages=[wire.Turn(role=turn.role, content=turn.content) for turn in response.messages],
            answer=response.answer,
        ),
    )
