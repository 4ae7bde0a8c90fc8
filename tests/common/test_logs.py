"""Log lines: the fields of Cloud Logging as JSON, and text for a terminal."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from common.headers import TraceParent
from common.logs import TRACE_CONTEXT, JsonFormatter, TextFormatter
from lab.processes import ROOT

PARENT = TraceParent("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", sampled=True)


def logged(
    message: str,
    *args: object,
    level: int = logging.INFO,
    error: BaseException | None = None,
    extra: dict[str, Any] | None = None,
) -> logging.LogRecord:
    """The record that a logger makes of this."""
    exc_info = (type(error), error, error.__traceback__) if error else None
    return logging.Logger("a.b").makeRecord("a.b", level, __file__, 1, message, args, exc_info, extra=extra)


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    line = JsonFormatter().format(record)
    assert "\n" not in line
    fields: dict[str, Any] = json.loads(line)
    return fields


@contextmanager
def trace_context(parent: TraceParent | None, project: str | None) -> Iterator[None]:
    token = TRACE_CONTEXT.set((parent, project))
    try:
        yield
    finally:
        TRACE_CONTEXT.reset(token)


def test_a_line_has_message_time_severity_and_logger_and_nothing_else() -> None:
    record = logged("%d of %s\n", 1, "two", level=logging.WARNING)
    record.color_message = "of uvicorn"
    fields = fields_of(record)
    time = datetime.fromisoformat(fields.pop("time"))
    assert fields == {"message": "1 of two", "severity": "WARNING", "logger": "a.b"}
    assert time.tzinfo == UTC
    assert time.timestamp() == pytest.approx(record.created, abs=1e-5)


@pytest.mark.parametrize("level", ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"])
def test_a_severity_is_one_of_cloud_logging(level: str) -> None:
    assert fields_of(logged("a", level=getattr(logging, level)))["severity"] == level


def test_extra_fields_are_beside_the_message() -> None:
    extra = {"requestId": "abc", "status": 200, "traceId": None, "httpRequest": {"latency": "0.001000s"}}
    assert fields_of(logged("a", extra=extra)).items() >= extra.items()


def test_a_value_that_json_does_not_have_is_logged_as_text() -> None:
    fields = fields_of(logged("a", extra={"path": Path("/x"), "nested": [{1}], "error": ValueError("bad")}))
    assert (fields["path"], fields["nested"], fields["error"]) == ("/x", ["{1}"], "bad")


def test_an_exception_is_a_stack_trace() -> None:
    try:
        raise KeyError("missing")
    except KeyError as error:
        fields = fields_of(logged("failed", level=logging.ERROR, error=error))
    assert fields["message"] == "failed"
    assert fields["stack_trace"].startswith("Traceback (most recent call last):\n")
    assert fields["stack_trace"].endswith("KeyError: 'missing'")
    assert "exc_info" not in fields
    assert "stack_trace" not in fields_of(logged("a"))


def test_a_line_of_a_request_has_its_trace_context() -> None:
    names = [f"logging.googleapis.com/{name}" for name in ("trace", "spanId", "trace_sampled")]
    with trace_context(PARENT, "my-project"):
        fields = fields_of(logged("a"))
    assert [fields[name] for name in names] == [
        "projects/my-project/traces/4bf92f3577b34da6a3ce929d0e0e4736",
        "00f067aa0ba902b7",
        True,
    ]
    with trace_context(PARENT._replace(sampled=False), None):
        fields = fields_of(logged("a"))
    assert [fields[name] for name in names] == ["4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", False]
    assert not fields_of(logged("a")).keys() & set(names)


def test_text_is_one_line_with_time_level_and_message() -> None:
    record = logged("%s answered", "pod-1", level=logging.WARNING, extra={"requestId": "abc"})
    time, level, message = TextFormatter().format(record).split(maxsplit=2)
    assert datetime.strptime(time, "%H:%M:%S")
    assert (level, message) == ("WARNING", "pod-1 answered")


@pytest.mark.parametrize(("log_format", "is_json"), [("json", True), ("auto", True), ("text", False)])
def test_every_logger_writes_to_standard_output_in_the_configured_format(log_format: str, is_json: bool) -> None:
    """In a process of its own, because the configuration is that of the process. A pipe is not a terminal."""
    script = f"""
import logging
from common import logs

logs.configure({log_format!r}, "info")
logging.getLogger("uvicorn.error").info("started")
logging.getLogger("httpx").info("noise")
logging.getLogger("a").debug("below the level")
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    [line] = ended.stdout.splitlines()
    assert ended.stderr == ""
    if is_json:
        assert json.loads(line).items() >= {"message": "started", "logger": "uvicorn.error"}.items()
    else:
        assert line.endswith(" INFO    started")
