"""Two clusters on one machine.

    caller namespace                                     producer namespace
    ┌──────────────────────────────────────────┐         ┌────────────────────────────┐
    │ 10.4.1.7   caller                        │  veth   │ 10.8.2.11  producer        │
    │ 10.4.1.9   the own cluster's producer    ├─────────┤ 10.8.2.12  producer        │
    │ 10.4.0.10  cluster DNS                   │         │ firewall: iptables INPUT   │
    │ iptables OUTPUT, as kube-proxy does it:  │         └────────────────────────────┘
    │   34.118.229.70 ClusterSetIP ─► 10.8.2.x │
    │   34.118.225.10 ClusterIP ─► 10.4.1.9    │
    └──────────────────────────────────────────┘

Everything real but the distance: the services are processes in the namespaces, glibc asks a DNS server by the pod's
own resolv.conf, and what goes wrong is made to go wrong where it would. A change to the world is a context manager.
"""

import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from tests.processes import CALLER, CENTRAL, PRODUCER, ROOT, WEST, Service, start

CALLER_POD = "10.4.1.7"
LOCAL_PRODUCER_POD = "10.4.1.9"
LINK_LOCAL = "fe80::a04:107/64"
CLUSTER_DNS = "10.4.0.10"
PRODUCER_PODS = ("10.8.2.11", "10.8.2.12")
CLUSTER_SET_IP = "34.118.229.70"
CLUSTER_IP = "34.118.225.10"
CLUSTER_SET_NAME = "sample-producer.istio-apps.svc.clusterset.local"
CLUSTER_NAME = "sample-producer.istio-apps.svc.cluster.local"
CLUSTER_SET_URL = f"http://{CLUSTER_SET_NAME}:8080"
CLUSTER_URL = f"http://{CLUSTER_NAME}:8080"

SEARCH = ("istio-apps.svc.cluster.local", "svc.cluster.local", "cluster.local")
NDOTS_5 = "ndots:5 timeout:1 attempts:1"
NDOTS_2 = "ndots:2 timeout:1 attempts:1"

ZONE: dict[str, Any] = {
    CLUSTER_SET_NAME: {"addresses": [CLUSTER_SET_IP], "ttl": 30},
    CLUSTER_NAME: {"addresses": [CLUSTER_IP], "ttl": 30},
    "kubernetes.default.svc.cluster.local": {"addresses": ["34.118.224.1"], "ttl": 30},
}

NETNS = Path("/var/run/netns")
NETNS_CONF = Path("/etc/netns")
"""Both are iproute2's: what lies in `/etc/netns/NAME` is mounted over `/etc` by `ip netns exec NAME`."""

CLONE_NEWNET = 0x40000000


class Query(NamedTuple):
    """What the DNS server was asked, and what it said: addresses, or a behaviour of its zone."""

    name: str
    type: str
    answer: str


class Cluster:
    """A network namespace with an `eth0`, and threads whose sockets are in it."""

    def __init__(self, name: str, identity: Mapping[str, str]) -> None:
        self.namespace = f"{name}-{os.getpid()}"
        self.identity = identity
        self.prefix = ("ip", "netns", "exec", self.namespace)
        self.threads = ThreadPoolExecutor(64, initializer=enter, initargs=(self.namespace,))

    def ip(self, *command: str) -> None:
        run("ip", "-n", self.namespace, *command)

    def rules(self, *lines: str) -> None:
        """Change iptables, all lines at once; a chain that is declared is emptied first."""
        run(*self.prefix, "iptables-restore", "--noflush", "--wait", text="\n".join([*lines, ""]))

    @contextmanager
    def opened(self) -> Iterator["Cluster"]:
        """The namespace, for as long as the context is open."""
        with ExitStack() as stack:
            stack.callback(run, "ip", "netns", "del", self.namespace, check=False)
            stack.callback(self.threads.shutdown, cancel_futures=True)
            run("ip", "netns", "add", self.namespace)
            yield self


class Lab:
    """Both clusters: as they are at first, two pods of the producer are exported, and all is well."""

    def __init__(self, caller_cluster: Cluster, producer_cluster: Cluster, folder: Path) -> None:
        self.caller_cluster = caller_cluster
        self.producer_cluster = producer_cluster
        self._zone_file = folder / "zone.json"
        self._query_log = folder / "zone.log"
        self._resolv_conf = NETNS_CONF / caller_cluster.namespace / "resolv.conf"
        self._zone = ZONE
        self._options = NDOTS_5
        self._endpoints: tuple[str, ...] = ()
        self._ports = count(8080)
        self.producers: dict[str, Service] = {}
        self.http = httpx.Client(
            timeout=60, trust_env=False, verify=False, limits=httpx.Limits(max_keepalive_connections=0)
        )

    def call(self, message: Mapping[str, Any], caller: Service | None = None) -> dict[str, Any]:
        """Ask the caller, from inside its cluster, to call the producer; the hop."""
        return self.calling(message, caller).result()

    def calling(self, message: Mapping[str, Any], caller: Service | None = None) -> Future[dict[str, Any]]:
        """A call that is under way."""
        return self.caller_cluster.threads.submit(self._post, (caller or self.main_caller).url, message)

    def _post(self, url: str, message: Mapping[str, Any]) -> dict[str, Any]:
        response = self.http.post(f"{url}/caller/messages", json=dict(message))
        assert response.status_code == 200, response.text
        hop: dict[str, Any] = response.json()
        return hop

    @contextmanager
    def caller(self, **environment: str) -> Iterator[Service]:
        """One more caller, ready, with settings of its own."""
        with self._caller(**environment) as service:
            self.caller_cluster.threads.submit(service.wait_ready).result()
            yield service

    @contextmanager
    def producer(self, pod: str, **environment: str) -> Iterator[Service]:
        """A producer, ready, under an address that is its own while the context is open; not yet an endpoint."""
        with self._producer(pod, **environment) as service:
            self._cluster_of(pod).threads.submit(service.wait_ready).result()
            yield service

    def _caller(self, **environment: str) -> AbstractContextManager[Service]:
        environment = {
            "PRODUCER_URL": CLUSTER_SET_URL,
            "COMPARE_URLS": CLUSTER_URL,
            "CONNECT_TIMEOUT_SECONDS": "1",
            "CALL_TIMEOUT_SECONDS": "10",
            "POD_NAME": "sample-caller-v1-0",
            **environment,
        }
        return self._process(self.caller_cluster, CALLER, CALLER_POD, next(self._ports), environment)

    @contextmanager
    def _producer(self, pod: str, **environment: str) -> Iterator[Service]:
        cluster = self._cluster_of(pod)
        cluster.ip("address", "add", f"{pod}/32", "dev", "eth0")
        try:
            environment = {"POD_NAME": pod_name(pod), **environment}
            with self._process(cluster, PRODUCER, pod, 8080, environment) as service:
                yield service
        finally:
            cluster.ip("address", "del", f"{pod}/32", "dev", "eth0")

    @contextmanager
    def _process(
        self, cluster: Cluster, module: tuple[str, ...], pod: str, port: int, environment: Mapping[str, str]
    ) -> Iterator[Service]:
        """A service that may not be ready yet; killed at the end if the test has not stopped it."""
        whole = {
            "HOST": pod,
            "PORT": str(port),
            "POD_IP": pod,
            "POD_NAMESPACE": "istio-apps",
            **cluster.identity,
            "HOST_NAME": environment["POD_NAME"],
            **environment,
        }
        service = start(module, whole, cluster.prefix)
        service.url = f"http://{pod}:{port}"
        try:
            yield service
        finally:
            if service.process.poll() is None:
                service.process.kill()
                service.process.wait(10)

    def _cluster_of(self, pod: str) -> Cluster:
        return self.caller_cluster if pod.startswith("10.4.") else self.producer_cluster

    @contextmanager
    def zone(self, changes: Mapping[str, Any]) -> Iterator[None]:
        """Other answers for these names; see `tests.dns_server` for what there may be."""
        before = self._zone
        self._write_zone({**before, **changes})
        try:
            yield
        finally:
            self._write_zone(before)

    def _write_zone(self, zone: dict[str, Any]) -> None:
        self._zone = zone
        draft = self._zone_file.with_suffix(".new")
        draft.write_text(json.dumps(zone))
        draft.replace(self._zone_file)

    def queries(self) -> list[Query]:
        """What the DNS server was asked since `forget_queries`."""
        return [Query(*json.loads(line)) for line in self._query_log.read_text().splitlines()]

    def forget_queries(self) -> None:
        self._query_log.write_text("")

    @contextmanager
    def resolver(self, options: str) -> Iterator[None]:
        """Other `options` in the caller's resolv.conf; glibc reads the file again when it has changed."""
        before = self._options
        self._write_resolv_conf(options)
        try:
            yield
        finally:
            self._write_resolv_conf(before)

    def _write_resolv_conf(self, options: str) -> None:
        """In place: the file is mounted into the namespaces of processes that run."""
        self._options = options
        lines = [f"nameserver {CLUSTER_DNS}", f"search {' '.join(SEARCH)}", f"options {options}", ""]
        self._resolv_conf.write_text("\n".join(lines))

    @contextmanager
    def without_ipv6(self) -> Iterator[None]:
        """No IPv6 address in the caller's pod but that of loopback, so that nobody asks for AAAA (AI_ADDRCONFIG)."""
        self.caller_cluster.ip("address", "del", LINK_LOCAL, "dev", "eth0")
        try:
            yield
        finally:
            self.caller_cluster.ip("address", "add", LINK_LOCAL, "dev", "eth0", "nodad")

    @contextmanager
    def endpoints(self, *pods: str) -> Iterator[None]:
        """Other pods behind the ClusterSetIP."""
        before = self._endpoints
        self.set_endpoints(*pods)
        try:
            yield
        finally:
            self.set_endpoints(*before)

    def set_endpoints(self, *pods: str) -> None:
        """New connections take turns between the pods; without any they are rejected, as kube-proxy does it."""
        self._endpoints = pods
        self.caller_cluster.rules(
            "*nat",
            ":CLUSTERSET - [0:0]",
            *(
                f"-A CLUSTERSET -p tcp -m statistic --mode nth --every {len(pods) - index} --packet 0"
                f" -j DNAT --to-destination {pod}:8080"
                for index, pod in enumerate(pods)
            ),
            "COMMIT",
            "*filter",
            ":CLUSTERSET - [0:0]",
            *([] if pods else ["-A CLUSTERSET -j REJECT --reject-with icmp-port-unreachable"]),
            "COMMIT",
        )

    @contextmanager
    def firewall(self, verdict: str) -> Iterator[None]:
        """What comes to the producer's cluster meets a rule: `DROP`, `REJECT --reject-with …`."""
        self.producer_cluster.rules("*filter", ":FIREWALL - [0:0]", f"-A FIREWALL -p tcp -j {verdict}", "COMMIT")
        try:
            yield
        finally:
            self.producer_cluster.rules("*filter", ":FIREWALL - [0:0]", "COMMIT")

    @contextmanager
    def _built(self) -> Iterator["Lab"]:
        """The network, the names, the services; all ready."""
        with ExitStack() as stack:
            stack.callback(self.http.close)
            self._build_network()
            self._write_zone(ZONE)
            self.forget_queries()
            stack.enter_context(self._dns_server())
            for pod in (*PRODUCER_PODS, LOCAL_PRODUCER_POD):
                self.producers[pod] = stack.enter_context(self._producer(pod))
            self.main_caller: Service = stack.enter_context(self._caller())
            for pod, service in [*self.producers.items(), (CALLER_POD, self.main_caller)]:
                self._cluster_of(pod).threads.submit(service.wait_ready).result()
            yield self

    def _build_network(self) -> None:
        ends = (self.caller_cluster, self.producer_cluster)
        names = [cluster.namespace for cluster in ends]
        run("ip", "link", "add", "eth0", "netns", names[0], "type", "veth", "peer", "name", "eth0", "netns", names[1])
        self.caller_cluster.ip("address", "add", f"{CALLER_POD}/32", "dev", "eth0")
        self.caller_cluster.ip("address", "add", f"{CLUSTER_DNS}/32", "dev", "lo")
        for cluster in ends:
            cluster.ip("link", "set", "eth0", "addrgenmode", "none")
            for device in ("lo", "eth0"):
                cluster.ip("link", "set", device, "up")
            cluster.ip("route", "add", "default", "dev", "eth0")
        self.caller_cluster.ip("address", "add", LINK_LOCAL, "dev", "eth0", "nodad")
        self.caller_cluster.rules(
            "*nat",
            ":CLUSTERSET - [0:0]",
            f"-A OUTPUT -d {CLUSTER_SET_IP} -p tcp --dport 8080 -j CLUSTERSET",
            f"-A OUTPUT -d {CLUSTER_IP} -p tcp --dport 8080 -j DNAT --to-destination {LOCAL_PRODUCER_POD}:8080",
            "COMMIT",
            "*filter",
            ":CLUSTERSET - [0:0]",
            f"-A OUTPUT -d {CLUSTER_SET_IP} -p tcp --dport 8080 -j CLUSTERSET",
            "COMMIT",
        )
        self.producer_cluster.rules(
            "*filter", ":FIREWALL - [0:0]", "-A INPUT -p tcp --dport 8080 -j FIREWALL", "COMMIT"
        )
        self.set_endpoints(*PRODUCER_PODS)
        self._write_resolv_conf(NDOTS_5)

    @contextmanager
    def _dns_server(self) -> Iterator[None]:
        command = [*self.caller_cluster.prefix, sys.executable, "-m", "tests.dns_server", CLUSTER_DNS]
        with subprocess.Popen([*command, str(self._zone_file)], cwd=ROOT, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == b"listening\n", "the DNS server does not start"
                yield
            finally:
                process.kill()


def pod_name(pod: str) -> str:
    """The name of the producer's pod that has this address."""
    return f"sample-producer-v1-{pod.rpartition('.')[2]}"


@contextmanager
def two_clusters() -> Iterator[Lab]:
    """The lab; nothing of it is left when the context is closed."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        caller_cluster = Cluster("caller-cluster", WEST)
        producer_cluster = Cluster("producer-cluster", CENTRAL)
        stack.enter_context(pod_files(caller_cluster))
        stack.enter_context(caller_cluster.opened())
        stack.enter_context(producer_cluster.opened())
        yield stack.enter_context(Lab(caller_cluster, producer_cluster, folder)._built())


@contextmanager
def pod_files(cluster: Cluster) -> Iterator[None]:
    """A folder for what the pod has in place of the machine's `/etc`."""
    folder = NETNS_CONF / cluster.namespace
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        shutil.rmtree(folder)
        with suppress(OSError):  # somebody else's namespaces have files there
            NETNS_CONF.rmdir()


def missing() -> str | None:
    """Why the lab cannot be built on this machine; None: it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for tool in ("ip", "iptables-restore"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    nth = "-p tcp -m statistic --mode nth --every 2 --packet 0"
    try:
        with Cluster("trial", {}).opened() as trial:
            run(*trial.prefix, "true")
            trial.rules("*nat", f"-A OUTPUT {nth} -j DNAT --to-destination 192.0.2.1:8080", "COMMIT")
            trial.rules("*filter", "-A OUTPUT -p tcp -j REJECT --reject-with tcp-reset", "COMMIT")
    except CommandFailed as failure:
        return f"network namespaces or iptables do not work here: {failure}"
    return None


def enter(namespace: str) -> None:
    """Move this thread, and the sockets it makes from now on, into the namespace. Python 3.12 has `os.setns`."""
    libc = ctypes.CDLL(None, use_errno=True)
    with (NETNS / namespace).open() as file:
        if libc.setns(file.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {namespace}")


class CommandFailed(Exception):
    pass


def run(*command: str, text: str | None = None, check: bool = True) -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=20, check=False)
    if check and done.returncode != 0:
        raise CommandFailed(f"{' '.join(command)}: {done.stderr.strip()}")
