"""Time from the start of a process to its first `UP`, compared with its imports alone: `python -m bench.start_up`."""

import os
import statistics
import subprocess
import sys
import time
from http.client import HTTPConnection, HTTPException
from typing import NamedTuple
from urllib.parse import urlsplit

from lab.processes import CALLER, PRODUCER, READY_SECONDS, Service, start

STARTS = 7
IMPORTS = "import fastapi, uvicorn"


class StartUp(NamedTuple):
    """Seconds by round."""

    imports: list[float]
    caller: list[float]
    producer: list[float]

    @property
    def ratios(self) -> list[float]:
        """Ratio of the caller to the imports."""
        return [caller / imports for imports, caller in zip(self.imports, self.caller, strict=True)]

    def __str__(self) -> str:
        imports, caller, producer = (statistics.median(seconds) * 1000 for seconds in self)
        return f"imports {imports:.0f} ms, caller {caller:.0f} ms, producer {producer:.0f} ms"


def measure(starts: int = STARTS) -> StartUp:
    ready_seconds(CALLER)  # writes the bytecode, which an image contains
    rounds = [(import_seconds(), ready_seconds(CALLER), ready_seconds(PRODUCER)) for _ in range(starts)]
    return StartUp(*(list(seconds) for seconds in zip(*rounds, strict=True)))


def import_seconds() -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", IMPORTS], env={"PATH": os.environ["PATH"]}, check=True, timeout=60)
    return time.perf_counter() - started


def ready_seconds(module: tuple[str, ...]) -> float:
    started = time.perf_counter()
    service = start(module, {"PRODUCER_URL": "http://127.0.0.1:1"})
    try:
        while not is_ready(service):
            if time.perf_counter() - started > READY_SECONDS:
                raise AssertionError(service.output)
            time.sleep(0.002)
        return time.perf_counter() - started
    finally:
        service.process.kill()
        service.process.wait(10)


def is_ready(service: Service) -> bool:
    connection = HTTPConnection(urlsplit(service.url).netloc, timeout=10)
    try:
        connection.request("GET", "/actuator/health/readiness")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    found = measure()
    print(f"{found}; caller/imports {statistics.median(found.ratios):.2f} (target: at most 1.3)")
