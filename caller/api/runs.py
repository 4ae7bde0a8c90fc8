"""`POST /caller/runs`: the response is the stream of the run's events; closing it stops the run."""

from collections.abc import AsyncIterator
from typing import Annotated, Self

from anyio.streams.memory import MemoryObjectReceiveStream
from fastapi import APIRouter, Depends, Request
from fastapi.responses import StreamingResponse
from pydantic import Field, model_validator

from caller.api.messages import MAX_TIMEOUT_SECONDS
from caller.api.targets import allowed_target
from caller.hop.client import ProducerClient
from caller.hop.model import ConnectionMode
from caller.run.engine import Run, calls_in, running
from caller.run.metrics import RunMetrics
from caller.run.model import EVENT_KINDS, Event, RunSpec
from caller.settings import Settings
from common.messages import Message
from common.messages import Request as RequestModel
from common.middleware.draining import Lifecycle
from common.problems import PROBLEM_RESPONSES, SCHEMAS, FieldError, Refused, check_limits

router = APIRouter(tags=["runs"])

MAX_ID = 100
"""Characters; every call of a run appends its number."""
MAX_CALLS = 100_000_000
RETRY_AFTER_SECONDS = 5


class RunRequest(RequestModel):
    """Many calls at a rate, for a duration or a count."""

    message: Message
    targets: Annotated[list[str], Field(min_length=1, max_length=10)] | None = Field(
        default=None, description="called in turn; default: PRODUCER_URL"
    )
    rate: float = Field(gt=0, allow_inf_nan=False, description="calls per second", examples=[20])
    duration_seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False, examples=[10])
    count: int | None = Field(default=None, ge=1, le=MAX_CALLS, description="instead of `durationSeconds`")
    connection: ConnectionMode = Field(
        default="fresh", description="`fresh`: every call may reach another pod; `reuse`: calls stay on a few pods"
    )
    timeout_seconds: float | None = Field(
        default=None,
        gt=0,
        le=MAX_TIMEOUT_SECONDS,
        allow_inf_nan=False,
        description="timeout of one call; default: CALL_TIMEOUT_SECONDS",
    )

    @model_validator(mode="after")
    def one_end(self) -> Self:
        if (self.duration_seconds is None) == (self.count is None):
            raise ValueError("expected either durationSeconds or count")
        return self

    @property
    def calls(self) -> int:
        return self.count or calls_in(self.rate, self.duration_seconds or 0)


class Runs:
    """Starts runs, at most `RUN_MAX_ACTIVE` concurrently."""

    def __init__(self, client: ProducerClient, metrics: RunMetrics, lifecycle: Lifecycle) -> None:
        self.client = client
        self.metrics = metrics
        self.lifecycle = lifecycle
        self.active = 0

    def admit(self) -> None:
        limit = self.client.settings.run_max_active
        if self.active >= limit:
            text = f"{self.active} runs are active; the limit is {limit} (RUN_MAX_ACTIVE)"
            headers = {"retry-after": str(RETRY_AFTER_SECONDS)}
            raise Refused(429, [FieldError(field="runs", message=text, limit=limit)], headers)

    def prepare(self, request: RunRequest) -> Run:
        """A run within the limits, not started.

        :raises Refused: 422 or 413 with the field and the limit.
        """
        settings = self.client.settings
        check_run_limits(request, settings)
        names: list[str | None] = [*request.targets] if request.targets else [None]
        targets = [allowed_target(name, settings, "targets") for name in names]
        spec = RunSpec(
            targets=[target.name for target in targets],
            message=request.message,
            rate=request.rate,
            count=request.calls,
            connection=request.connection,
            timeout_seconds=request.timeout_seconds or settings.call_timeout_seconds,
            max_in_flight=settings.run_max_in_flight,
        )
        return Run(self.client, spec, targets, self.metrics, self.lifecycle)


def check_run_limits(request: RunRequest, settings: Settings) -> None:
    check_limits(request.message, settings)
    seconds = request.duration_seconds or request.calls / request.rate
    length = ("durationSeconds", request.duration_seconds) if request.duration_seconds else ("count", request.count)
    for (field, given), value, limit, unit, setting in (
        (("rate", request.rate), request.rate, settings.run_max_rate, "calls per second", " (RUN_MAX_RATE)"),
        (length, seconds, settings.run_max_seconds, "s", " (RUN_MAX_SECONDS)"),
        (("message.id", len(request.message.id)), len(request.message.id), MAX_ID, "characters", ""),
    ):
        if value > limit:
            text = f"{value:g} {unit} exceed the maximum of {limit:g} {unit}{setting}"
            raise Refused(422, [FieldError(field=field, value=str(given), message=text, limit=limit)])


async def runs_of(request: Request) -> Runs:
    runs: Runs = request.state.runs
    return runs


async def events_of(
    request: RunRequest, runs: Annotated[Runs, Depends(runs_of)]
) -> AsyncIterator[MemoryObjectReceiveStream[Event]]:
    """The events of the run while the response is sent; an invalid request is refused before the stream begins."""
    run = runs.prepare(request)
    runs.admit()
    runs.active += 1
    try:
        async with running(run) as events:
            yield events
    finally:
        runs.active -= 1


EVENT_STREAM = "text/event-stream"
EVENTS = {
    EVENT_STREAM: {
        "itemSchema": {  # of OpenAPI 3.2
            "type": "object",
            "properties": {
                "event": {"type": "string"},
                "data": {
                    "type": "string",
                    "contentMediaType": "application/json",
                    "contentSchema": {"oneOf": [{"$ref": SCHEMAS + kind.__name__} for kind in EVENT_KINDS]},
                },
            },
        },
    }
}


@router.post(
    "/caller/runs",
    response_class=StreamingResponse,
    responses={
        **PROBLEM_RESPONSES,
        429: PROBLEM_RESPONSES[503] | {"description": "too many active runs; see `Retry-After`"},
        200: {"content": EVENTS, "description": "server-sent events; the last is `done` or `failed`"},
    },
    summary="Call the producer many times; the response is the stream of events, closing it stops the run",
)
async def start_run(events: Annotated[MemoryObjectReceiveStream[Event], Depends(events_of)]) -> StreamingResponse:
    async def formatted() -> AsyncIterator[str]:
        async for event in events:
            yield f"event: {event.type}\ndata: {event.model_dump_json(by_alias=True)}\n\n"

    headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
    return StreamingResponse(formatted(), media_type=EVENT_STREAM, headers=headers)
