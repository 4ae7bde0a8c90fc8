from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.middleware import Middleware
from starlette.types import ASGIApp

from common.middleware.draining import Lifecycle
from common.service import Service
from producer.faults import Faults
from producer.marker import ProducerMarker
from producer.routes import router
from producer.settings import Settings


def create_app(settings: Settings, lifecycle: Lifecycle) -> ASGIApp:
    service = Service("sample-producer", settings, lifecycle)
    faults = Faults(settings.fault_seed)

    @asynccontextmanager
    async def opened() -> AsyncIterator[dict[str, Any]]:
        yield {"faults": faults}

    app = service.app("Echoes messages with its identity, and injects faults on request.", opened, router)
    return service.with_middleware(app, reply_headers=[Middleware(ProducerMarker, service.identity)])
