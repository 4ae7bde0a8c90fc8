"""`sample-caller call` and `check`: output and exit codes. The cases are those that a new user would try."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from socket import SHUT_WR, create_server, socket
from typing import Any

import pytest

from caller.cli.terminal import BAR_CELLS
from common import __version__
from lab.lab import CLUSTER_NAME, CLUSTER_SET_NAME, CLUSTER_SET_URL, CLUSTER_URL, Lab
from lab.processes import CENTRAL, PRODUCER, ROOT, WEST, free_port, running
from tests.support.terminals import run_on_a_terminal


def cli(*arguments: str, prefix: tuple[str, ...] = (), **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, sys.executable, "-m", "caller", *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "GCE_METADATA_HOST": "none", **WEST, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def called(*arguments: str, prefix: tuple[str, ...] = (), **environment: str) -> dict[str, Any]:
    """The hop that `call --json` printed, of a call that is not `ok`."""
    ended = cli("call", "--json", *arguments, prefix=prefix, **environment)
    assert ended.returncode == 1, ended.stderr
    hop: dict[str, Any] = json.loads(ended.stdout)
    return hop


@pytest.fixture(scope="module")
def producer() -> Iterator[str]:
    with running(PRODUCER, POD_NAME="pod-1", **CENTRAL) as service:
        yield service.url


def test_a_call_shows_who_answered_and_where_the_time_went(producer: str) -> None:
    ended = cli("call", "--delay", "300", PRODUCER_URL=producer)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "answered by sample-producer in producer-cluster" in ended.stdout
    assert "cross-cluster: yes (region: yes, zone: yes)" in ended.stdout
    rows = {line.strip().partition("  ")[0]: line for line in ended.stdout.splitlines()}
    delay = float(rows["delay"].split()[1])
    round_trip = float(rows["round trip"].split()[2])
    assert 300 <= delay <= round_trip
    assert rows["delay"].count("█") == pytest.approx(delay / round_trip * BAR_CELLS, abs=1)
    assert "\x1b" not in ended.stdout


def test_a_503_of_the_producer_has_its_identity_and_its_delay(producer: str) -> None:
    hop = called("--response-code", "503", "--delay", "300", PRODUCER_URL=producer)
    assert (hop["outcome"], hop["statusCode"], hop["answeredBy"]["who"]) == ("http_error", 503, "producer")
    assert hop["producerMetadata"]["clusterName"] == "producer-cluster"
    assert 300 <= hop["phases"]["producerDelayMillis"] <= hop["roundTripTimeMillis"]
    assert hop["diagnosis"]["severity"] == "warning"


def test_a_stopped_producer_is_refused() -> None:
    hop = called(PRODUCER_URL=f"localhost:{free_port()}")
    assert (hop["outcome"], hop["statusCode"]) == ("refused", 502)
    causes = [cause["cause"] for cause in hop["diagnosis"]["causes"]]
    assert "no ready endpoint" in causes[0]
    assert "importer" in causes[1]


def test_an_exported_service_without_pods_is_refused_with_endpoints_and_importer_iam_in_order(lab: Lab) -> None:
    with lab.endpoints():
        hop = called(prefix=lab.caller_cluster.prefix, PRODUCER_URL=CLUSTER_SET_URL)
    assert hop["outcome"] == "refused"
    first, second, *_ = hop["diagnosis"]["causes"]
    assert "no ready pod" in first["cause"]
    assert first["command"] == (
        "kubectl --context producer-cluster -n istio-apps get pods,endpointslices -l app=sample-producer"
    )
    assert "importer" in second["cause"]
    assert "principal://" in second["fix"]
    assert hop["connection"]["peerAddress"] is None
    assert hop["addresses"] == ["34.118.229.70"]


def test_a_name_that_is_not_exported_is_nxdomain_with_export_namespace_and_waiting_in_order(lab: Lab) -> None:
    with lab.zone({CLUSTER_SET_NAME: "nxdomain"}):
        hop = called(prefix=lab.caller_cluster.prefix, PRODUCER_URL=CLUSTER_SET_URL)
        text = cli("call", prefix=lab.caller_cluster.prefix, PRODUCER_URL=CLUSTER_SET_URL).stdout
    assert hop["outcome"] == "dns_nxdomain"
    assert {answer["rcode"] for answer in hop["dns"]["absolute"]} == {"NXDOMAIN"}
    causes = [cause for cause in hop["diagnosis"]["causes"] if "own cluster only" not in cause["cause"]]
    for cause, (words, command) in zip(
        causes,
        (
            ("no ServiceExport", "get service,serviceexport sample-producer"),
            ("namespace istio-apps does not exist", "get namespace istio-apps"),
            ("younger than five minutes", "describe serviceexport sample-producer"),
        ),
        strict=False,
    ):
        assert words in cause["cause"]
        assert command in cause["command"]
    assert "NXDOMAIN" in text
    assert "\n     kubectl --context producer-cluster -n istio-apps get service,serviceexport sample-producer\n" in text


@contextmanager
def accepting_and_closing() -> Iterator[str]:
    with create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        # The request is read: closing with unread data sends RST instead of FIN.
                        connection.shutdown(SHUT_WR)
                        while connection.recv(65_536):
                            pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(2)
            thread.join()


def test_a_server_that_accepts_and_closes_is_closed() -> None:
    with accepting_and_closing() as address:
        hop = called(PRODUCER_URL=address)
    assert (hop["outcome"], hop["error"]) == ("closed", "the connection was closed without a reply")


def test_a_port_that_drops_syns_is_a_connect_timeout_after_the_configured_time() -> None:
    with socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        port = listener.getsockname()[1]
        hop = called(PRODUCER_URL=f"127.0.0.1:{port}", CONNECT_TIMEOUT_SECONDS="0.5")
        for filler in fillers:
            filler.close()
    assert (hop["outcome"], hop["statusCode"]) == ("connect_timeout", 504)
    assert 490 < hop["roundTripTimeMillis"] < 2000, "the default is 2 s"


def test_expectations_decide_the_exit_code(producer: str) -> None:
    closed = f"localhost:{free_port()}"
    expected = (
        (0, producer, ("--expect-cluster", "producer-cluster")),
        (1, producer, ("--expect-cluster", "other")),
        (1, producer, ("--response-code", "500")),
        (0, producer, ("--response-code", "500", "--expect-outcome", "http_error")),
        (0, closed, ("--expect-outcome", "refused")),
        (1, closed, ("--expect-outcome", "refused", "--expect-cluster", "producer-cluster")),
    )
    for status, url, arguments in expected:
        ended = cli("call", *arguments, PRODUCER_URL=url)
        assert ended.returncode == status, (arguments, ended.stderr)
        assert ("not as expected" in ended.stderr) == (status == 1)


BAD_USAGE = (
    (("call", "--target", "http://evil.example"), "expected one of http://sample-producer:8080"),
    (("check", "--target", "http://evil.example"), "expected one of http://sample-producer:8080"),
    (("call", "--delay", "-1"), "--delay"),
    (("call", "--delay", "soon"), "--delay"),
    (("call", "--response-code", "99"), "--response-code"),
    (("call", "--fault-rate", "2"), "--fault-rate"),
    (("call", "--expect-outcome", "fine"), "--expect-outcome: expected one of ok"),
    (("check", "--expect-outcome", "fine"), "--expect-outcome: expected one of ok"),
    (("call", "--nonsense"), "--nonsense"),
    (("nonsense",), "nonsense"),
)


@pytest.mark.parametrize(("arguments", "text"), BAD_USAGE)
def test_bad_usage_is_2_with_the_option_named(arguments: tuple[str, ...], text: str) -> None:
    ended = cli(*arguments, COLUMNS="200")
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert text in ended.stderr


def test_a_bad_setting_is_2_in_one_line() -> None:
    ended = cli("check", PRODUCER_URL="ftp://x")
    assert ended.returncode == 2
    assert ended.stderr.startswith("PRODUCER_URL='ftp://x': ")


def test_check_passes_across_clusters_and_prints_every_step(lab: Lab) -> None:
    ended = cli("check", prefix=lab.caller_cluster.prefix, PRODUCER_URL=CLUSTER_SET_URL, COMPARE_URLS=CLUSTER_URL)
    assert ended.returncode == 0, ended.stdout
    for step in ("settings", "identity", "resolv.conf", "resolver", "dns", "tcp", "tls", "http", "crossing", "clock"):
        assert f" {step} " in ended.stdout
    assert "34.118.229.70" in ended.stdout


def test_check_passes_where_only_the_address_to_compare_with_does_not_exist(lab: Lab) -> None:
    """As in the caller's overlay: its own cluster has no producer."""
    with lab.zone({CLUSTER_NAME: "nxdomain"}):
        ended = cli("check", prefix=lab.caller_cluster.prefix, PRODUCER_URL=CLUSTER_SET_URL, COMPARE_URLS=CLUSTER_URL)
    assert ended.returncode == 0, ended.stdout
    assert "dns_nxdomain" in ended.stdout


def test_check_fails_with_the_next_step_and_json_is_the_apis_report(lab: Lab) -> None:
    with lab.zone({CLUSTER_SET_NAME: "nxdomain"}):
        arguments = ("check", "--json", "--target", CLUSTER_SET_NAME)
        ended = cli(*arguments, prefix=lab.caller_cluster.prefix, PRODUCER_URL=CLUSTER_SET_URL)
    report = json.loads(ended.stdout)
    assert ended.returncode == 1
    assert report["verdict"] == "fail"
    assert report["targets"] == [{"target": CLUSTER_SET_URL, "outcome": "dns_nxdomain", "clusterName": None}]
    verdicts = {check["check"]: check["verdict"] for check in report["checks"] if check["target"]}
    assert verdicts["dns"] == "fail"
    assert {verdict for step, verdict in verdicts.items() if step != "dns"} == {"skip"}
    assert all(check["nextStep"] for check in report["checks"] if check["verdict"] in ("warn", "fail"))


def test_check_with_an_expected_outcome_is_met_by_it() -> None:
    closed = f"localhost:{free_port()}"
    assert cli("check", PRODUCER_URL=closed).returncode == 1
    assert cli("check", "--expect-outcome", "refused", PRODUCER_URL=closed).returncode == 0


def test_on_a_terminal_the_verdict_has_a_color_and_text_of_the_other_side_has_none(producer: str) -> None:
    """Escape sequences in text of the other side are printed, not interpreted."""
    hostile = "\x1b[31mred\x1b]0;title\x07"
    with running(PRODUCER, CLUSTER_NAME=hostile, ZONE="z-a") as service:
        printed = on_a_terminal("call", PRODUCER_URL=service.url)
    assert "\x1b[32m✓ ok" in printed
    assert "\\x1b[31mred\\x1b]0;title\\x07" in printed
    assert "\x1b]0;" not in printed


def on_a_terminal(*arguments: str, **environment: str) -> str:
    status, printed = run_on_a_terminal(*arguments, **environment)
    assert status in (0, 1)
    return printed


def test_version_and_help_are_printed() -> None:
    assert cli("--version").stdout == f"sample-caller {__version__}\n"
    assert "Exit codes" in cli("--help").stdout
