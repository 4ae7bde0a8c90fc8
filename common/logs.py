"""Log lines: JSON with the field names of Cloud Logging, or text on a terminal.

Fields: https://docs.cloud.google.com/logging/docs/structured-logging
"""

import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from pythonjsonlogger.core import RESERVED_ATTRS, BaseJsonFormatter
from pythonjsonlogger.json import JsonEncoder

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


NO_FIELDS = frozenset((*RESERVED_ATTRS, "color_message"))
"""What a record has besides what was given as `extra`; the last is uvicorn's."""


class CloudLoggingFormatter(BaseJsonFormatter):
    def __init__(self) -> None:
        super().__init__("%(message)s")
        self.encoder = JsonEncoder()

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        log_data["message"] = record.message.rstrip()
        log_data |= {name: value for name, value in record.__dict__.items() if name not in NO_FIELDS}
        log_data["time"] = datetime.fromtimestamp(record.created, UTC).isoformat()
        log_data["severity"] = record.levelname  # Python's names are Cloud Logging's
        log_data["logger"] = record.name
        parent, project = PLACE_IN_TRACE.get()
        if parent is not None:
            log_data |= trace_fields(parent, project)
        if exception := message_dict.get("exc_info"):
            log_data["stack_trace"] = exception

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        return self.encoder.encode(log_data)


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
