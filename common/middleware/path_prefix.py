from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class PathPrefix:
    """The app under a prefix and without it: an ingress may leave the prefix in the path, probes do not have it."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self.app = app
        self.prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.prefix and scope["type"] == "http":
            path = scope["path"]
            if path == self.prefix:
                # Relative addresses start from the last slash.
                await RedirectResponse(f"{self.prefix}/")(scope, receive, send)
                return
            if path.startswith(f"{self.prefix}/"):
                scope = {**scope, "path": path.removeprefix(self.prefix)}
        await self.app(scope, receive, send)
