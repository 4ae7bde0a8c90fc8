import logging
import time
from typing import Any

from prometheus_client import CollectorRegistry, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.cluster import Identity
from common.headers import request_id, trace_parent
from common.logs import TRACE_CONTEXT
from common.metrics import DURATION_BUCKETS
from common.middleware import EXEMPT_PATHS

log = logging.getLogger("request")

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"))


class Observe:
    """One log line and one observation per request; gives the request its `x-request-id`.

    A route adds fields to the log line through `scope["log_fields"]`, a dict. The trace context of the line is
    `scope["traceparent"]` if the request has a span, else the request's header.
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
        if scope["type"] != "http" or scope["path"] in EXEMPT_PATHS:
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500
        headers = dict(scope["headers"])
        request = request_id(headers.get(b"x-request-id", b"").decode("latin-1"))
        scope["request_id"] = request
        parent = trace_parent(scope.get("traceparent") or headers.get(b"traceparent", b"").decode("latin-1"))
        # Not reset: uvicorn logs what is raised here, in the same task.
        TRACE_CONTEXT.set((parent, self.identity.project))
        fields: dict[str, Any] = scope.setdefault("log_fields", {})

        async def send_observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request.encode())]
            await send(message)

        try:
            await self.app(scope, receive, send_observed)
        finally:
            seconds = time.perf_counter() - started
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
                    "".join(f" {name}={value}" for name, value in fields.items()),
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
                        **fields,
                    },
                )


def route_of(scope: Scope, status: int) -> str:
    """The route's template, known only after the app ran; never the raw path, whose values are unbounded."""
    route = scope.get("route")
    template = getattr(route, "path_format", None) or getattr(route, "path", None)
    if template:
        return str(template)
    return "static" if status < 400 else "unmatched"
