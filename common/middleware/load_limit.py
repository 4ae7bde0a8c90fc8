from starlette.types import ASGIApp, Receive, Scope, Send

from common.middleware import EXEMPT_PATHS
from common.problems import problem


class Load:
    """Requests in flight, the limit on them, and how many were refused because of it."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_flight = 0
        self.refused = 0


class LoadLimit:
    """At most `load.limit` concurrent requests; above it 503 with `Retry-After`, never a queue."""

    def __init__(self, app: ASGIApp, load: Load) -> None:
        self.app = app
        self.load = load

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in EXEMPT_PATHS:
            await self.app(scope, receive, send)
            return
        load = self.load
        if load.in_flight >= load.limit:
            load.refused += 1
            refusal = problem(
                503, f"{load.in_flight} requests are in flight; the limit is {load.limit} (MAX_IN_FLIGHT)"
            )
            refusal.headers["retry-after"] = "1"
            await refusal(scope, receive, send)
            return
        load.in_flight += 1
        try:
            await self.app(scope, receive, send)
        finally:
            load.in_flight -= 1
