import asyncio
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from caller.api.targets import allowed_target
from caller.explain.explain import Explained, Explainer
from caller.hop.model import ConnectionMode
from caller.target import Target
from common.headers import header_map
from common.messages import BODILESS, Message
from common.problems import CLIENT_CLOSED_REQUEST, PROBLEM_RESPONSES, SCHEMAS, check_limits
from common.service import client_disconnected

router = APIRouter(tags=["messages"])

MAX_TIMEOUT_SECONDS = 600


class CallerMessage(Message):
    """The message, and how to call."""

    target: str | None = Field(default=None, description="one of the allowed targets; default: PRODUCER_URL")
    connection: ConnectionMode = Field(
        default="reuse", description="`fresh`: a new connection, which may reach another pod behind a ClusterSetIP"
    )
    timeout_seconds: float | None = Field(
        default=None, gt=0, le=MAX_TIMEOUT_SECONDS, allow_inf_nan=False, description="default: CALL_TIMEOUT_SECONDS"
    )


EXPLAINED_CONTENT = {"application/json": {"schema": {"$ref": SCHEMAS + "Explained"}}}
"""With `passThrough`, any status may come with this body."""


@router.post(
    "/caller/messages",
    response_model=Explained,
    responses={
        "default": {"model": Explained, "description": "with `passThrough`: the status of the call"},
        **{status: {"description": "with `passThrough`, the same: no body"} for status in BODILESS},
        **{
            status: response | {"content": {**response["content"], **EXPLAINED_CONTENT}}
            for status, response in PROBLEM_RESPONSES.items()
        },
    },
    summary="Call the producer once; 200 with the explained call, whatever its outcome",
)
async def call_producer(
    message: CallerMessage,
    request: Request,
    pass_through: Annotated[
        bool, Query(alias="passThrough", description="answer with the status of the call instead of 200")
    ] = False,
) -> Response:
    explainer: Explainer = request.state.explainer  # not through `Depends` (ADR 8)
    settings = explainer.client.settings
    check_limits(message, settings)
    target = allowed_target(message.target, settings)
    call = await call_while_connected(request, explainer, message, target)
    if call is None:
        request.scope["log_fields"].update(outcome="cancelled")
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    request.scope["log_fields"].update(outcome=call.outcome.value, peerCluster=call.answering_cluster)
    status = call.status_code if pass_through else 200
    body = b"" if status in BODILESS else call.model_dump_json(by_alias=True)
    return Response(body, status, media_type=None if status in BODILESS else "application/json")


async def call_while_connected(
    request: Request, explainer: Explainer, message: CallerMessage, target: Target
) -> Explained | None:
    """The explained call; None if the client disconnected first, and then the call is cancelled."""
    disconnected = asyncio.create_task(client_disconnected(request))
    try:
        async with asyncio.timeout(None) as timeout:
            disconnected.add_done_callback(partial(expire, timeout))
            hop = await explainer.client.call(
                message,
                target,
                connection=message.connection,
                timeout_seconds=message.timeout_seconds,
                inbound=inbound_headers(request),
                caller_headers=header_map(request.scope["headers"]),
            )
            return await explainer.explain(hop, message, target, message.timeout_seconds)
    except TimeoutError:
        if not timeout.expired():
            raise
        return None
    finally:
        disconnected.cancel()


def expire(timeout: asyncio.Timeout, disconnected: asyncio.Task[None]) -> None:
    """Expire the timeout when the client disconnects."""
    if not disconnected.cancelled():
        with suppress(RuntimeError):  # the call has ended
            timeout.reschedule(0)


def inbound_headers(request: Request) -> Mapping[str, str]:
    """Names in lower case, values of the same name joined; with the request id of this request's log line."""
    joined: dict[str, str] = {}
    for name, value in request.headers.items():
        joined[name] = f"{joined[name]},{value}" if name in joined else value
    return joined | {"x-request-id": request.scope["request_id"]}
