from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.middleware import Middleware
from starlette.types import ASGIApp

from caller.api import checks, messages, runs, targets
from caller.check.preflight import Preflight
from caller.explain.explain import Explainer
from caller.hop.client import ProducerClient
from caller.hop.metrics import HopMetrics
from caller.run.metrics import RunMetrics
from caller.run.model import EVENT_KINDS
from caller.settings import Settings
from common.middleware.compression import Compression
from common.middleware.draining import Lifecycle
from common.middleware.path_prefix import PathPrefix
from common.middleware.security_headers import SecurityHeaders
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
"""`no-cache`: the browser revalidates the page after a rollout; its ETag makes that cheap."""


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
            explainer = Explainer(client)
            yield {
                "explainer": explainer,
                "preflight": Preflight(explainer),
                "runs": runs.Runs(client, run_metrics, lifecycle),
            }

    app = service.app(
        "Calls the producer and explains what happened.",
        opened,
        messages.router,
        targets.router,
        checks.router,
        runs.router,
    )
    add_schemas(app, *EVENT_KINDS)
    app.frontend("/", directory=STATIC, fallback=None)
    page = {"/", *(f"/{file.name}" for file in STATIC.iterdir())}
    return service.with_middleware(
        app,
        outermost=[Middleware(PathPrefix, settings.root_path)],
        reply_headers=[Middleware(SecurityHeaders, BROWSER_HEADERS)],
        innermost=[Middleware(Compression, page)],
    )
