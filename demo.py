"""`make demo`: a caller and two producers on this machine, one of which reports to be in another cluster.

Stop a producer with the printed `kill` and call again, to see how a failure is explained; the others keep running.
"""

import signal
import socket
import sys
from threading import Thread
from typing import NamedTuple, NoReturn

from lab.processes import CALLER, CENTRAL, PRODUCER, WEST, NotReady, Service, start_piped


class Part(NamedTuple):
    name: str
    port: int
    module: tuple[str, ...]
    environment: dict[str, str]


PARTS = (
    Part("producer", 8080, PRODUCER, CENTRAL | {"POD_NAME": "sample-producer-v1-central"}),
    Part("own-producer", 8082, PRODUCER, WEST | {"POD_NAME": "sample-producer-v1-west"}),
    Part(
        "caller",
        8081,
        CALLER,
        WEST
        | {
            "POD_NAME": "sample-caller-v1-west",
            "PRODUCER_URL": "http://localhost:8080",
            "COMPARE_URLS": "http://localhost:8082",
        },
    ),
)


def main() -> int:
    if in_use := [part for part in PARTS if is_in_use(part.port)]:
        say("; ".join(f"port {part.port} ({part.name}) is in use" for part in in_use))
        return 2
    signal.signal(signal.SIGTERM, interrupt)
    services: list[tuple[Part, Service]] = []
    output: list[Thread] = []
    status = 0
    try:
        for part in PARTS:
            service = start_piped(part.module, part.environment | {"PORT": str(part.port)})
            services.append((part, service))
            output.append(Thread(target=relay, args=(part, service)))
            output[-1].start()
        for _, service in services:
            service.wait_ready()
        say("page          http://localhost:8081/")
        for part, service in services:
            say(f"{part.name:<13} http://localhost:{part.port}   stop it: kill {service.process.pid}")
        say("Ctrl-C stops all")
        while True:
            signal.pause()
    except NotReady as error:
        say(str(error))
        status = 1
    except KeyboardInterrupt:
        pass
    finally:
        for _, service in services:
            service.process.terminate()
        for thread in output:
            thread.join()
    return status


def is_in_use(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return True
        return False


def interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def relay(part: Part, service: Service) -> None:
    """Print the output of the service, with its name in front, until it ends."""
    assert service.process.stdout is not None
    with service.process.stdout as lines:
        for line in lines:
            say(line.decode(errors="replace").rstrip(), part.name)
    say(f"stopped with status {service.process.wait()}", part.name)


def say(text: str, name: str = "demo") -> None:
    sys.stdout.write(f"{name:<13}| {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
