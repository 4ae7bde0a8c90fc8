"""OpenTelemetry traces: a span per request, and their export. Imported only when tracing is enabled.

The SDK reads the rest of its variables itself (`OTEL_TRACES_SAMPLER`, `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_BSP_…`,
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/).
"""

import asyncio
import logging
import re
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AnyValue
from starlette.middleware import Middleware
from starlette.middleware.opentelemetry import OpenTelemetryMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from common import __version__
from common.cluster import Identity, resource_attributes
from common.middleware import EXEMPT_PATHS

log = logging.getLogger(__name__)

FLUSH_SECONDS = 3.0
"""Timeout of the final flush: less than what a pod has left after the drain and the last request."""

UNTRACED = rf"^\w+://[^/]*({'|'.join(map(re.escape, sorted(EXEMPT_PATHS)))})(\?|$)"


class Tracing:
    """Creates spans and exports them to a collector in a thread; as a context manager, flushes them at the end."""

    def __init__(self, name: str, identity: Identity) -> None:
        self.provider = TracerProvider(resource=OwnResource(name, identity), shutdown_on_exit=False)
        self.provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self.tracer = self.provider.get_tracer(name, __version__)

    @property
    def middleware(self) -> tuple[Middleware, Middleware]:
        """A span per request, except probes and scrapes; then its context for the log line."""
        return (
            Middleware(OpenTelemetryMiddleware, excluded_urls=[UNTRACED], tracer_provider=self.provider),
            Middleware(SpanInScope),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # The SDK bounds neither its flush nor its shutdown by less than the exporter's timeout.
        last = threading.Thread(target=self.provider.shutdown, name="last-spans", daemon=True)
        last.start()
        await asyncio.to_thread(last.join, FLUSH_SECONDS)
        if last.is_alive():
            log.warning("the last spans were not exported within %g s", FLUSH_SECONDS)


class OwnResource(Resource):
    """Resource of this process. Read on every export, because the metadata server may answer after the first span.

    `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` win.
    """

    def __init__(self, name: str, identity: Identity) -> None:
        super().__init__({})
        self.name = name
        self.identity = identity
        self.sdk = dict(Resource.create().attributes)
        self.given = dict(OTELResourceDetector().detect().attributes)

    @property
    def attributes(self) -> Mapping[str, AnyValue]:
        return {**self.sdk, **resource_attributes(self.name, self.identity), **self.given}


class SpanInScope:
    """Puts the context of the request's span into `scope["traceparent"]`, for the log line."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if trace.get_current_span().get_span_context().is_valid:
            carrier: dict[str, str] = {}
            TraceContextTextMapPropagator().inject(carrier)
            scope["traceparent"] = carrier["traceparent"]
        await self.app(scope, receive, send)
