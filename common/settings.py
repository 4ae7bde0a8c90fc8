"""What both services can be told, by environment variables without a prefix (`PORT`, `CLUSTER_NAME`, …)."""

import re
import sys
from importlib.util import find_spec
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


def endpoint(value: str) -> str:
    if not re.match(r"https?://[^/]", value):
        raise ValueError("a URL such as http://opentelemetry-collector:4318 is needed")
    return value


def is_true(value: Any) -> bool:
    """OpenTelemetry's booleans: anything else than `true` is false."""
    return str(value).strip().lower() == "true"


class ServiceSettings(BaseSettings):
    """Settings of every service. Names are those of the environment variables, in lower case."""

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True)

    host: str = Field(default="0.0.0.0", description="address to listen on")
    port: int = Field(default=8080, ge=0, le=65535, description="port to listen on")

    cluster_name: str | None = Field(default=None, description="identity: the GKE cluster")
    cluster_location: str | None = Field(default=None, description="identity: its region, or zone")
    zone: str | None = Field(default=None, description="identity: zone of the node")
    region: str | None = Field(default=None, description="identity: region; derived from the zone when not given")
    host_name: str | None = Field(default=None, description="identity: host name")
    pod_name: str | None = Field(default=None, description="identity: pod")
    pod_namespace: str | None = Field(default=None, description="identity: namespace of the pod")
    pod_ip: str | None = Field(default=None, description="identity: address of the pod")
    node_name: str | None = Field(default=None, description="identity: node")
    service_account: str | None = Field(default=None, description="identity: Kubernetes service account")
    google_cloud_project: str | None = Field(
        default=None, description="identity: Google Cloud project, for log lines and traces"
    )
    gce_metadata_host: str = Field(
        default="metadata.google.internal",
        description="where the rest of the identity is asked for; `none`: do not ask",
    )

    max_payload_bytes: int = Field(
        default=65_536, ge=1, description="largest `payload`, in bytes of UTF-8; more is 413"
    )
    max_delay_millis: int = Field(default=60_000, ge=0, description="longest `delay`; more is 422")
    max_in_flight: int = Field(
        default=1_000, ge=1, description="requests at once; more are 503 with `Retry-After`, health and metrics are not"
    )
    receive_seconds: float = Field(
        default=30, gt=0, le=600, description="from the first byte of a request to its last; longer is 408"
    )
    drain_seconds: float = Field(
        default=5, ge=0, le=600, description="after SIGTERM: not ready but still serving, this long"
    )
    shutdown_seconds: int = Field(
        default=65, ge=1, le=600, description="after the drain: how long a request in flight may still take"
    )

    log_format: Literal["auto", "json", "text"] = Field(default="auto", description="`auto`: text on a terminal")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="least severe line")

    otel_traces_exporter: Literal["otlp", "none"] | None = Field(
        default=None, description="`otlp`: send traces, also when no endpoint is set; `none`: send none"
    )
    otel_exporter_otlp_endpoint: Annotated[str, AfterValidator(endpoint)] | None = Field(
        default=None, description="send traces to this collector; default with `otlp`: `http://localhost:4318`"
    )
    otel_exporter_otlp_traces_endpoint: Annotated[str, AfterValidator(endpoint)] | None = Field(
        default=None, description="the same, as the whole URL, with `/v1/traces`"
    )
    otel_exporter_otlp_protocol: str = Field(default="http/protobuf", description="the only one there is here")
    otel_exporter_otlp_traces_protocol: str | None = Field(default=None, description="the same, for traces")
    otel_sdk_disabled: Annotated[bool, BeforeValidator(is_true)] = Field(
        default=False, description="`true`: no traces, whatever else is set"
    )

    @property
    def tracing(self) -> bool:
        """Whether the variables of OpenTelemetry ask for traces."""
        if self.otel_sdk_disabled or self.otel_traces_exporter == "none":
            return False
        endpoints = (self.otel_exporter_otlp_endpoint, self.otel_exporter_otlp_traces_endpoint)
        return self.otel_traces_exporter == "otlp" or any(endpoints)

    @model_validator(mode="after")
    def tracing_is_possible(self) -> Self:
        if not self.tracing:
            return self
        protocol = self.otel_exporter_otlp_traces_protocol or self.otel_exporter_otlp_protocol
        if protocol != "http/protobuf":
            raise ValueError(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol!r}: traces are sent by http/protobuf only")
        if find_spec("opentelemetry.sdk") is None:
            raise ValueError(
                "OTEL_TRACES_EXPORTER or OTEL_EXPORTER_OTLP_ENDPOINT asks for traces, and the extra `tracing` is not "
                "installed (pip install 'sample-service-to-service[tracing]'); or set OTEL_TRACES_EXPORTER=none"
            )
        return self


S = TypeVar("S", bound=ServiceSettings)


def from_environment(settings: type[S]) -> S:
    """Read the settings; a bad value ends the process with one line a variable on standard error and status 2."""
    try:
        return settings()
    except ValidationError as invalid:
        for error in invalid.errors(include_url=False):
            text = error["msg"]
            if error["loc"]:
                text = f"{str(error['loc'][0]).upper()}={_shown(error['input'])}: {text}"
            sys.stderr.write(f"{text.removeprefix('Value error, ')}\n")
        raise SystemExit(2) from None


def _shown(value: Any) -> str:
    text = re.sub(r"//[^/@]*@", "//***@", str(value))
    return repr(text if len(text) <= 80 else text[:80] + "…")
