"""Log lines: JSON with the field names of Cloud Logging, or text on a terminal.

Fields: https://docs.cloud.google.com/logging/docs/structured-logging
"""

import logging
import sys
from typing import Any

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter


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
