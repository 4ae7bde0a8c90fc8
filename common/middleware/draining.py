import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.problems import problem


class Lifecycle:
    """Life cycle of the process: `ready` from the end of start-up to the drain. Depends on nothing outside the pod."""

    def __init__(self) -> None:
        self.started = False
        self.draining = False

    @property
    def ready(self) -> bool:
        return self.started and not self.draining


class Draining:
    """While the service drains, `Connection: close` on every reply, so that clients reconnect to another pod.

    A request that is still unanswered when the server cancels it (`SHUTDOWN_SECONDS`) gets a 503 instead of a cut
    connection.
    """

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle) -> None:
        self.app = app
        self.lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def send_close(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                # Read when the reply starts: the drain may have begun after the request came in.
                if self.lifecycle.draining:
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        try:
            await self.app(scope, receive, send_close)
        except asyncio.CancelledError:
            if started or not self.lifecycle.draining:
                raise
            await problem(503, "the service is stopping; the request took longer than SHUTDOWN_SECONDS")(
                scope, receive, send_close
            )
