import asyncio
import time
from contextlib import suppress

from fastapi import APIRouter, Request, Response

from common.headers import header_map
from common.messages import BODILESS, Message, MessageAck
from common.problems import CLIENT_CLOSED_REQUEST, PROBLEM_RESPONSES, check_limits
from common.service import Service, client_disconnected
from producer.faults import Faults

router = APIRouter(tags=["messages"])


@router.post(
    "/producer/messages",
    response_model=MessageAck,
    responses={
        **PROBLEM_RESPONSES,
        **{status: {"description": "as requested; no body, the identity is in the headers"} for status in BODILESS},
        "default": {"model": MessageAck, "description": "any other requested status"},
    },
    summary="Echo the message after `delay` ms, with status `responseCode`",
)
async def receive_message(message: Message, request: Request) -> Response:
    # Not through `Depends`, which costs 7 % of a call for each dependency (ADR 8).
    service: Service = request.state.service
    faults: Faults = request.state.faults
    check_limits(message, service.settings)
    fault_applied = faults.apply(message, service.identity.metadata)
    if fault_applied and message.delay and not await delayed(request, message.delay / 1000):
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
    """Wait for the injected delay; false if the client disconnected first. The time is kept for `server-timing`."""
    started = time.perf_counter()
    disconnected = asyncio.create_task(client_disconnected(request))
    try:
        while not disconnected.done() and (left := seconds - (time.perf_counter() - started)) > 0:
            await asyncio.wait({disconnected}, timeout=left)  # uvloop's timers fire up to a millisecond early
        return not disconnected.done()
    finally:
        disconnected.cancel()
        with suppress(asyncio.CancelledError):
            await disconnected
        request.scope["injected_delay_seconds"] = time.perf_counter() - started
