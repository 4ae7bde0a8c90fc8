"""uvicorn with a drain: SIGTERM makes the service unready, and it goes on serving while the endpoints learn of it.

uvicorn alone closes its listener at once, so every client that still has this pod among its endpoints is refused; for
callers in another cluster this drain is all there is (the backend service of a multi-cluster Service drains for 0 s).
"""

import logging
import signal
import time
from functools import partial
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from common import logs
from common.lifecycle import Lifecycle
from common.protocol import BoundedProtocol
from common.settings import ServiceSettings

log = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 620
"""Longer than any client's idle time, or a client sends into a connection that is being closed. Google's load balancers
keep theirs for 600 s (https://docs.cloud.google.com/load-balancing/docs/https#timeouts_and_retries)."""


def serve(app: ASGIApp, settings: ServiceSettings, lifecycle: Lifecycle) -> None:
    """Serve until SIGTERM or SIGINT; then returns, so that the exit status is 0.

    :raises SystemExit: status 3 if the address cannot be listened on or the app does not start.
    """
    logs.configure(settings.log_format, settings.log_level)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=partial(BoundedProtocol, receive_seconds=settings.receive_seconds),  # type: ignore[arg-type]
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=settings.shutdown_seconds,
    )
    DrainingServer(config, lifecycle, settings.drain_seconds).run()


class DrainingServer(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, lifecycle: Lifecycle, drain_seconds: float) -> None:
        super().__init__(config)
        self.lifecycle = lifecycle
        self.drain_seconds = drain_seconds
        self.exit_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First SIGTERM: drain. SIGINT (somebody at a terminal), or any second signal: no pause.

        The signal is not recorded for uvicorn to raise again at the end: a stop that was asked for is a success.
        """
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        elif sig == signal.SIGINT or self.lifecycle.draining or not self.started:
            self.should_exit = True
        else:
            self.exit_at = time.monotonic() + self.drain_seconds
        self.lifecycle.draining = True

    async def on_tick(self, counter: int) -> bool:
        if self.exit_at is not None and not self.should_exit and time.monotonic() >= self.exit_at:
            self.should_exit = True
        return await super().on_tick(counter)
