"""A cluster: a network namespace, with the iptables rules of kube-proxy and the resolv.conf of the kubelet."""

import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from lab.dns import Dns
from lab.leftovers import NETNS_CONF, claim, make_folder, take_down
from lab.link import enter

T = TypeVar("T")


@dataclass(eq=False)
class Cluster:
    """A network namespace with an `eth0`, its DNS server, and threads whose sockets belong to it."""

    name: str
    identity: Mapping[str, str]
    network: str
    dns_address: str
    cluster_ip: str
    """ClusterIP of its own Service `sample-producer`; no other cluster has a route to it."""
    pods: tuple[str, ...]
    """Addresses of its producer pods."""
    namespace: str = ""
    dns: Dns = field(init=False)
    threads: ThreadPoolExecutor = field(init=False)
    ready: list[str] = field(default_factory=list)

    @property
    def caller_pod(self) -> str:
        """The source address of the caller, and of commands in the cluster."""
        return self.network.replace("0.0/16", "1.7")

    @property
    def prefix(self) -> tuple[str, ...]:
        """Prefix of a command that runs it in the cluster."""
        return ("ip", "netns", "exec", self.namespace)

    def ip(self, *command: str) -> None:
        run("ip", "-n", self.namespace, *command)

    @contextmanager
    def rule(self, *rule: str) -> Iterator[None]:
        """One more rule at the start of a chain of the filter table; the arguments of `iptables -I`."""
        run(*self.prefix, "iptables", "--wait", "-I", *rule)
        try:
            yield
        finally:
            run(*self.prefix, "iptables", "--wait", "-D", *rule)

    @contextmanager
    def route(self, *route: str) -> Iterator[None]:
        """One more route; the arguments of `ip route add`."""
        self.ip("route", "add", *route)
        try:
            yield
        finally:
            self.ip("route", "del", *route)

    @contextmanager
    def kernel(self, parameter: str, value: str) -> Iterator[None]:
        """A different kernel parameter of the network, such as `net/ipv4/tcp_retries2` (tcp(7)).

        :raises OSError: `/proc/sys` is read-only on this machine.
        """
        file = Path("/proc/sys") / parameter
        before = self.inside(file.read_text)
        self.inside(file.write_text, value)
        try:
            yield
        finally:
            self.inside(file.write_text, before)

    def rules(self, *lines: str) -> None:
        """Apply lines of iptables-restore atomically; a chain that they declare is emptied first."""
        run(*self.prefix, "iptables-restore", "--noflush", "--wait", text="\n".join([*lines, ""]))

    def inside(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call the function in a thread of the cluster; a socket that it creates belongs to the cluster."""
        return self.threads.submit(function, *arguments).result()

    @contextmanager
    def listening(self, pod: str, serve: Callable[[socket.socket], None], host: str | None = None) -> Iterator[None]:
        """A pod with a TCP server: `serve` gets each connection, which is closed afterwards."""
        with self.address(pod), self.inside(socket.create_server, (host or pod, 8080)) as server:

            def accept() -> None:
                with suppress(OSError):
                    while True:
                        connection, _ = server.accept()
                        with connection, suppress(OSError):
                            serve(connection)

            accepting = self.threads.submit(accept)
            try:
                yield
            finally:
                server.shutdown(socket.SHUT_RDWR)
                accepting.result(10)

    @contextmanager
    def address(self, pod: str) -> Iterator[None]:
        self.ip("address", "add", f"{pod}/32", "dev", "eth0")
        try:
            yield
        finally:
            self.ip("address", "del", f"{pod}/32", "dev", "eth0")

    # Construction

    @contextmanager
    def built(self, folder: Path) -> Iterator[None]:
        """The namespace, without a link to another, and its DNS server; removed together with the lab's folder."""
        run("ip", "netns", "add", self.namespace)
        self.ip("link", "set", "lo", "up")
        self.ip("address", "add", f"{self.dns_address}/32", "dev", "lo")
        self.threads = ThreadPoolExecutor(64, initializer=enter, initargs=(self.namespace,))
        self.dns = Dns(folder / self.name, self.dns_address, self.prefix, self.rules)
        self.dns.start()
        try:
            yield
        finally:
            self.dns.stop()
            self.threads.shutdown(cancel_futures=True)

    def write_resolv_conf(self, search: Sequence[str], options: str) -> None:
        """Write the file in place, because it is mounted into the namespaces of running processes."""
        folder = make_folder(NETNS_CONF / self.namespace)
        lines = [f"nameserver {self.dns_address}", f"search {' '.join(search)}", f"options {options}", ""]
        (folder / "resolv.conf").write_text("\n".join(lines))

    def import_service(self, cluster_set_ip: str) -> None:
        """Create the virtual addresses, and a chain for a firewall; ports that no Service has are rejected."""
        self.rules(
            "*nat",
            ":CLUSTERSET - [0:0]",
            f"-A OUTPUT -d {cluster_set_ip} -p tcp --dport 8080 -j CLUSTERSET",
            f"-A OUTPUT -d {self.cluster_ip} -p tcp --dport 8080 -j {translation(self.pods[0])}",
            "COMMIT",
            "*filter",
            ":CLUSTERSET - [0:0]",
            ":FIREWALL - [0:0]",
            f"-A OUTPUT -d {cluster_set_ip} -p tcp --dport 8080 -j CLUSTERSET",
            f"-A OUTPUT -d {cluster_set_ip} -p tcp ! --dport 8080 -j REJECT --reject-with icmp-port-unreachable",
            "-A INPUT -p tcp --dport 8080 -j FIREWALL",
            "COMMIT",
        )

    def balance(self, pods: Sequence[str], affinity: bool) -> None:
        """Set the endpoints of the ClusterSetIP, with the rules that kube-proxy writes; `affinity`: `ClientIP`."""
        self.rules(
            "*nat",
            ":CLUSTERSET - [0:0]",
            *(rule for index, pod in enumerate(pods) if affinity for rule in affine(f"ENDPOINT{index}", pod)),
            *(
                f"-A CLUSTERSET -p tcp -m statistic --mode nth --every {len(pods) - index} --packet 0"
                f" -j {f'ENDPOINT{index}' if affinity else translation(pod)}"
                for index, pod in enumerate(pods)
            ),
            "COMMIT",
            "*filter",
            ":CLUSTERSET - [0:0]",
            *([] if pods else ["-A CLUSTERSET -j REJECT --reject-with icmp-port-unreachable"]),
            "COMMIT",
        )


def affine(chain: str, pod: str) -> Iterator[str]:
    """A chain that remembers its clients, and a rule that sends these to it again."""
    yield f":{chain} - [0:0]"
    yield f"-A {chain} -p tcp -m recent --name {chain} --set -j {translation(pod)}"
    yield f"-A CLUSTERSET -p tcp -m recent --name {chain} --rcheck --seconds 10800 --reap -j {chain}"


def translation(pod: str) -> str:
    return f"DNAT --to-destination {pod if ':' in pod else f'{pod}:8080'}"


def try_out() -> None:
    """Create a namespace with each kind of rule that the lab needs, and remove it."""
    trial = Cluster("trial", {}, "", "", "", ())
    trial.namespace = f"trial-{os.getpid()}"
    folder = claim([trial.namespace])
    try:
        run("ip", "netns", "add", trial.namespace)
        run(*trial.prefix, "true")
        trial.rules(
            "*nat",
            "-A OUTPUT -p tcp -m statistic --mode nth --every 2 --packet 0 -j DNAT --to-destination 192.0.2.1:8080",
            "-A OUTPUT -p tcp -m recent --name TRIAL --rcheck --seconds 10800 --reap -j ACCEPT",
            "COMMIT",
            "*filter",
            "-A OUTPUT -p tcp -j REJECT --reject-with tcp-reset",
            "-A INPUT -p udp -m string --algo bm --hex-string |00| -j DROP",
            "COMMIT",
        )
    finally:
        take_down(folder)


class CommandFailed(Exception):
    pass


def run(*command: str, text: str | None = None, check: bool = True) -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=20, check=False)
    if check and done.returncode != 0:
        raise CommandFailed(f"{' '.join(command)}: {done.stderr.strip()}")
