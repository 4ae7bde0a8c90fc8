import asyncio
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import Field

from caller.check.steps import CheckReport, Preflight
from caller.explain.dns import DnsReport
from caller.hop.client import ProducerClient
from caller.hop.outcome import Hop
from caller.settings import Settings
from caller.target import NameKind, Target
from common.client import CLIENT_CLOSED_REQUEST, hang_up
from common.headers import header_map
from common.message_route import MessageRoute
from common.messages import BODILESS, ClusterMetadata, Message, Wire
from common.problems import PROBLEM_RESPONSES, SCHEMAS, FieldError, Refused
from common.service import within_limits

router = APIRouter(tags=["messages"], route_class=MessageRoute)

LONGEST_TIMEOUT_SECONDS = 600


class CallerMessage(Message):
    """What the caller is asked: the message, and how to call."""

    target: str | None = Field(
        default=None, description="one of the addresses that settings allow; default: PRODUCER_URL"
    )
    connection: Literal["reuse", "fresh"] = Field(
        default="reuse", description="`fresh`: a new connection, so that a ClusterSetIP may choose another pod"
    )
    timeout_seconds: float | None = Field(
        default=None, gt=0, le=LONGEST_TIMEOUT_SECONDS, allow_inf_nan=False, description="default: CALL_TIMEOUT_SECONDS"
    )


class TargetReport(Wire):
    """An address that may be called, and what its name resolves to."""

    name: str = Field(examples=["http://sample-producer.istio-apps.svc.clusterset.local:8080"])
    kind: NameKind
    dns: DnsReport | None = Field(description="null: not asked for")


class Targets(Wire):
    """What may be called, PRODUCER_URL first, by whom, and the limits of a message and of a run."""

    caller_metadata: ClusterMetadata
    targets: list[TargetReport]
    max_payload_bytes: int
    max_delay_millis: int
    call_timeout_seconds: float
    run_max_rate: float
    run_max_seconds: float


async def client_of(request: Request) -> ProducerClient:
    client: ProducerClient = request.state.client
    return client


HOP_CONTENT = {"application/json": {"schema": {"$ref": SCHEMAS + "Hop"}}}
"""With `passThrough`, any status may come with a hop."""


async def preflight_of(request: Request) -> Preflight:
    preflight: Preflight = request.state.preflight
    return preflight


Client = Annotated[ProducerClient, Depends(client_of)]


@router.post(
    "/caller/messages",
    response_model=Hop,
    responses={
        "default": {"model": Hop, "description": "with `passThrough`: the status of the hop"},
        **{status: {"description": "with `passThrough`, the same: no body"} for status in BODILESS},
        **{
            status: response | {"content": {**response["content"], **HOP_CONTENT}}
            for status, response in PROBLEM_RESPONSES.items()
        },
    },
    summary="Call the producer once; 200 with everything learnt, whatever came of it",
)
async def call_producer(
    message: CallerMessage,
    request: Request,
    pass_through: Annotated[
        bool, Query(alias="passThrough", description="answer with the status of the hop instead of 200")
    ] = False,
) -> Response:
    client: ProducerClient = request.state.client
    within_limits(message, client.settings)
    target = allowed(message.target, client.settings)
    hop = await while_client_waits(request, client, message, target)
    if hop is None:
        request.scope["observed"].update(status=CLIENT_CLOSED_REQUEST, outcome="cancelled")
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    request.scope["observed"].update(outcome=hop.outcome.value, peerCluster=hop.answering_cluster)
    status = hop.status_code if pass_through else 200
    body = b"" if status in BODILESS else hop.model_dump_json(by_alias=True)
    return Response(body, status, media_type=None if status in BODILESS else "application/json")


@router.get("/caller/targets", summary="The addresses that may be called, each with its DNS answers")
async def targets(
    client: Client, dns: Annotated[bool, Query(description="false: at once, without the DNS answers")] = True
) -> Targets:
    settings = client.settings

    async def about(target: Target) -> TargetReport:
        report = (await client.dns.about(target))[0] if dns else None
        return TargetReport(name=target.name, kind=target.kind, dns=report)

    return Targets(
        caller_metadata=client.identity.metadata,
        targets=await asyncio.gather(*map(about, settings.targets)),
        max_payload_bytes=settings.max_payload_bytes,
        max_delay_millis=settings.max_delay_millis,
        call_timeout_seconds=settings.call_timeout_seconds,
        run_max_rate=settings.run_max_rate,
        run_max_seconds=settings.run_max_seconds,
    )


@router.get("/caller/checks", summary="Preflight, step by step; one call to each target")
async def checks(preflight: Annotated[Preflight, Depends(preflight_of)]) -> CheckReport:
    return await preflight.report()


def allowed(name: str | None, settings: Settings, field: str = "target") -> Target:
    """The target of that name; the first when none is named. `field`: where the request names it.

    :raises Refused: 422 with the list of what is allowed: no host from a request is ever called.
    """
    try:
        return settings.target(name)
    except ValueError as error:
        raise Refused(422, [FieldError(field=field, value=str(name)[:100], message=str(error))]) from None


async def while_client_waits(
    request: Request, client: ProducerClient, message: CallerMessage, target: Target
) -> Hop | None:
    """The hop; None if whoever asked hung up first, and then the call is cancelled."""
    gone = asyncio.create_task(hang_up(request))
    try:
        async with asyncio.timeout(None) as patience:
            gone.add_done_callback(partial(end, patience))
            hop = await client.call(
                message,
                target,
                connection=message.connection,
                timeout_seconds=message.timeout_seconds,
                inbound=inbound_headers(request),
                caller_headers=header_map(request.scope["headers"]),
            )
            return await client.explain(hop, message, target, message.timeout_seconds)
    except TimeoutError:
        if not patience.expired():
            raise
        return None
    finally:
        gone.cancel()


def end(patience: asyncio.Timeout, gone: asyncio.Task[None]) -> None:
    """End the wait if the task ended by itself, and the wait has not."""
    if not gone.cancelled():
        with suppress(RuntimeError):
            patience.reschedule(0)


def inbound_headers(request: Request) -> Mapping[str, str]:
    """Lower-case names, the values of one name joined; with the request id that this request goes by in the log."""
    joined: dict[str, str] = {}
    for name, value in request.headers.items():
        joined[name] = f"{joined[name]},{value}" if name in joined else value
    return joined | {"x-request-id": request.scope["request_id"]}
