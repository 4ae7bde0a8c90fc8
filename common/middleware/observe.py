"""Pure ASGI middleware of both services. They stand around the app, so that its own 500 passes through them too."""

import asyncio
import logging
import time
from typing import Any

from prometheus_client import CollectorRegistry, Histogram
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.cluster import Identity
from common.headers import request_id, trace_parent
from common.lifecycle import Lifecycle
from common.logs import PLACE_IN_TRACE
from common.problems import problem

log = logging.getLogger("request")

UNOBSERVED = frozenset(("/actuator/health/liveness", "/actuator/health/readiness", "/metrics"))
"""Probes and scrapes: neither logged, nor counted, nor refused under load."""

DURATION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60)
"""Seconds: those of the OpenTelemetry HTTP conventions, and two more because a delay may last a minute."""


class Observe:
    """One log line and one observation a request; gives the request its `x-request-id`.

    What the request learns on its way goes into `scope["observed"]`, a dict, and so into the line. Where it is in a
    trace is in `scope["traceparent"]` if it has a span, else in its header.
    Metric: https://opentelemetry.io/docs/specs/semconv/http/http-metrics/#metric-httpserverrequestduration
    """

    def __init__(self, app: ASGIApp, registry: CollectorRegistry, identity: Identity) -> None:
        self.app = app
        self.identity = identity
        self.duration = Histogram(
            "http_server_request_duration_seconds",
            "Duration of HTTP server requests.",
            ("http_request_method", "http_route", "http_response_status_code"),
            buckets=DURATION_BUCKETS,
            registry=registry,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in UNOBSERVED:
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500
        headers = dict(scope["headers"])
        request = request_id(headers.get(b"x-request-id", b"").decode("latin-1"))
        scope["request_id"] = request
        parent = trace_parent(scope.get("traceparent") or headers.get(b"traceparent", b"").decode("latin-1"))
        # For the rest of the task: uvicorn logs what is raised here.
        PLACE_IN_TRACE.set((parent, self.identity.project))
        observed: dict[str, Any] = scope.setdefault("observed", {})

        async def observe_start(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request.encode())]
            await send(message)

        try:
            await self.app(scope, receive, observe_start)
        finally:
            seconds = time.perf_counter() - started
            status = observed.pop("status", status)
            route = route_of(scope, status)
            method = scope["method"] if scope["method"] in METHODS else "_OTHER"
            self.duration.labels(method, route, status).observe(seconds)
            if log.isEnabledFor(logging.INFO):
                log.info(
                    "%s %s %d %.1f ms%s",
                    scope["method"],
                    scope["path"],
                    status,
                    seconds * 1000,
                    "".join(f" {name}={value}" for name, value in observed.items()),
                    extra={
                        "httpRequest": {
                            "requestMethod": scope["method"],
                            "requestUrl": scope["path"],
                            "status": status,
                            "latency": f"{seconds:.6f}s",
                        },
                        "requestId": request,
                        "traceId": parent.trace_id if parent else None,
                        "route": route,
                        "status": status,
                        "durationMillis": round(seconds * 1000, 3),
                        **observed,
                    },
                )


METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"))


def route_of(scope: Scope, status: int) -> str:
    """The route's template, known only after the app ran; never the raw path, of which there is no end."""
    route = scope.get("route")
    template = getattr(route, "path_format", None) or getattr(route, "path", None)
    if template:
        return str(template)
    return "static" if status < 400 else "unmatched"


class Draining:
    """While draining, ask clients to leave: `Connection: close` on every reply.

    A request that is still not answered when the server's patience ends is answered 503, rather than cut.
    """

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle) -> None:
        self.app = app
        self.lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def close_start(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                # Asked when the reply starts: a request may outlive the moment the drain began.
                if self.lifecycle.draining:
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        try:
            await self.app(scope, receive, close_start)
        except asyncio.CancelledError:
            if started or not self.lifecycle.draining:
                raise
            await problem(503, "the service is stopping; this took longer than SHUTDOWN_SECONDS")(
                scope, receive, close_start
            )


class LoadLimit:
    """At most `limit` requests at once; the next is answered 503 with `Retry-After` at once, never queued."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit
        self.in_flight = 0
        self.refused = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in UNOBSERVED:
            await self.app(scope, receive, send)
            return
        if self.in_flight >= self.limit:
            self.refused += 1
            refusal = problem(
                503, f"{self.in_flight} requests are in flight; the limit is {self.limit} (MAX_IN_FLIGHT)"
            )
            refusal.headers["retry-after"] = "1"
            await refusal(scope, receive, send)
            return
        self.in_flight += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.in_flight -= 1


class BodyLimit:
    """A request body of at most `limit` bytes; a larger one is 413, declared or not."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if int(declared) > self.limit:  # the server has refused what is not a number
            await problem(413, self.too_large(f"{int(declared)} bytes"))(scope, receive, send)
            return
        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.limit:
                raise HTTPException(413, self.too_large(f"at least {received} bytes"))
            return message

        await self.app(scope, receive_counted, send)

    def too_large(self, size: str) -> str:
        return f"the body has {size}; the limit is {self.limit} (six times MAX_PAYLOAD_BYTES, and 16 KiB)"


class SecurityHeaders:
    """Headers for browsers, `setdefault` so that a route may say otherwise."""

    def __init__(self, app: ASGIApp, headers: dict[str, str]) -> None:
        self.app = app
        self.headers = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def secure_start(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(h for h in self.headers if h[0] not in present)]
            await send(message)

        await self.app(scope, receive, secure_start)
