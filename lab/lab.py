"""Three clusters of a fleet on one machine; most tests use two of them.

    caller-cluster                              producer-cluster                 third-cluster
    ┌───────────────────────────────────────┐         ┌──────────────────────┐         ┌──────────────────────┐
    │ 10.4.1.7   caller                     │  veth   │ 10.8.2.11  producer  │  veth   │ 10.12.3.21 producer, │
    │ 10.4.1.9   producer, not exported     ├─────────┤ 10.8.2.12  producer  ├─────────┤            when it is │
    │ 10.4.0.10  cluster DNS: unbound       │         │ 10.8.0.10  DNS       │         │            scaled up  │
    │ iptables OUTPUT, as by kube-proxy:    │         │ firewall: INPUT      │         │ 10.12.0.10 DNS       │
    │   34.118.229.70 ClusterSetIP ─► pods  │         └──────────────────────┘         └──────────┬───────────┘
    │   34.118.225.10 ClusterIP ─► 10.4.1.9 ├─────────────────────────────────────────────────────┘
    └───────────────────────────────────────┘

A cluster is a network namespace. Everything in it is real except the distance: the services are processes, glibc
queries unbound by the pod's own resolv.conf, and the kernel translates virtual addresses. A fault is made in the layer
in which it occurs in a cluster. A temporary change is a context manager.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from lab.cluster import Cluster, CommandFailed, run, try_out
from lab.dns import UNBOUND, Query, Record
from lab.leftovers import NETNS, claim, remove_leftovers, take_down
from lab.link import DEVICE
from lab.processes import CALLER, CENTRAL, PRODUCER, QUIET, ROOT, WEST, Service

EAST = {"CLUSTER_NAME": "third-cluster", "CLUSTER_LOCATION": "us-east1", "ZONE": "us-east1-c"}

CALLER_POD = "10.4.1.7"
LOCAL_PRODUCER_POD = "10.4.1.9"
LINK_LOCAL = "fe80::a04:107/64"
PRODUCER_PODS = ("10.8.2.11", "10.8.2.12")
THIRD_PODS = ("10.12.3.21", "10.12.3.22")
FOREIGN_CLUSTER_IP = "34.118.226.10"
CLUSTER_IP = "34.118.225.10"
CLUSTER_DNS = "10.4.0.10"
CLUSTER_SET_IP = "34.118.229.70"
CLUSTER_SET_NAME = "sample-producer.istio-apps.svc.clusterset.local"
CLUSTER_NAME = "sample-producer.istio-apps.svc.cluster.local"
HEADLESS_NAME = "sample-producer-pods.istio-apps.svc.clusterset.local"
SANITY_CHECK_NAME = "kubernetes.default.svc.cluster.local"
CLUSTER_SET_URL = f"http://{CLUSTER_SET_NAME}:8080"
CLUSTER_URL = f"http://{CLUSTER_NAME}:8080"

SEARCH = (
    "istio-apps.svc.cluster.local",
    "svc.cluster.local",
    "cluster.local",
    "us-west1-a.c.sample.internal",
    "c.sample.internal",
    "google.internal",
)
"""As GKE writes it: the domains of the cluster, then those of the node."""
NDOTS_5 = "ndots:5 timeout:1 attempts:1"
NDOTS_2 = "ndots:2 timeout:1 attempts:1"
"""glibc's default timeouts are 5 s, twice."""

TTL = 30


class Lab:
    """The clusters. Initially the producer's cluster exports two pods, and everything works."""

    def __init__(self, suffix: str = "") -> None:
        self.caller_cluster, self.producer_cluster, self.third_cluster = self.clusters = (
            Cluster("caller-cluster", WEST, "10.4.0.0/16", CLUSTER_DNS, CLUSTER_IP, (LOCAL_PRODUCER_POD,)),
            Cluster("producer-cluster", CENTRAL, "10.8.0.0/16", "10.8.0.10", FOREIGN_CLUSTER_IP, PRODUCER_PODS),
            Cluster("third-cluster", EAST, "10.12.0.0/16", "10.12.0.10", "34.118.227.10", THIRD_PODS),
        )
        for cluster in self.clusters:
            cluster.namespace = f"{cluster.name}{suffix}"
        self.exporting: list[Cluster] = []
        self.producers: dict[str, Service] = {}
        self.http = httpx.Client(
            timeout=60, trust_env=False, verify=False, limits=httpx.Limits(max_keepalive_connections=0)
        )
        self._changes: dict[str, Record] = {}
        self._options = NDOTS_5
        self._endpoints: tuple[str, ...] = ()
        self._affinity = False
        self._ports = count(8080)
        self._stopping: dict[str, ExitStack] = {}

    # Calls

    def call(self, message: Mapping[str, Any], caller: Service | None = None) -> dict[str, Any]:
        """Send a message to the caller, from inside its cluster; the hop."""
        return self.calling(message, caller).result()

    def calling(self, message: Mapping[str, Any], caller: Service | None = None) -> Future[dict[str, Any]]:
        """The same as `call`, concurrently."""
        return self.caller_cluster.threads.submit(self._post, (caller or self.main_caller).url, message)

    def _post(self, url: str, message: Mapping[str, Any]) -> dict[str, Any]:
        response = self.http.post(f"{url}/caller/messages", json=dict(message))
        assert response.status_code == 200, response.text
        hop: dict[str, Any] = response.json()
        return hop

    def running(self, rate: float, count: int, **more: Any) -> Future[dict[str, Any]]:
        """A run of the main caller, concurrently; its summary."""
        return self.caller_cluster.threads.submit(self._run, {"rate": rate, "count": count, **more})

    def _run(self, request: Mapping[str, Any]) -> dict[str, Any]:
        message = {"message": {"payload": "ping"}, **request}
        response = self.http.post(f"{self.main_caller.url}/caller/runs", json=message)
        assert response.status_code == 200, response.text
        events = [json.loads(line[5:]) for line in response.text.splitlines() if line.startswith("data:")]
        assert events[-1]["type"] == "done", events[-1]
        summary: dict[str, Any] = events[-1]["summary"]
        return summary

    def hops_counted(self, **labels: str) -> float:
        """Number of calls with these labels in the metrics of the main caller."""
        metrics = self.caller_cluster.inside(self.http.get, f"{self.main_caller.url}/metrics").text
        return sum(
            sample.value
            for family in text_string_to_metric_families(metrics)
            for sample in family.samples
            if sample.name == "caller_hop_duration_seconds_count" and labels.items() <= sample.labels.items()
        )

    def cli(
        self,
        *arguments: str,
        cluster: Cluster | None = None,
        timeout: float = 60,
        capture: bool = True,
        **environment: str,
    ) -> subprocess.CompletedProcess[str]:
        """Run `sample-caller` in a cluster, by default the caller's, as `kubectl exec` would."""
        cluster = cluster or self.caller_cluster
        return subprocess.run(
            [*cluster.prefix, sys.executable, "-m", "caller", *arguments],
            cwd=ROOT,
            env={
                "PATH": os.environ["PATH"],
                **({"COLUMNS": "120"} if capture else {"TERM": os.environ.get("TERM", "dumb")}),
                **QUIET,
                **cluster.identity,
                **CALLER_SETTINGS,
                "POD_NAME": "sample-caller-v1-0",
                "POD_NAMESPACE": "istio-apps",
                "POD_IP": cluster.caller_pod,
                **environment,
            },
            capture_output=capture,
            text=True,
            timeout=timeout,
            check=False,
        )

    # Processes

    @contextmanager
    def caller(self, **environment: str) -> Iterator[Service]:
        """One more caller, ready, with these settings."""
        with self._caller(**environment) as service:
            self.caller_cluster.inside(service.wait_ready)
            yield service

    @contextmanager
    def producer(self, pod: str, **environment: str) -> Iterator[Service]:
        """One more producer, ready, with an address of its own; not yet an endpoint."""
        with self._producer(pod, **environment) as service:
            self.cluster_of(pod).inside(service.wait_ready)
            yield service

    def _caller(self, **environment: str) -> AbstractContextManager[Service]:
        environment = {**CALLER_SETTINGS, "POD_NAME": "sample-caller-v1-0", **environment}
        return self._process(self.caller_cluster, CALLER, CALLER_POD, next(self._ports), environment)

    @contextmanager
    def _producer(self, pod: str, **environment: str) -> Iterator[Service]:
        cluster = self.cluster_of(pod)
        environment = {"POD_NAME": pod_name(pod), "DRAIN_SECONDS": "1", **environment}
        with cluster.address(pod), self._process(cluster, PRODUCER, pod, 8080, environment) as service:
            yield service

    @contextmanager
    def _process(
        self, cluster: Cluster, module: tuple[str, ...], pod: str, port: int, environment: Mapping[str, str]
    ) -> Iterator[Service]:
        """A service that may not be ready yet; killed at the end if it still runs."""
        complete = {
            "PATH": os.environ["PATH"],
            **QUIET,
            "HOST": pod,
            "PORT": str(port),
            "POD_IP": pod,
            "POD_NAMESPACE": "istio-apps",
            **cluster.identity,
            "HOST_NAME": environment["POD_NAME"],
            **environment,
        }
        log = self.folder / f"{pod}-{port}-{time.monotonic_ns()}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [*cluster.prefix, sys.executable, "-m", *module],
                cwd=ROOT,
                env=complete,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the process that built the lab
            )
        try:
            yield Pod(process, f"http://{pod}:{port}", log)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(10)

    def cluster_of(self, pod: str) -> Cluster:
        return next(cluster for cluster in self.clusters if pod.startswith(cluster.network.partition("0.0/")[0]))

    # Multi-Cluster Services: from exports and ready pods to names and endpoints

    def export(self, cluster: Cluster) -> None:
        self.exporting.append(cluster)
        self.sync()

    def unexport(self, cluster: Cluster) -> None:
        self.exporting.remove(cluster)
        self.sync()

    @contextmanager
    def exported(self, *clusters: Cluster) -> Iterator[None]:
        """Exactly these clusters export the Service."""
        before = self.exporting
        self.exporting = list(clusters)
        self.sync()
        try:
            yield
        finally:
            self.exporting = before
            self.sync()

    def scale(self, cluster: Cluster, replicas: int) -> None:
        """Start or stop producers of the cluster, stopping the last ones first; endpoints follow immediately."""
        leaving = [pod for pod in cluster.pods[replicas:] if pod in cluster.ready]
        cluster.ready = [pod for pod in cluster.ready if pod not in leaving]
        self.sync()
        for pod in leaving:
            self.producers[pod].process.terminate()
        for pod in leaving:
            with suppress(subprocess.TimeoutExpired):  # it may have been frozen
                self.producers.pop(pod).process.wait(5)
            self._stopping.pop(pod).close()
        for pod in cluster.pods[:replicas]:
            if pod not in cluster.ready:
                stack = self._stopping[pod] = ExitStack()
                self.producers[pod] = stack.enter_context(self.producer(pod))
                cluster.ready.append(pod)
        self.sync()

    @contextmanager
    def scaled(self, cluster: Cluster, replicas: int) -> Iterator[None]:
        before = len(cluster.ready)
        self.scale(cluster, replicas)
        try:
            yield
        finally:
            self.scale(cluster, before)

    def sync(self) -> None:
        """Update DNS and endpoints: ready pods of exporting clusters, and the name, everywhere, while one exports."""
        pods = [pod for cluster in self.exporting for pod in cluster.ready]
        if pods:  # before the name, so that it never resolves without them
            self.set_endpoints(*pods)
        for cluster in self.clusters:
            cluster.dns.set({**self._names(cluster), **(self._changes if cluster is self.caller_cluster else {})})
        if not pods:
            self.set_endpoints()

    def _names(self, cluster: Cluster) -> dict[str, Record]:
        names: dict[str, Record] = {
            SANITY_CHECK_NAME: {"addresses": ["34.118.224.1"], "ttl": TTL},
            CLUSTER_NAME: {"addresses": [cluster.cluster_ip], "ttl": TTL},
        }
        if self.exporting:
            names[CLUSTER_SET_NAME] = {"addresses": [CLUSTER_SET_IP], "ttl": TTL}
            pods = [(pod, exporter) for exporter in self.exporting for pod in exporter.ready]
            names[HEADLESS_NAME] = {"addresses": [pod for pod, _ in pods], "ttl": TTL} if pods else "nxdomain"
            for pod, exporter in pods:
                names[f"{pod_name(pod)}.{exporter.name}.{HEADLESS_NAME}"] = {"addresses": [pod], "ttl": TTL}
        return names

    # Changes to the caller's cluster

    @contextmanager
    def zone(self, changes: Mapping[str, Record]) -> Iterator[None]:
        """The DNS of the caller's cluster answers these names differently; `dns.py` lists the answers."""
        before = self._changes
        self.change_names({**before, **changes})
        try:
            yield
        finally:
            self.change_names(before)

    def change_names(self, changes: Mapping[str, Record]) -> None:
        self._changes = dict(changes)
        self.caller_cluster.dns.set({**self._names(self.caller_cluster), **changes})

    def queries(self) -> list[Query]:
        """The queries to the DNS of the caller's cluster since `forget_queries`."""
        return self.caller_cluster.dns.queries()

    def forget_queries(self) -> None:
        self.caller_cluster.dns.forget_queries()

    @contextmanager
    def resolver(self, options: str) -> Iterator[None]:
        """Different `options` in the caller's resolv.conf; glibc reads the file again after a change."""
        before, self._options = self._options, options
        self.caller_cluster.write_resolv_conf(SEARCH, options)
        try:
            yield
        finally:
            self._options = before
            self.caller_cluster.write_resolv_conf(SEARCH, before)

    @contextmanager
    def without_ipv6(self) -> Iterator[None]:
        """No IPv6 address in the caller's pod except loopback, so that there are no AAAA queries (AI_ADDRCONFIG)."""
        self.caller_cluster.ip("address", "del", LINK_LOCAL, "dev", "eth0")
        try:
            yield
        finally:
            self.caller_cluster.ip("address", "add", LINK_LOCAL, "dev", "eth0", "nodad")

    @contextmanager
    def endpoints(self, *pods: str, affinity: bool = False) -> Iterator[None]:
        """Exactly these pods behind the ClusterSetIP; `affinity`: each client stays on its first pod (`ClientIP`)."""
        before, was_affine = self._endpoints, self._affinity
        self._affinity = affinity
        self.set_endpoints(*pods)
        try:
            yield
        finally:
            self._affinity = was_affine
            self.set_endpoints(*before)

    def set_endpoints(self, *pods: str) -> None:
        """New connections alternate between the pods; without pods they are refused.

        A pod may be `address:port`, if its port is not that of the Service.
        """
        self._endpoints = pods
        for cluster in self.clusters:
            cluster.balance(pods, self._affinity)

    @property
    def endpoint_pods(self) -> tuple[str, ...]:
        return self._endpoints

    # Changes between the clusters

    @contextmanager
    def firewall(self, verdict: str) -> Iterator[None]:
        """A rule for packets that arrive in the producer's cluster: `DROP`, `REJECT --reject-with …`."""
        self.set_firewall(verdict)
        try:
            yield
        finally:
            self.set_firewall(None)

    def set_firewall(self, verdict: str | None) -> None:
        rules = [f"-A FIREWALL -p tcp -j {verdict}"] if verdict else []
        self.producer_cluster.rules("*filter", ":FIREWALL - [0:0]", *rules, "COMMIT")

    @contextmanager
    def latency(self, millis: float) -> Iterator[None]:
        """Round-trip time between the caller's and the producer's cluster, also for open connections."""
        ends = (self.caller_cluster, self.producer_cluster)
        names = [cluster.namespace for cluster in ends]
        command = [sys.executable, "-m", "lab.link", str(millis), *names]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == b"up\n", "the link has not started"
                for cluster, other in (ends, ends[::-1]):
                    cluster.ip("link", "set", DEVICE, "up")
                    cluster.ip("route", "add", other.network, "dev", DEVICE)
                yield
            finally:
                process.kill()  # this removes the devices and their routes

    # Up and down

    @contextmanager
    def up(self) -> Iterator["Lab"]:
        """The clusters, with all services ready; removed completely at the end.

        :raises CommandFailed: among other reasons, a namespace of the same name exists.
        """
        remove_leftovers()
        for cluster in self.clusters:
            if (NETNS / cluster.namespace).exists():
                raise CommandFailed(f"the network namespace {cluster.namespace} exists already")
        with ExitStack() as stack:
            self.folder = claim([cluster.namespace for cluster in self.clusters])
            stack.callback(take_down, self.folder)
            stack.callback(self.http.close)
            for cluster in self.clusters:
                cluster.write_resolv_conf(SEARCH, NDOTS_5)
                stack.enter_context(cluster.built(self.folder))
                cluster.import_service(CLUSTER_SET_IP)
            self._connect()
            self._start_services(stack)
            yield self

    def _connect(self) -> None:
        """Connect each cluster with each other; `eth0` has the addresses of the pods and the default route."""
        caller, producer, third = self.clusters
        links = ((caller, "eth0", producer, "eth0"), (caller, "eth1", third, "eth0"), (producer, "eth1", third, "eth1"))
        for one, device, other, peer in links:
            ends = ("name", device, "netns", one.namespace, "type", "veth", "peer", "name", peer, "netns")
            run("ip", "link", "add", *ends, other.namespace)
            for cluster, end in ((one, device), (other, peer)):
                cluster.ip("link", "set", end, "addrgenmode", "none")
                cluster.ip("link", "set", end, "up")
        caller.ip("address", "add", LINK_LOCAL, "dev", "eth0", "nodad")
        for cluster in self.clusters:
            cluster.ip("address", "add", f"{cluster.caller_pod}/32", "dev", "eth0")
            cluster.ip("route", "add", "default", "dev", "eth0")
        caller.ip("route", "add", third.network, "dev", "eth1")
        for one, other in ((producer, third), (third, producer)):
            one.ip("route", "add", other.network, "dev", "eth1")

    def _start_services(self, stack: ExitStack) -> None:
        """Start all services concurrently, then wait until all are ready."""
        started = []
        for cluster in (self.caller_cluster, self.producer_cluster):
            for pod in cluster.pods:
                self._stopping[pod] = ExitStack()
                stack.callback(self._stop, pod)
                self.producers[pod] = self._stopping[pod].enter_context(self._producer(pod))
                started.append((cluster, self.producers[pod]))
                cluster.ready.append(pod)
        for pod in THIRD_PODS:
            stack.callback(self._stop, pod)
        self.main_caller: Service = stack.enter_context(self._caller())
        self.exporting = [self.producer_cluster]
        self.sync()
        for cluster, service in [*started, (self.caller_cluster, self.main_caller)]:
            cluster.inside(service.wait_ready)

    def _stop(self, pod: str) -> None:
        if stack := self._stopping.pop(pod, None):
            stack.close()


class Pod(Service):
    """A service whose output is a file in the lab's folder, removed with it."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.process, self.url, self._log = process, url, log


CALLER_SETTINGS = {
    "PRODUCER_URL": CLUSTER_SET_URL,
    "COMPARE_URLS": CLUSTER_URL,
    "CONNECT_TIMEOUT_SECONDS": "1",
    "CALL_TIMEOUT_SECONDS": "10",
}


def pod_name(pod: str) -> str:
    """The name of the producer's pod that has this address."""
    return f"sample-producer-v1-{pod.rpartition('.')[2]}"


def missing() -> str | None:
    """Why the clusters cannot be built on this machine; None if they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for tool in ("ip", "iptables-restore"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    if UNBOUND is None:
        return "unbound is not installed"
    if not Path("/dev/net/tun").exists():
        return "/dev/net/tun does not exist"
    try:
        remove_leftovers()
        try_out()
    except (CommandFailed, OSError) as failure:
        return f"network namespaces or iptables do not work here: {failure}"
    return None


_NUMBERS = count()


def for_tests() -> AbstractContextManager[Lab]:
    """Clusters with unique names of their namespaces, so that several test runs can be concurrent."""
    number = next(_NUMBERS)
    return Lab(f"-{os.getpid()}-{number}" if number else f"-{os.getpid()}").up()
