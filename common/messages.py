"""The contract: what travels between the browser, the caller and the producer.

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
"""What an identity field says when nobody could tell: not on GKE, or not told by the environment."""


BODILESS = frozenset((204, 205, 304))
"""Statuses whose reply has no content (RFC 9110, 15.3.5, 15.3.6 and 15.4.5)."""


class Wire(BaseModel):
    """A model that travels: camelCase names, unknown fields ignored so that versions may differ."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class Request(Wire):
    """A model that people type: an unknown field is an error, because a misspelt one would change nothing silently."""

    model_config = ConfigDict(extra="forbid")


def whole_number(value: Any) -> Any:
    """Let digits in a string through (the original's README sends `"1000"`), but no booleans and no floats."""
    if isinstance(value, bool | float):
        raise PydanticCustomError("int_type", "Input should be a whole number")
    return value


WholeNumber = Annotated[int, BeforeValidator(whole_number)]


def encodable(value: str) -> str:
    """JSON can spell half a surrogate pair (`"\\ud800"`), which is no character and cannot be sent on."""
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise PydanticCustomError(
                "string_unicode",
                "Input should be text; character {position} is half a surrogate pair",
                {"position": error.start},
            ) from None
    return value


Text = Annotated[str, AfterValidator(encodable)]


class Only(Request):
    """Where a fault applies: any subset of the producer's identity; what is not named matches everywhere."""

    cluster_name: Text | None = Field(default=None, examples=["producer-cluster"])
    zone: Text | None = Field(default=None, examples=["us-central1-a"])
    pod_name: Text | None = None


class Message(Request):
    """What the caller is asked to send and the producer to answer."""

    id: Text = Field(
        default_factory=lambda: str(uuid4()),
        max_length=128,
        coerce_numbers_to_str=True,
        description="echoed in the answer; a random UUID when left out",
    )
    payload: Text = Field(description="echoed in `received`", examples=["test"])
    delay: WholeNumber = Field(
        default=0, ge=0, description="milliseconds the producer waits before it answers; digits in a string are fine"
    )
    response_code: WholeNumber = Field(
        default=200, ge=200, le=599, description="HTTP status of the producer's answer (a 1xx cannot end an exchange)"
    )
    fault_rate: float = Field(
        default=1,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="share of the calls that get the delay and the status; the rest answer 200 at once",
    )
    only: Only | None = Field(default=None, description="the fault applies only where all of this matches")


class ClusterMetadata(Wire):
    """Who a process is. `local` where neither the environment nor the metadata server could tell."""

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
    """The producer's answer, the same whatever its status; a 204, 205 or 304 has no body and so none of this."""

    id: str
    received: str = Field(description="the payload")
    headers: Headers = Field(description="the request headers as the producer received them; secrets masked")
    metadata: ClusterMetadata
    fault_applied: bool = Field(
        default=False, description="whether this call got the delay and the status that were asked for"
    )
