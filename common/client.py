"""Whoever sent the request, and may go away before it is answered."""

from starlette.requests import Request

CLIENT_CLOSED_REQUEST = 499
"""What the log line says of a client that hung up; nobody receives it."""


async def hang_up(request: Request) -> None:
    """Return when the client is gone; only after the body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
