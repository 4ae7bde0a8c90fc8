"""Settings of both services: environment variables without a prefix (`PORT`, `CLUSTER_NAME`, …)."""

import re
import sys
from importlib.util import find_spec
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


def endpoint(value: str) -> str:
    if not re.match(r"https?://[^/]", value):
        raise ValueError("expected a URL such as http://opentelemetry-collector:4318")
    return value


def is_true(value: Any) -> bool:
    """OpenTelemetry's booleans: anything but `true` is false."""
    return str(value).strip().lower() == "true"


class ServiceSettings(BaseSettings):
    """Settings of both services. A field is named as its environment variable, in lower case."""

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True)

    host: str = Field(default="0.0.0.0", description="listen address")
    port: int = Field(default=8080, ge=0, le=65535, description="listen port; 0: any free port")

    cluster_name: str | None = Field(default=None, description="identity: name of the GKE cluster")
    cluster_location: str | None = Field(
        default=None, description="identity: location of the cluster, a region or a zone"
    )
    zone: str | None = Field(default=None, description="identity: zone of the node")
    region: str | None = Field(default=None, description="identity: region; default: derived from the zone")
    host_name: str | None = Field(default=None, description="identity: host name")
    pod_name: str | None = Field(default=None, description="identity: name of the pod")
    pod_namespace: str | None = Field(default=None, description="identity: namespace of the pod")
    pod_ip: str | None = Field(default=None, description="identity: IP address of the pod")
    node_name: str | None = Field(default=None, description="identity: name of the node")
    service_account: str | None = Field(default=None, description="identity: Kubernetes ServiceAccount")
    google_cloud_project: str | None = Field(
        default=None, description="identity: Google Cloud project, in log lines and traces"
    )
    gce_metadata_host: str = Field(
        default="metadata.google.internal",
        description="GCE metadata server that fills in missing identity; `none` disables it",
    )

    max_payload_bytes: int = Field(
        default=65_536, ge=1, description="maximum size of `payload` in bytes of UTF-8; above it 413"
    )
    max_delay_millis: int = Field(default=60_000, ge=0, description="maximum `delay` in ms; above it 422")
    max_in_flight: int = Field(
        default=1_000,
        ge=1,
        description="maximum concurrent requests; above it 503 with `Retry-After` (health and metrics are exempt)",
    )
    receive_seconds: float = Field(
        default=30,
        gt=0,
        le=600,
        description="maximum seconds from the first byte of a request to its last; above it 408",
    )
    drain_seconds: float = Field(
        default=5,
        ge=0,
        le=600,
        description="seconds after SIGTERM during which the service is not ready but still serves",
    )
    shutdown_seconds: int = Field(
        default=65, ge=1, le=600, description="grace period in seconds for in-flight requests after the drain"
    )

    log_format: Literal["auto", "json", "text"] = Field(
        default="auto", description="`auto`: text on a terminal, else JSON"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="minimum severity of log lines"
    )

    otel_traces_exporter: Literal["otlp", "none"] | None = Field(
        default=None, description="`otlp`: export traces, even without an endpoint setting; `none`: disable"
    )
    otel_exporter_otlp_endpoint: Annotated[str, AfterValidator(endpoint)] | None = Field(
        default=None,
        description="OTLP collector; setting it enables traces; default with `otlp`: `http://localhost:4318`",
    )
    otel_exporter_otlp_traces_endpoint: Annotated[str, AfterValidator(endpoint)] | None = Field(
        default=None, description="the same for traces only: the full URL, with `/v1/traces`"
    )
    otel_exporter_otlp_protocol: str = Field(default="http/protobuf", description="only `http/protobuf` is supported")
    otel_exporter_otlp_traces_protocol: str | None = Field(default=None, description="the same for traces only")
    otel_sdk_disabled: Annotated[bool, BeforeValidator(is_true)] = Field(
        default=False, description="`true` disables traces, whatever else is set"
    )

    @property
    def tracing(self) -> bool:
        """Whether the OpenTelemetry variables enable traces."""
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
            raise ValueError(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol!r}: only http/protobuf is supported")
        if find_spec("opentelemetry.sdk") is None:
            raise ValueError(
                "OTEL_TRACES_EXPORTER or OTEL_EXPORTER_OTLP_ENDPOINT enables traces, but the extra `tracing` is not "
                "installed (pip install 'sample-service-to-service[tracing]'); or set OTEL_TRACES_EXPORTER=none"
            )
        return self


S = TypeVar("S", bound=ServiceSettings)


def from_environment(settings: type[S]) -> S:
    """Read the settings. An invalid value ends the process with status 2 and one line per variable on stderr."""
    try:
        return settings()
    except ValidationError as invalid:
        for error in invalid.errors(include_url=False):
            text = error["msg"].removeprefix("Value error, ")
            if error["loc"]:
                text = f"{str(error['loc'][0]).upper()}={quoted(error['input'])}: {text}"
            sys.stderr.write(f"{text}\n")
        raise SystemExit(2) from None


def quoted(value: Any) -> str:
    text = re.sub(r"//[^/@]*@", "//***@", str(value))
    return repr(text if len(text) <= 80 else text[:80] + "…")
