from collections.abc import Set as AbstractSet

from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send


class Compression:
    """gzip for the files of the page only: compressing the API's replies would cost time on every call."""

    def __init__(self, app: ASGIApp, paths: AbstractSet[str]) -> None:
        self.app = app
        self.compressed = GZipMiddleware(app)
        self.paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        compressed = scope["type"] == "http" and scope["path"] in self.paths
        await (self.compressed if compressed else self.app)(scope, receive, send)
