"""The HTTP contract: the models that browser, caller and producer exchange.

On the wire every name is camelCase, made from the Python name by one alias generator. Header maps are
`name -> [values]` with lower-case names.
"""

from typing import Annotated, Any
from uuid import uuid4

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

Headers = dict[str, list[str]]

LOCAL = "local"
"""Value of an identity field that is unknown: not set in the environment, and no metadata server."""


BODILESS = frozenset((204, 205, 304))
"""Statuses whose reply has no content (RFC 9110, 15.3.5, 15.3.6 and 15.4.5)."""


class Wire(BaseModel):
    """A model on the wire: camelCase names; unknown fields are ignored, so that versions may differ."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, json_schema_serialization_defaults_required=True
    )


class Request(Wire):
    """A request model: an unknown field is an error, because a misspelled one would silently change nothing."""

    model_config = ConfigDict(extra="forbid", json_schema_serialization_defaults_required=False)


def whole_number(value: Any) -> Any:
    """Accept digits in a string, as clients of the Kotlin contract send (`"1000"`), but no booleans and no floats."""
    if isinstance(value, bool | float):
        raise PydanticCustomError("int_type", "Input should be a whole number")
    return value


WholeNumber = Annotated[int, BeforeValidator(whole_number)]


def encodable(value: str) -> str:
    """Refuse an unpaired surrogate (`"\\ud800"`), which JSON can spell and UTF-8 cannot encode."""
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise PydanticCustomError(
                "string_unicode",
                "Input should be text; character {position} is an unpaired surrogate",
                {"position": error.start},
            ) from None
    return value


Text = Annotated[str, AfterValidator(encodable)]


class Only(Request):
    """Where a fault applies: any subset of the producer's identity; an absent field matches everywhere."""

    cluster_name: Text | None = Field(default=None, examples=["producer-cluster"])
    zone: Text | None = Field(default=None, examples=["us-central1-a"])
    pod_name: Text | None = None


class Message(Request):
    """The message that the caller sends and the producer echoes."""

    id: Text = Field(
        default_factory=lambda: str(uuid4()),
        max_length=128,
        coerce_numbers_to_str=True,
        description="echoed in the reply; default: a random UUID",
    )
    payload: Text = Field(description="echoed in `received`", examples=["test"])
    delay: WholeNumber = Field(
        default=0,
        ge=0,
        description="milliseconds that the producer waits before it replies; digits in a string are accepted",
    )
    response_code: WholeNumber = Field(
        default=200, ge=200, le=599, description="HTTP status of the producer's reply (a 1xx cannot end an exchange)"
    )
    fault_rate: float = Field(
        default=1,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="share of calls that get the delay and the status; the others get 200 immediately",
    )
    only: Only | None = Field(default=None, description="the fault applies only to producers that match all of this")


class ClusterMetadata(Wire):
    """Identity of a process. `local`: unknown, neither in the environment nor from the metadata server."""

    cluster_name: str = Field(default=LOCAL, examples=["producer-cluster"])
    cluster_location: str = Field(
        default=LOCAL, description="region, or zone of a zonal cluster", examples=["us-west1"]
    )
    host_name: str = LOCAL
    ip_address: str = LOCAL
    zone: str = Field(default=LOCAL, examples=["us-west1-a"])
    region: str = Field(default=LOCAL, examples=["us-west1"])
    pod_name: str = LOCAL
    namespace: str = LOCAL
    node_name: str = LOCAL
    service_account: str = LOCAL
    version: str = LOCAL


class MessageAck(Wire):
    """The producer's reply, the same for every status; a 204, 205 or 304 has no body and so none of this."""

    id: str
    received: str = Field(description="the payload")
    headers: Headers = Field(description="the request headers as the producer received them; secrets redacted")
    metadata: ClusterMetadata
    fault_applied: bool = Field(default=False, description="whether this call got the requested delay and status")
