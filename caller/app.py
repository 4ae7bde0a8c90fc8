from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from caller.checks import Preflight
from caller.metrics import HopMetrics, RunMetrics
from caller.producer_client import ProducerClient
from caller.routes import router
from caller.run_routes import Runs
from caller.run_routes import router as run_router
from caller.settings import Settings
from common.lifecycle import Lifecycle
from common.middleware import SecurityHeaders
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
    service = Service(settings, lifecycle)
    metrics, run_metrics = HopMetrics(service.registry), RunMetrics(service.registry)

    @asynccontextmanager
    async def opened() -> AsyncIterator[dict[str, Any]]:
        async with ProducerClient.opened(settings, service.identity, metrics) as client:
            yield {"client": client, "preflight": Preflight(client), "runs": Runs(client, run_metrics, lifecycle)}

    app = service.app("sample-caller", "Calls the producer and explains what happened.", router, opened)
    app.include_router(run_router)
    app.frontend("/", directory=STATIC, fallback=None)
    return service.observed(SecurityHeaders(service.guarded(app), BROWSER_HEADERS))
