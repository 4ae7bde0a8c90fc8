"""What every service has, put around its own routes: problems, health, metrics, middleware."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.types import ASGIApp

from common import __version__, docs, problems
from common.cluster import Identity
from common.lifecycle import Lifecycle
from common.messages import Message
from common.metrics import ServiceMetrics, process_metrics
from common.middleware.observe import BodyLimit, Draining, LoadLimit, Observe
from common.problems import FieldError, Refused
from common.settings import ServiceSettings

if TYPE_CHECKING:
    from common.tracing import Tracing

BODY_ALLOWANCE_BYTES = 16_384
"""For what a body holds beside the payload."""


class Service:
    """What a process has one of; handed to the routes."""

    def __init__(self, name: str, settings: ServiceSettings, lifecycle: Lifecycle) -> None:
        self.name = name
        self.settings = settings
        self.lifecycle = lifecycle
        self.identity = Identity(settings)
        self.registry = CollectorRegistry()
        process_metrics(self.registry)
        self.tracing = tracing_of(self)

    def app(
        self,
        description: str,
        opened: Callable[[], AbstractAsyncContextManager[dict[str, Any]]],
        *routers: APIRouter,
    ) -> FastAPI:
        """A FastAPI with the service's routes and those that every service has.

        :param opened: what lives as long as the app; the dict it gives becomes the state of every request.
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
            docs_url=None,  # `common.docs` has one that needs no internet
            redoc_url=None,
            telemetry={"tracing": False, "metrics": False, "logs": False},  # `observed` has both, around the limits too
        )
        for router in routers:
            app.router.routes.extend(router.routes)  # `include_router` would look for a route twice
        docs.install(app)
        problems.install(app)
        self._add_health(app)
        self._add_metrics(app)
        return app

    def guarded(self, app: ASGIApp) -> ASGIApp:
        """The app behind its limits, and its drain."""
        # Every character of the payload may arrive as a six-byte \uXXXX escape.
        body_bytes = 6 * self.settings.max_payload_bytes + BODY_ALLOWANCE_BYTES
        load = LoadLimit(BodyLimit(app, body_bytes), self.settings.max_in_flight)
        ServiceMetrics(self.name, self.identity, self.lifecycle, load, self.registry)
        return Draining(load, self.lifecycle)

    def observed(self, app: ASGIApp) -> ASGIApp:
        """The app as the outside sees it: every reply counted, logged and, where it is asked for, traced."""
        observed = Observe(app, self.registry, self.identity)
        return self.tracing.traced(observed) if self.tracing else observed

    def _add_health(self, app: FastAPI) -> None:
        @app.get("/actuator/health/liveness", tags=["life cycle"], summary="The event loop answers")
        async def liveness() -> dict[str, str]:
            return {"status": "UP"}

        @app.get(
            "/actuator/health/readiness",
            tags=["life cycle"],
            summary="Started and not draining; asks nothing outside the pod",
            responses={503: {"description": "starting or draining"}},
        )
        async def readiness() -> JSONResponse:
            if self.lifecycle.ready:
                return JSONResponse({"status": "UP"})
            return JSONResponse({"status": "OUT_OF_SERVICE"}, status_code=503)

    def _add_metrics(self, app: FastAPI) -> None:
        @app.get("/metrics", tags=["life cycle"], summary="Prometheus", response_class=Response)
        async def metrics() -> Response:
            return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)


def tracing_of(service: Service) -> "Tracing | None":
    """What makes and sends spans, if settings ask for it; imports what only the extra `tracing` installs."""
    if not service.settings.tracing:
        return None
    from common.tracing import Tracing

    return Tracing(service.name, service.identity)


def within_limits(message: Message, settings: ServiceSettings) -> None:
    """Refuse what is over the limits that settings give.

    :raises Refused: 413 for the payload, 422 for the delay, naming field, value and limit.
    """
    size = len(message.payload.encode())
    if size > settings.max_payload_bytes:
        limit = settings.max_payload_bytes
        text = f"{size} bytes of UTF-8 are more than {limit} (MAX_PAYLOAD_BYTES)"
        raise Refused(413, [FieldError(field="payload", message=text, limit=limit)])
    if message.delay > settings.max_delay_millis:
        limit = settings.max_delay_millis
        text = f"Input should be at most {limit} (MAX_DELAY_MILLIS)"
        raise Refused(422, [FieldError(field="delay", value=str(message.delay), message=text, limit=limit)])
