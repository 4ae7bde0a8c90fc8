"""A port of the host's loopback that leads to a pod, as `kubectl port-forward`."""

import socket
import socketserver
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from threading import Thread

from lab.cluster import Cluster


@contextmanager
def forwarded(cluster: Cluster, address: tuple[str, int], port: int) -> Iterator[str]:
    """The URL of the forwarded port; a free port is used if this one is occupied."""

    class Forward(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError), cluster.inside(socket.create_connection, address, 10) as pod, self.request as here:
                pod.settimeout(None)
                with ThreadPoolExecutor(1) as thread:
                    thread.submit(copy, here, pod)
                    copy(pod, here)

    with server_on(port, Forward) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://localhost:{server.server_address[1]}/"
        finally:
            server.shutdown()


def server_on(port: int, handler: type[socketserver.BaseRequestHandler]) -> "Server":
    try:
        return Server(("127.0.0.1", port), handler)
    except OSError:
        return Server(("127.0.0.1", 0), handler)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False


def copy(source: socket.socket, sink: socket.socket) -> None:
    """Copy until the end of the source, then end the sink."""
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
