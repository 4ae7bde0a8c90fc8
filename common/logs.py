"""Log lines: JSON with the field names of Cloud Logging, or text on a terminal.

Fields: https://docs.cloud.google.com/logging/docs/structured-logging
"""

import logging
import sys
from contextvars import ContextVar
from typing import Any

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from common.headers import TraceParent

PLACE_IN_TRACE: ContextVar[tuple[TraceParent | None, str | None]] = ContextVar("place_in_trace", default=(None, None))
"""Of the request that the current task serves: its place in a trace, and the Google Cloud project, where known."""


def trace_fields(parent: TraceParent, project: str | None) -> dict[str, Any]:
    """Where Cloud Logging looks for the trace; without the project, the agent on the node adds its own."""
    return {
        "logging.googleapis.com/trace": f"projects/{project}/traces/{parent.trace_id}" if project else parent.trace_id,
        "logging.googleapis.com/spanId": parent.span_id,
        "logging.googleapis.com/trace_sampled": parent.sampled,
    }


class CloudLoggingFormatter(JsonFormatter):
    def __init__(self) -> None:
        super().__init__(
            "%(message)s",
            timestamp="time",
            rename_fields={"exc_info": "stack_trace"},
            reserved_attrs=[*RESERVED_ATTRS, "color_message"],
        )

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        super().add_fields(log_data, record, message_dict)
        log_data["message"] = log_data["message"].rstrip()
        log_data["severity"] = record.levelname  # Python's names are Cloud Logging's
        log_data["logger"] = record.name
        parent, project = PLACE_IN_TRACE.get()
        if parent is not None:
            log_data |= trace_fields(parent, project)


class TextFormatter(logging.Formatter):
    """One readable line; of the fields of a request line only the sentence is shown."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S")


def configure(log_format: str, level: str) -> None:
    """Send everything to standard output; uvicorn's own loggers included, which must have no handlers of their own."""
    text = log_format == "text" or (log_format == "auto" and sys.stdout.isatty())
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(TextFormatter() if text else CloudLoggingFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
