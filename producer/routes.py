import asyncio
import time
from contextlib import suppress

from fastapi import APIRouter, Request, Response

from common.client import CLIENT_CLOSED_REQUEST, hang_up
from common.headers import header_map
from common.message_route import MessageRoute
from common.messages import BODILESS, Message, MessageAck
from common.problems import PROBLEM_RESPONSES
from common.service import Service, within_limits
from producer.faults import Faults

router = APIRouter(tags=["messages"], route_class=MessageRoute)


@router.post(
    "/producer/messages",
    response_model=MessageAck,
    responses={
        **PROBLEM_RESPONSES,
        **{status: {"description": "as asked for; no body, the identity is in the headers"} for status in BODILESS},
        "default": {"model": MessageAck, "description": "any other status that was asked for"},
    },
    summary="Echo, after `delay` ms, with the status `responseCode`",
)
async def receive_message(message: Message, request: Request) -> Response:
    # Not by `Depends`, which would cost a tenth of a call.
    service: Service = request.state.service
    faults: Faults = request.state.faults
    within_limits(message, service.settings)
    fault_applied = faults.apply(message, service.identity.metadata)
    if fault_applied and message.delay and not await delayed(request, message.delay / 1000):
        request.scope["observed"]["status"] = CLIENT_CLOSED_REQUEST
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    status = message.response_code if fault_applied else 200
    if status in BODILESS:
        return Response(status_code=status)
    ack = MessageAck(
        id=message.id,
        received=message.payload,
        headers=header_map(request.scope["headers"]),
        metadata=service.identity.metadata,
        fault_applied=fault_applied,
    )
    return Response(ack.model_dump_json(by_alias=True), status, media_type="application/json")


async def delayed(request: Request, seconds: float) -> bool:
    """Wait, but no longer than the client does; false if it hung up. The time spent is kept for the stamp."""
    started = time.perf_counter()
    hung_up = asyncio.create_task(hang_up(request))
    try:
        while not hung_up.done() and (left := seconds - (time.perf_counter() - started)) > 0:
            await asyncio.wait({hung_up}, timeout=left)  # uvloop's timers go off up to a millisecond early
        return not hung_up.done()
    finally:
        hung_up.cancel()
        with suppress(asyncio.CancelledError):
            await hung_up
        request.scope["injected_delay_seconds"] = time.perf_counter() - started
