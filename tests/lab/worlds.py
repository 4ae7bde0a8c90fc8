"""Faults of the clusters and of pods: the building blocks of the failure matrix."""

import re
import signal
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from lab.lab import CLUSTER_SET_NAME, NDOTS_5, PRODUCER_PODS, Lab
from tests.explain.test_proxies import NGINX, SIDECAR_HEADERS
from tests.support.servers import http_reply

World = Callable[[Lab], AbstractContextManager[Any]]

NEW_POD = "10.8.2.13"
AUTHORITY = trustme.CA()
"""The certificate authority that the caller trusts."""


@contextmanager
def all_of(*contexts: AbstractContextManager[Any]) -> Iterator[None]:
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        yield


def named(changes: dict[str, Any], options: str = NDOTS_5) -> World:
    return lambda lab: all_of(lab.resolver(options), lab.zone(changes))


def behind(serve: Callable[[socket.socket], None]) -> World:
    """The only endpoint is a pod that handles each connection with `serve`."""
    return lambda lab: all_of(lab.producer_cluster.listening(NEW_POD, serve), lab.endpoints(NEW_POD))


def request_of(connection: socket.socket) -> None:
    connection.settimeout(10)
    head = b""
    while b"\r\n\r\n" not in head:
        if not (more := connection.recv(65536)):
            return
        head += more
    head, _, body = head.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
    while length and len(body) < int(length[1]) and (more := connection.recv(65536)):
        body += more


def silent(connection: socket.socket) -> None:
    """Read until the client closes the connection."""
    connection.settimeout(10)
    while connection.recv(65536):
        pass


def reset(connection: socket.socket) -> None:
    request_of(connection)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def replying(reply: bytes) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        request_of(connection)
        connection.sendall(reply)

    return serve


def sidecar(status: str, body: str) -> bytes:
    return http_reply(status, SIDECAR_HEADERS, body)


def one_envoy(status: str, body: str) -> World:
    return behind(replying(sidecar(status, body)))


@contextmanager
def hanging(lab: Lab) -> Iterator[None]:
    """The only endpoint is a producer that is stopped (SIGSTOP)."""
    process = lab.producers[PRODUCER_PODS[0]].process
    with lab.endpoints(PRODUCER_PODS[0]):
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)


@contextmanager
def killed(lab: Lab) -> Iterator[None]:
    """The only endpoint is a producer that was killed: its address exists, its port is closed."""
    with lab.producer(NEW_POD) as producer, lab.endpoints(NEW_POD):
        producer.stop(signal.SIGKILL)
        yield


@contextmanager
def without_a_route(lab: Lab) -> Iterator[None]:
    lab.caller_cluster.ip("route", "del", "default")
    try:
        yield
    finally:
        lab.caller_cluster.ip("route", "add", "default", "dev", "eth0")


@contextmanager
def tls(lab: Lab, *names: str, authority: trustme.CA) -> Iterator[None]:
    """The only endpoint is a pod with a certificate for these names."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names).configure_cert(context)

    def serve(connection: socket.socket) -> None:
        connection.settimeout(10)
        with context.wrap_socket(connection, server_side=True) as wrapped:
            wrapped.recv(65536)

    with behind(serve)(lab):
        yield


@contextmanager
def nginx(lab: Lab, server: str, pod: str = NEW_POD) -> Iterator[None]:
    """nginx in a pod; in the producer's cluster it is the only endpoint."""
    if NGINX is None:
        pytest.skip("nginx is not installed")
    cluster = lab.cluster_of(pod)
    folder = lab.folder / f"nginx-{time.monotonic_ns()}"
    folder.mkdir()
    paths = "\n".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("proxy", "fastcgi", "uwsgi", "scgi"))
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log; events {{}}\n"
        f"http {{ access_log off; client_body_temp_path {folder}/body; {paths}\n server {{ {server} }} }}"
    )
    with cluster.address(pod), lab.endpoints(*([pod] if cluster is lab.producer_cluster else lab.endpoint_pods)):
        command = [*cluster.prefix, NGINX, "-p", str(folder), "-c", str(config)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
            try:
                wait_for_port(lab, pod, process, folder / "error.log")
                yield
            finally:
                process.kill()


def wait_for_port(lab: Lab, pod: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            lab.cluster_of(pod).inside(socket.create_connection, (pod, 8080), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise AssertionError(log.read_text())


def tls_server(lab: Lab) -> str:
    certificate = AUTHORITY.issue_cert(CLUSTER_SET_NAME)
    chain, key = lab.folder / "chain.pem", lab.folder / "key.pem"
    certificate.private_key_pem.write_to_path(str(key))
    for part in certificate.cert_chain_pems:
        part.write_to_path(str(chain))
    return f"listen {NEW_POD}:8080 ssl; ssl_certificate {chain}; ssl_certificate_key {key}; return 200;"
