"""Bad input and other refusals, as `application/problem+json` (RFC 9457)."""

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from common.client import CLIENT_CLOSED_REQUEST
from common.messages import Wire

PROBLEM_JSON = "application/problem+json"
LONGEST_VALUE = 100
"""Characters of a bad value that are shown back."""


class FieldError(Wire):
    """One field, what it was and what is wrong with it."""

    field: str = Field(examples=["delay"])
    value: str | None = Field(default=None, description="as JSON, cut at 100 characters", examples=["-1"])
    message: str = Field(examples=["Input should be greater than or equal to 0"])
    limit: float | int | None = Field(default=None, description="the limit that was passed", examples=[0])


class Problem(Wire):
    """RFC 9457, with the fields that were wrong."""

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
    """A request that is understood and refused, with the fields that are to blame."""

    def __init__(self, status: int, errors: Sequence[FieldError], headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, errors)
        self.status = status
        self.errors = errors
        self.headers = headers or {}


def problem(status: int, detail: str, errors: Sequence[FieldError] = ()) -> Response:
    body = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, errors=list(errors))
    return Response(body.model_dump_json(by_alias=True, exclude_none=True), status, media_type=PROBLEM_JSON)


def add_schemas(app: FastAPI, *models: type[BaseModel]) -> None:
    """Have the OpenAPI hold models that no route names as such, under `SCHEMAS`."""
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
    """Have every refusal of the app answered as a problem, and its OpenAPI say so."""
    add_schemas(app, Problem)

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        response = problem(error.status, sentence(error.errors), error.errors)
        response.headers.update(error.headers)
        return response

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        if not is_json(request):
            kind = request.headers.get("content-type") or "not given"
            return problem(415, f"content-type is {kind}; it must be application/json")
        errors = [field_error(detail) for detail in error.errors()]
        return problem(422, sentence(errors), errors)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, _: Exception) -> Response:
        """In the midst of its body."""
        request.scope["observed"].update(status=CLIENT_CLOSED_REQUEST)
        return Response(status_code=CLIENT_CLOSED_REQUEST)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        if isinstance(error.__cause__, ClientDisconnect):
            return await gone(request, error)
        status, detail = error.status_code, str(error.detail)
        if status == 400:  # FastAPI's own: bytes that are not UTF-8, or nested without end
            status, detail = 422, "the body could not be read as JSON in UTF-8"
        elif status == 404:
            detail = f"nothing at {request.url.path}"
        elif status == 405:
            detail = f"{request.method} is not allowed at {request.url.path}"
        response = problem(status, detail)
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def bug(_: Request, error: Exception) -> Response:
        """Starlette raises the error again afterwards, so the traceback is logged."""
        return problem(500, f"a bug of this service: {type(error).__name__}")


def is_json(request: Request) -> bool:
    if request.method not in ("POST", "PUT", "PATCH"):
        return True
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def field_error(detail: ErrorDetails) -> FieldError:
    """Pydantic's error as ours: the field as it is on the wire, the value cut short, the limit apart."""
    path = [str(part) for part in detail["loc"] if part not in ("body", "query", "path")]
    context = detail.get("ctx", {})
    limit = next((context[key] for key in ("ge", "le", "gt", "lt", "max_length", "min_length") if key in context), None)
    if detail["type"] == "json_invalid":
        return FieldError(field="body", message=f"not JSON at character {path[-1]}: {context.get('error')}")
    return FieldError(
        field=".".join(path) or "body",
        value=None if detail["type"] == "missing" else shown(detail["input"]),
        message="there is no such field" if detail["type"] == "extra_forbidden" else detail["msg"],
        limit=limit,
    )


def shown(value: Any) -> str:
    """A value as JSON in printable ASCII, cut short, for an error text."""
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
