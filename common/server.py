"""uvicorn with a drain: after SIGTERM the service is not ready, and serves until the endpoints are updated.

uvicorn alone closes its listener immediately, so clients that still have this pod among their endpoints are refused.
For callers in another cluster it is the only drain: the backend service of a multi-cluster Service drains for 0 s.
"""

import gc
import logging
import signal
import time
from functools import partial
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from common import logs
from common.middleware.draining import Lifecycle
from common.protocol import BoundedProtocol
from common.settings import ServiceSettings

log = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 620
"""Longer than the idle timeout of any client, or a client sends into a connection that is being closed. Google's load
balancers keep idle connections for 600 s (https://docs.cloud.google.com/load-balancing/docs/https#timeouts_and_retries)."""


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
    gc.freeze()  # a collection of everything imported so far would stop the event loop for tens of milliseconds
    DrainingServer(config, lifecycle, settings.drain_seconds).run()


class DrainingServer(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, lifecycle: Lifecycle, drain_seconds: float) -> None:
        super().__init__(config)
        self.lifecycle = lifecycle
        self.drain_seconds = drain_seconds
        self.exit_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First SIGTERM: drain. SIGINT (Ctrl-C), or any second signal: no drain.

        The signal is not recorded for uvicorn to raise again at the end, so that a requested stop exits with 0.
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
