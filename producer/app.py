from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.types import ASGIApp

from common.lifecycle import Lifecycle
from common.service import Service
from producer.faults import Faults
from producer.routes import router
from producer.settings import Settings
from producer.stamp import Stamp


def create_app(settings: Settings, lifecycle: Lifecycle) -> ASGIApp:
    service = Service("sample-producer", settings, lifecycle)
    faults = Faults(settings.fault_seed)

    @asynccontextmanager
    async def opened() -> AsyncIterator[dict[str, Any]]:
        yield {"faults": faults}

    app = service.app("Echoes messages, says who it is, and fails on request.", opened, router)
    return service.observed(Stamp(service.guarded(app), service.identity))
