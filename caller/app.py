from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from caller.api.messages import router
from caller.api.runs import Runs
from caller.api.runs import router as run_router
from caller.check.steps import Preflight
from caller.hop.client import ProducerClient
from caller.hop.metrics import HopMetrics, RunMetrics
from caller.run.engine import EVENT_KINDS
from caller.settings import Settings
from common.lifecycle import Lifecycle
from common.middleware.observe import SecurityHeaders
from common.problems import add_schemas
from common.service import Service

STATIC = Path(__file__).parent / "static"

BROWSER_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}
"""`no-cache`: the page is asked for anew after a roll-out; its ETag makes that cheap."""


def create_app(settings: Settings, lifecycle: Lifecycle) -> ASGIApp:
    service = Service("sample-caller", settings, lifecycle)
    metrics, run_metrics = HopMetrics(service.registry), RunMetrics(service.registry)

    @asynccontextmanager
    async def opened() -> AsyncIterator[dict[str, Any]]:
        spans = None
        if service.tracing:
            from caller.hop.span import HopSpans

            spans = HopSpans(service.tracing)
        async with ProducerClient.opened(settings, service.identity, metrics, spans) as client:
            yield {"client": client, "preflight": Preflight(client), "runs": Runs(client, run_metrics, lifecycle)}

    app = service.app("Calls the producer and explains what happened.", opened, router, run_router)
    add_schemas(app, *EVENT_KINDS)
    app.frontend("/", directory=STATIC, fallback=None)
    served = SecurityHeaders(service.guarded(Zipped(app)), BROWSER_HEADERS)
    return Prefixed(service.observed(served), settings.root_path)


class Zipped:
    """The page's files compressed; the API's answers are not, which costs time on every call and saves none."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.zipped = GZipMiddleware(app)
        self.paths = {"/", *(f"/{file.name}" for file in STATIC.iterdir())}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        zipped = scope["type"] == "http" and scope["path"] in self.paths
        await (self.zipped if zipped else self.app)(scope, receive, send)


class Prefixed:
    """The app under a prefix and without it: an ingress may leave the prefix in the path, probes do not have it."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self.app = app
        self.prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.prefix and scope["type"] == "http":
            path = scope["path"]
            if path == self.prefix:
                # Relative addresses start from the last slash.
                await RedirectResponse(f"{self.prefix}/")(scope, receive, send)
                return
            if path.startswith(f"{self.prefix}/"):
                scope = {**scope, "path": path.removeprefix(self.prefix)}
        await self.app(scope, receive, send)
