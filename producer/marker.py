"""The marker header: every reply of the producer identifies it, error replies included."""

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.cluster import Identity

MARKER = (b"x-answered-by", b"sample-producer")


class ProducerMarker:
    """Adds four headers to every reply, except those that uvicorn makes itself to what is not HTTP.

    - `x-answered-by: sample-producer`: a reply without it came from a proxy;
    - `x-producer-metadata`: the identity as JSON, for replies without a body (204, 205, 304);
    - `x-producer-time`: the clock when the reply starts, in seconds since the epoch, for the clock skew;
    - `server-timing`: `delay` (injected) and `work` (the rest), in ms (https://www.w3.org/TR/server-timing/).
    """

    def __init__(self, app: ASGIApp, identity: Identity) -> None:
        self.app = app
        self.identity = identity

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                delay = scope.get("injected_delay_seconds", 0.0)
                work = time.perf_counter() - started - delay
                timing = f"delay;dur={delay * 1000:.3f}, work;dur={work * 1000:.3f}"
                message["headers"] = [
                    *message["headers"],
                    MARKER,
                    (b"x-producer-metadata", self.identity.header),
                    (b"x-producer-time", b"%.6f" % time.time()),
                    (b"server-timing", timing.encode()),
                ]
            await send(message)

        await self.app(scope, receive, send_marked)
