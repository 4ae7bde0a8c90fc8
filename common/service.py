"""Parts that both services have: the app with health and metrics, and the middleware around it."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.types import ASGIApp

from common import __version__, docs, problems
from common.cluster import Identity
from common.metrics import ServiceMetrics, process_metrics
from common.middleware.body_limit import BodyLimit
from common.middleware.draining import Draining, Lifecycle
from common.middleware.load_limit import Load, LoadLimit
from common.middleware.observe import Observe
from common.settings import ServiceSettings

if TYPE_CHECKING:
    from common.tracing import Tracing

BODY_ALLOWANCE_BYTES = 16_384
"""For everything in a body beside the payload."""


class Service:
    """State of the process: settings, life cycle, identity, metrics and traces. One per process."""

    def __init__(self, name: str, settings: ServiceSettings, lifecycle: Lifecycle) -> None:
        self.name = name
        self.settings = settings
        self.lifecycle = lifecycle
        self.identity = Identity(settings)
        self.load = Load(settings.max_in_flight)
        self.registry = CollectorRegistry()
        process_metrics(self.registry)
        ServiceMetrics(name, self.identity, lifecycle, self.load, self.registry)
        self.tracing = tracing_of(self)

    def app(
        self,
        description: str,
        opened: Callable[[], AbstractAsyncContextManager[dict[str, Any]]],
        *routers: APIRouter,
    ) -> FastAPI:
        """A FastAPI app with the routers given, and with docs, health and metrics.

        :param opened: opens what lives as long as the app; the dict that it yields becomes `request.state`.
        """

        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
            async with self.identity.kept(), self.tracing or nullcontext(), opened() as state:
                self.lifecycle.started = True
                yield {"service": self, **state}
                self.lifecycle.started = False

        app = FastAPI(
            title=self.name,
            description=description,
            version=__version__,
            lifespan=lifespan,
            docs_url=None,  # `common.docs` serves it without internet access
            redoc_url=None,
            telemetry={"tracing": False, "metrics": False, "logs": False},  # the middleware has both
        )
        for router in routers:
            app.include_router(router)
        docs.install(app)
        problems.install(app)
        self._add_health(app)
        self._add_metrics(app)
        return app

    def with_middleware(
        self,
        app: ASGIApp,
        *,
        outermost: Sequence[Middleware] = (),
        reply_headers: Sequence[Middleware] = (),
        innermost: Sequence[Middleware] = (),
    ) -> ASGIApp:
        """The app with its middleware around it, also around FastAPI's own reply to an internal error.

        :param outermost, reply_headers, innermost: the service's own middleware, in its place in the order.
        """
        # Each character of the payload may arrive as a six-byte \uXXXX escape.
        body_bytes = 6 * self.settings.max_payload_bytes + BODY_ALLOWANCE_BYTES
        outermost_first = [
            *outermost,
            *(self.tracing.middleware if self.tracing else ()),
            Middleware(Observe, self.registry, self.identity),
            *reply_headers,
            Middleware(Draining, self.lifecycle),
            Middleware(LoadLimit, self.load),
            Middleware(BodyLimit, body_bytes),
            *innermost,
        ]
        for middleware, args, options in reversed(outermost_first):
            app = middleware(app, *args, **options)
        return app

    def _add_health(self, app: FastAPI) -> None:
        @app.get("/actuator/health/liveness", tags=["life cycle"], summary="Liveness: the event loop answers")
        async def liveness() -> dict[str, str]:
            return {"status": "UP"}

        @app.get(
            "/actuator/health/readiness",
            tags=["life cycle"],
            summary="Readiness: started and not draining; depends on nothing outside the pod",
            responses={503: {"description": "starting or draining"}},
        )
        async def readiness() -> JSONResponse:
            if self.lifecycle.ready:
                return JSONResponse({"status": "UP"})
            return JSONResponse({"status": "OUT_OF_SERVICE"}, status_code=503)

    def _add_metrics(self, app: FastAPI) -> None:
        @app.get("/metrics", tags=["life cycle"], summary="Prometheus metrics", response_class=Response)
        async def metrics() -> Response:
            return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)


def tracing_of(service: Service) -> "Tracing | None":
    """Traces, if the settings enable them; imports what only the extra `tracing` installs."""
    if not service.settings.tracing:
        return None
    from common.tracing import Tracing

    return Tracing(service.name, service.identity)


async def client_disconnected(request: Request) -> None:
    """Return when the client has disconnected. Only after the request body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
