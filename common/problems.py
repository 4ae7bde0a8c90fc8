"""Bad input and other refusals, as `application/problem+json` (RFC 9457)."""

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import models_json_schema
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from common.messages import Message, Wire
from common.settings import ServiceSettings

PROBLEM_JSON = "application/problem+json"
LONGEST_VALUE = 100
"""Characters of a bad value in an error text."""
CLIENT_CLOSED_REQUEST = 499
"""Status in the log line and the metric of a request whose client disconnected; nobody receives it."""


class FieldError(Wire):
    """One invalid field: its value, and what was expected."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)  # a null is omitted

    field: str = Field(examples=["delay"])
    value: str | None = Field(default=None, description="as JSON, cut at 100 characters", examples=["-1"])
    message: str = Field(examples=["Input should be greater than or equal to 0"])
    limit: float | int | None = Field(default=None, description="the limit that was exceeded", examples=[0])


class Problem(Wire):
    """RFC 9457, with the invalid fields."""

    type: str = "about:blank"
    title: str = Field(description="the status in words", examples=["Unprocessable Content"])
    status: int = Field(examples=[422])
    detail: str
    errors: list[FieldError] = Field(default_factory=list)


SCHEMAS = "#/components/schemas/"
PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"content": {PROBLEM_JSON: {"schema": {"$ref": SCHEMAS + "Problem"}}}, "description": description}
    for status, description in (
        (413, "the body or the payload is too large"),
        (415, "the body is not declared as JSON"),
        (422, "a field is missing, unknown or out of its limits"),
        (503, "too many requests in flight; see `Retry-After`"),
    )
}


class Refused(Exception):
    """A valid request that is refused, with the fields that are the reason."""

    def __init__(self, status: int, errors: Sequence[FieldError], headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, errors)
        self.status = status
        self.errors = errors
        self.headers = headers or {}


def problem(status: int, detail: str, errors: Sequence[FieldError] = ()) -> Response:
    body = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, errors=list(errors))
    return Response(body.model_dump_json(by_alias=True, exclude_none=True), status, media_type=PROBLEM_JSON)


def add_schemas(app: FastAPI, *models: type[BaseModel]) -> None:
    """Add models that no route returns to the OpenAPI document, under `SCHEMAS`."""
    generated = app.openapi

    def openapi() -> dict[str, Any]:
        document = generated()
        _, schemas = models_json_schema(
            [(model, "serialization") for model in models], ref_template=SCHEMAS + "{model}"
        )
        document.setdefault("components", {}).setdefault("schemas", {}).update(schemas["$defs"])
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def install(app: FastAPI) -> None:
    """Answer every refusal of the app as `application/problem+json`, and add the schema to its OpenAPI document."""
    add_schemas(app, Problem)

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        response = problem(error.status, sentence(error.errors), error.errors)
        response.headers.update(error.headers)
        return response

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        if not is_json(request):
            kind = request.headers.get("content-type") or "none"
            return problem(415, f"expected content-type application/json, got {kind}")
        errors = [field_error(detail) for detail in error.errors()]
        return problem(422, sentence(errors), errors)

    @app.exception_handler(ClientDisconnect)
    async def disconnected(_: Request, __: Exception) -> Response:
        """The client disconnected while its request body was being read."""
        return Response(status_code=CLIENT_CLOSED_REQUEST)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        if isinstance(error.__cause__, ClientDisconnect):
            return await disconnected(request, error)
        status, detail = error.status_code, str(error.detail)
        if status == 400:  # FastAPI's own: bytes that are not UTF-8, or nested without end
            status, detail = 422, "the body is not JSON in UTF-8"
        elif status == 404:
            detail = f"no resource at {request.url.path}"
        elif status == 405:
            detail = f"{request.method} is not allowed at {request.url.path}"
        response = problem(status, detail)
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def bug(_: Request, error: Exception) -> Response:
        """Starlette raises the error again afterwards, so the traceback is logged."""
        return problem(500, f"internal error: {type(error).__name__}")


def is_json(request: Request) -> bool:
    if request.method not in ("POST", "PUT", "PATCH"):
        return True
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def field_error(detail: ErrorDetails) -> FieldError:
    """Pydantic's error as a `FieldError`: the field's name on the wire, the truncated value, the limit."""
    path = [str(part) for part in detail["loc"] if part not in ("body", "query", "path")]
    context = detail.get("ctx", {})
    limit = next((context[key] for key in ("ge", "le", "gt", "lt", "max_length", "min_length") if key in context), None)
    if detail["type"] == "json_invalid":
        return FieldError(field="body", message=f"invalid JSON at character {path[-1]}: {context.get('error')}")
    return FieldError(
        field=".".join(path) or "body",
        value=None if detail["type"] == "missing" else truncated_json(detail["input"]),
        message="unknown field" if detail["type"] == "extra_forbidden" else detail["msg"].removeprefix("Value error, "),
        limit=limit,
    )


def truncated_json(value: Any) -> str:
    """A value as JSON in printable ASCII, at most `LONGEST_VALUE` characters of it, for an error text."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        text = repr(value).encode("ascii", "backslashreplace").decode()
    return text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + "…"


def sentence(errors: Sequence[FieldError]) -> str:
    return "; ".join(
        f"{error.field}: {error.message}" + (f", got {error.value}" if error.value is not None else "")
        for error in errors
    )


def check_limits(message: Message, settings: ServiceSettings) -> None:
    """Check the limits of a message that are settings.

    :raises Refused: 413 for the payload, 422 for the delay, with field, value and limit.
    """
    size = len(message.payload.encode())
    if size > settings.max_payload_bytes:
        limit = settings.max_payload_bytes
        text = f"{size} bytes of UTF-8 exceed the maximum of {limit} bytes (MAX_PAYLOAD_BYTES)"
        raise Refused(413, [FieldError(field="payload", message=text, limit=limit)])
    if message.delay > settings.max_delay_millis:
        limit = settings.max_delay_millis
        text = f"Input should be at most {limit} (MAX_DELAY_MILLIS)"
        raise Refused(422, [FieldError(field="delay", value=str(message.delay), message=text, limit=limit)])
