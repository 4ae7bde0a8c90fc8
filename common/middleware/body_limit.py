from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.problems import problem


class BodyLimit:
    """A request body of at most `limit` bytes; a larger one is 413, whether or not it declares its length."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if int(declared) > self.limit:  # the server has refused a length that is not a number
            await problem(413, self.too_large(f"{int(declared)} bytes"))(scope, receive, send)
            return
        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.limit:
                raise HTTPException(413, self.too_large(f"at least {received} bytes"))
            return message

        await self.app(scope, receive_counted, send)

    def too_large(self, size: str) -> str:
        return f"the body has {size}; the limit is {self.limit} bytes (6 × MAX_PAYLOAD_BYTES + 16 KiB)"
