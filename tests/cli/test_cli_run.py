"""`sample-caller run` and `merge`: output and exit codes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hdrh.histogram import HdrHistogram
from pydantic import TypeAdapter
from typer.testing import CliRunner, Result

from caller.cli.app import app
from caller.run.model import Done, Event, Started, Summary, Tick
from lab.processes import CENTRAL, PRODUCER, ROOT, WEST, free_port, running
from tests.cli.test_cli import cli
from tests.support.terminals import run_on_a_terminal

EVENT: TypeAdapter[Any] = TypeAdapter(Event)


@pytest.fixture(scope="module")
def producer() -> Iterator[str]:
    with running(PRODUCER, POD_NAME="pod-1", LOG_LEVEL="warning", **CENTRAL) as service:
        yield service.url


@pytest.fixture(scope="module")
def other() -> Iterator[str]:
    with running(PRODUCER, POD_NAME="pod-2", LOG_LEVEL="warning", CLUSTER_NAME="other", ZONE="z-2") as service:
        yield service.url


def started(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "caller", "run", *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "GCE_METADATA_HOST": "none", **WEST, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def invoked(*arguments: str, text: str = "", **environment: str) -> Result:
    """The command in this process: it does the same, and is faster for tables of cases."""
    quiet = {"GCE_METADATA_HOST": "none", "COLUMNS": "200", **WEST}
    return CliRunner().invoke(app, arguments, input=text, env=quiet | environment)


def events_of(text: str) -> list[Any]:
    return [EVENT.validate_json(line) for line in text.splitlines()]


def test_a_count_of_calls_ends_with_the_summary(producer: str) -> None:
    ended = cli("run", "--rate", "40", "--count", "30", PRODUCER_URL=producer)
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = [line.strip() for line in ended.stdout.splitlines()]
    assert lines[0] == f"30 calls at 40/s for 0.75 s, fresh, to {producer}"
    assert "complete: 30 of 30 calls sent, 30 ok" in lines
    assert any(line.startswith("producer-cluster") and line.split()[1] == "30" for line in lines)
    for kind, name in (("cluster", "producer-cluster"), ("zone", "us-central1-b"), ("pod", "pod-1")):
        assert any(line.split()[:3] == [kind, name, "30"] and "100%" in line for line in lines)
    assert "one pod answered" in lines
    assert "+ pod-1 in producer-cluster" in lines


def test_json_is_one_event_per_line_as_the_api_streams_them(producer: str) -> None:
    ended = cli("run", "--json", "--rate", "30", "--duration", "1200ms", "--reuse", PRODUCER_URL=producer)
    assert (ended.returncode, ended.stderr) == (0, "")
    start, *ticks, done = events_of(ended.stdout)
    assert (type(start), {type(tick) for tick in ticks}, type(done)) == (Started, {Tick}, Done)
    assert len(ticks) >= 3
    assert (start.run.count, start.run.connection, start.run.rate) == (36, "reuse", 30)
    assert done.summary.outcomes == {"ok": 36}
    assert "newPods" in json.loads(ended.stdout.splitlines()[1])


def test_json_is_printed_while_the_run_goes_on(producer: str) -> None:
    with started("--json", "--rate", "10", "--duration", "60s", PRODUCER_URL=producer) as process:
        assert process.stdout is not None
        try:
            for kind in (Started, Tick, Tick):
                assert isinstance(EVENT.validate_json(process.stdout.readline()), kind)
            assert process.poll() is None
        finally:
            process.kill()


def test_the_limits_of_the_api_do_not_apply_to_the_command(producer: str) -> None:
    arguments = ("--json", "--rate", "100", "--count", "50")
    ended = cli("run", *arguments, PRODUCER_URL=producer, RUN_MAX_RATE="10", RUN_MAX_SECONDS="0.1", RUN_MAX_ACTIVE="0")
    assert events_of(ended.stdout)[-1].summary.sent == 50


def test_targets_are_called_in_turn_and_faults_are_passed_on(producer: str, other: str) -> None:
    targets = ("--target", producer, "--target", other)
    faults = ("--payload", "x", "--delay", "50", "--response-code", "503")
    arguments = (
        "--json",
        "--rate",
        "40",
        "--count",
        "20",
        "--timeout",
        "3",
        "--max-in-flight",
        "30",
        *targets,
        *faults,
    )
    events = events_of(cli("run", *arguments, PRODUCER_URL=producer, COMPARE_URLS=other).stdout)
    spec, summary = events[0].run, events[-1].summary
    assert (spec.targets, spec.timeout_seconds, spec.max_in_flight) == ([producer, other], 3, 30)
    assert summary.distribution.clusters == {"producer-cluster": 10, "other": 10}
    assert summary.outcomes == {"http_error": 20}
    assert all(peer.service_time.p50_millis >= 50 for peer in summary.peers)


def test_calls_over_the_in_flight_limit_are_reported_as_dropped(producer: str) -> None:
    arguments = ("--rate", "50", "--count", "20", "--delay", "2000", "--max-in-flight", "3")
    ended = cli("run", *arguments, PRODUCER_URL=producer)
    assert "complete: 3 of 20 calls sent, 17 dropped (in-flight limit), 3 ok" in ended.stdout


CLOSED = "closed"
"""Instead of the URL of the producer: a closed port."""
EXPECTATIONS: tuple[tuple[int, str, tuple[str, ...], str], ...] = (
    (0, "", ("--expect-cluster", "producer-cluster"), ""),
    (0, "", ("--max-failures", "0", "--max-outage", "20s", "--max-p99", "60s"), ""),
    (0, CLOSED, (), ""),
    (
        1,
        "",
        ("--expect-cluster", "producer-cluster,other"),
        "expected an answer from other; clusters that answered: producer-cluster",
    ),
    (
        1,
        CLOSED,
        ("--expect-cluster", "producer-cluster"),
        "expected an answer from producer-cluster; clusters that answered: none",
    ),
    (0, CLOSED, ("--max-failures", "5"), ""),
    (1, CLOSED, ("--max-failures", "4"), "5 calls failed; the maximum is 4: 5 refused"),
    (1, CLOSED, ("--max-outage", "50ms"), "the longest outage was"),
    (0, CLOSED, ("--max-outage", "1m"), ""),
    (1, "", ("--max-p99", "0.1ms"), "p99 of producer-cluster was"),
    (1, "", ("--delay", "300", "--max-p99", "290ms"), "the maximum is 290 ms"),
    (1, "", ("--response-code", "500", "--max-failures", "0"), "5 http_error"),
)


@pytest.mark.parametrize(("status", "url", "arguments", "text"), EXPECTATIONS)
def test_expectations_decide_the_exit_code_and_each_unmet_one_is_printed(
    producer: str, status: int, url: str, arguments: tuple[str, ...], text: str
) -> None:
    url = f"127.0.0.1:{free_port()}" if url == CLOSED else producer
    ended = invoked("run", "--rate", "40", "--count", "5", *arguments, PRODUCER_URL=url)
    assert ended.exit_code == status, ended.stderr
    assert text in ended.stderr
    assert ended.stderr.count("not as expected: ") == status


def test_two_clusters_that_both_answered_are_as_expected(producer: str, other: str) -> None:
    arguments = ("--rate", "40", "--count", "6", "--target", producer, "--target", other)
    clusters = ("--expect-cluster", "producer-cluster, other")
    assert invoked("run", *arguments, *clusters, PRODUCER_URL=producer, COMPARE_URLS=other).exit_code == 0


def test_all_unmet_expectations_are_printed() -> None:
    arguments = (
        *("--rate", "40", "--count", "5"),
        *("--expect-cluster", "a,b", "--max-failures", "0", "--max-outage", "1ms"),
    )
    ended = invoked("run", *arguments, PRODUCER_URL=f"127.0.0.1:{free_port()}")
    assert ended.exit_code == 1
    assert ended.stderr.count("not as expected: ") == 4


@pytest.mark.parametrize(
    ("arguments", "status", "number"),
    [
        ((), 0, signal.SIGINT),
        (("--expect-cluster", "producer-cluster"), 0, signal.SIGTERM),
        (("--expect-cluster", "x"), 1, signal.SIGINT),
    ],
)
def test_ctrl_c_prints_the_summary_and_the_expectations_decide(
    producer: str, arguments: tuple[str, ...], status: int, number: signal.Signals
) -> None:
    with started("--rate", "20", "--duration", "60s", *arguments, PRODUCER_URL=producer) as process:
        assert process.stdout is not None
        for _ in range(2):  # headline, first pod
            process.stdout.readline()
        process.send_signal(number)
        began = time.monotonic()
        printed, errors = process.communicate(timeout=60)
    assert time.monotonic() - began < 20, "the whole run would take 60 s"
    assert f"stopped: {number.name}: " in printed
    assert re.search(r"pod +pod-1 ", printed)
    assert process.returncode == status, errors
    assert "Traceback" not in errors


def test_ctrl_c_while_only_the_last_calls_are_in_flight_ends_the_run_too(producer: str) -> None:
    with started("--count", "1", "--delay", "50000", "--json", PRODUCER_URL=producer) as process:
        assert process.stdout is not None
        for _ in range(2):
            process.stdout.readline()
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        process.communicate(timeout=60)
    assert time.monotonic() - began < 20, "the call would take 50 s"


def test_a_reader_that_closes_the_pipe_causes_no_traceback(producer: str) -> None:
    with started("--json", "--rate", "20", "--duration", "60s", PRODUCER_URL=producer) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
        process.wait(20)
    assert "Traceback" not in errors


def test_a_pipe_gets_no_escape_sequences_and_a_line_every_five_seconds(producer: str) -> None:
    ended = cli("run", "--rate", "10", "--duration", "5.8s", PRODUCER_URL=producer)
    assert "\x1b" not in ended.stdout
    assert re.search(r"^[5-9] s: \d+ completed, \d+ ok", ended.stdout, re.MULTILINE)
    assert len(ended.stdout.splitlines()) < 20


def test_a_terminal_shows_a_live_table_and_ends_with_the_summary(producer: str) -> None:
    printed = on_a_terminal("run", "--rate", "40", "--count", "60", PRODUCER_URL=producer)
    live, _, summary = printed.rpartition("complete: 60 of 60 calls sent, 60 ok")
    assert re.search(r"\d+ of 60, \d+\.\d/s, \d+ in flight", live)
    assert re.search(r"p50 [▁▂▃▄▅▆▇█]+ \d+\.\d ms", live)
    assert "+ pod-1 in producer-cluster" in live
    assert "\x1b[?25l" in live
    assert live.count("\x1b[?25h") >= 1, "the cursor is shown again"
    assert "\x1b[2K" not in summary, "no line is erased any more"
    assert "one pod answered" in summary
    assert "100%" in summary


def test_escape_sequences_of_the_other_side_do_not_reach_the_terminal(producer: str) -> None:
    hostile = "\x1b[31mred\x1b]0;title\x07"
    with running(PRODUCER, CLUSTER_NAME=hostile, POD_NAME=hostile, ZONE="z-a") as service:
        printed = on_a_terminal("run", "--rate", "20", "--count", "20", PRODUCER_URL=service.url)
    assert "\\x1b[31mred\\x1b]0;title\\x07" in printed
    assert "\x1b]0;" not in printed
    assert "\x1b[31mred" not in printed


def on_a_terminal(*arguments: str, **environment: str) -> str:
    status, printed = run_on_a_terminal(*arguments, **environment)
    assert status == 0, printed
    return printed


BAD_USAGE = (
    (("--rate", "0"), "--rate"),
    (("--rate", "nan"), "--rate"),
    (("--rate", "fast"), "--rate"),
    (("--count", "0"), "--count"),
    (("--duration", "soon"), "--duration"),
    (("--duration", "0s"), "--duration"),
    (("--duration", "-1s"), "--duration"),
    (("--max-outage", "1 hour"), "--max-outage"),
    (("--max-p99", "x"), "--max-p99"),
    (("--max-failures", "-1"), "--max-failures"),
    (("--max-in-flight", "0"), "--max-in-flight"),
    (("--delay", "-1"), "--delay"),
    (("--response-code", "99"), "--response-code"),
    (("--fault-rate", "2"), "--fault-rate"),
    (("--target", "http://evil.example"), "--target"),
    (("--nonsense",), "--nonsense"),
)


@pytest.mark.parametrize(("arguments", "text"), BAD_USAGE)
def test_bad_usage_is_2_with_the_option_named(arguments: Sequence[str], text: str) -> None:
    ended = invoked("run", *arguments)
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert text in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--rate", "inf"), "--rate"),
        (("--timeout", "0"), "--timeout"),
        (("--timeout", "-1"), "--timeout"),
        (("--timeout", "nan"), "--timeout"),
    ],
)
def test_more_bad_usage_is_2_with_the_option_named(arguments: Sequence[str], text: str) -> None:
    ended = invoked("run", "--duration", "100ms", *arguments, PRODUCER_URL=f"127.0.0.1:{free_port()}")
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert text in ended.stderr


def test_a_run_without_any_outage_can_be_expected(producer: str) -> None:
    assert invoked("run", "--count", "2", "--rate", "20", "--max-outage", "0s", PRODUCER_URL=producer).exit_code == 0


def test_the_number_of_calls_is_that_of_the_rate_and_the_time() -> None:
    arguments = ("--json", "--rate", "0.57", "--duration", "100s")
    with started(*arguments, PRODUCER_URL=f"127.0.0.1:{free_port()}") as process:
        assert process.stdout is not None
        start = EVENT.validate_json(process.stdout.readline())
        process.kill()
    assert start.run.count == 57


def test_summaries_of_concurrent_processes_are_merged_into_one(producer: str, other: str, tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.json" for number in range(3)]

    def run(number: int) -> None:
        arguments = ("--json", "--rate", "30", "--count", "30", "--target", producer, "--target", other)
        files[number].write_text(cli("run", *arguments, PRODUCER_URL=producer, COMPARE_URLS=other).stdout)

    with ThreadPoolExecutor() as pool:
        list(pool.map(run, range(3)))
    ended = cli("merge", *map(str, files))
    assert (ended.returncode, ended.stderr) == (0, "")
    total = Summary.model_validate_json(ended.stdout)
    parts = [events_of(file.read_text())[-1].summary for file in files]
    assert (total.offered, total.sent, total.done, total.failures) == (90, 90, 90, 0)
    assert total.outcomes == {"ok": 90}
    assert total.distribution.clusters == {"producer-cluster": 45, "other": 45}
    assert total.rate == pytest.approx(sum(part.rate for part in parts), abs=0.01)
    assert (total.balance.verdict, total.balance.pods) == ("even", 2)
    for peer in total.peers:
        text = total.histograms.latency[peer.cluster]
        assert HdrHistogram.decode(text).get_total_count() == peer.latency.count == 45
        slowest = max(part.peers[parts_index(part, peer.cluster)].latency.max_millis for part in parts)
        assert peer.latency.max_millis == slowest


def parts_index(summary: Summary, cluster: str) -> int:
    return [peer.cluster for peer in summary.peers].index(cluster)


@pytest.fixture(scope="module")
def output(producer: str) -> str:
    """The output of one run with `--json`."""
    return cli("run", "--json", "--rate", "40", "--count", "10", PRODUCER_URL=producer).stdout


def test_merge_reads_standard_input_and_several_runs_in_one_file(output: str, tmp_path: Path) -> None:
    file = tmp_path / "runs.json"
    file.write_text(output)
    ended = invoked("merge", str(file), "-", text="a line of something else\n" + output + output)
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert Summary.model_validate_json(ended.stdout).sent == 30


def test_merge_of_one_run_is_that_run(output: str) -> None:
    assert Summary.model_validate_json(invoked("merge", "-", text=output).stdout) == events_of(output)[-1].summary


def test_merge_refuses_what_is_not_the_output_of_a_run(output: str, tmp_path: Path) -> None:
    *_, done = output.splitlines()
    broken = json.loads(done)
    broken["summary"]["histograms"]["schedulingDelay"] = "garbage"
    for text, reason in (
        ("", "no event of type done"),
        (output.splitlines()[0], "no event of type done"),
        ('{"type":"done"}', "Field required"),
        (done[: len(done) // 2], "Invalid JSON"),
        (json.dumps(broken), "not an encoded HdrHistogram"),
    ):
        ended = invoked("merge", "-", text=text)
        assert (ended.exit_code, ended.stdout) == (2, ""), text[:50]
        assert reason in ended.stderr
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    for path in ("/nonexistent", str(tmp_path), str(binary)):
        ended = invoked("merge", path)
        assert ended.exit_code == 2
        assert path[:20] in ended.stderr
    assert invoked("merge").exit_code == 2
