"""Log lines: JSON with the field names of Cloud Logging, or text on a terminal.

Fields: https://docs.cloud.google.com/logging/docs/structured-logging
"""

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from common.headers import TraceParent

TRACE_CONTEXT: ContextVar[tuple[TraceParent | None, str | None]] = ContextVar("trace_context", default=(None, None))
"""Trace context of the request that the current task serves, and the Google Cloud project; None where unknown."""

STANDARD_ATTRIBUTES = frozenset(
    (*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName", "color_message")
)
"""Attributes of every log record; any other was given as `extra`. `color_message` is uvicorn's."""

ENCODER = json.JSONEncoder(default=str)


def trace_fields(parent: TraceParent, project: str | None) -> dict[str, Any]:
    """The fields by which Cloud Logging finds the trace; without the project, the agent on the node adds its own."""
    return {
        "logging.googleapis.com/trace": f"projects/{project}/traces/{parent.trace_id}" if project else parent.trace_id,
        "logging.googleapis.com/spanId": parent.span_id,
        "logging.googleapis.com/trace_sampled": parent.sampled,
    }


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with what was given as `extra` beside it."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {"message": record.getMessage().rstrip()}
        fields |= {name: value for name, value in record.__dict__.items() if name not in STANDARD_ATTRIBUTES}
        fields["time"] = datetime.fromtimestamp(record.created, UTC).isoformat()
        fields["severity"] = record.levelname  # Python's names are Cloud Logging's
        fields["logger"] = record.name
        parent, project = TRACE_CONTEXT.get()
        if parent is not None:
            fields |= trace_fields(parent, project)
        if record.exc_info:
            fields["stack_trace"] = self.formatException(record.exc_info)
        return ENCODER.encode(fields)


class TextFormatter(logging.Formatter):
    """One readable line; of a request line only the sentence."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S")


def configure(log_format: str, level: str) -> None:
    """Send every logger, uvicorn's own included, to standard output."""
    text = log_format == "text" or (log_format == "auto" and sys.stdout.isatty())
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(TextFormatter() if text else JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
