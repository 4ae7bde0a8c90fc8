"""What both services can be told, by environment variables without a prefix (`PORT`, `CLUSTER_NAME`, …)."""

import re
import sys
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict


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
    drain_seconds: float = Field(
        default=5, ge=0, le=600, description="after SIGTERM: not ready but still serving, this long"
    )
    shutdown_seconds: int = Field(
        default=65, ge=1, le=600, description="after the drain: how long a request in flight may still take"
    )

    log_format: Literal["auto", "json", "text"] = Field(default="auto", description="`auto`: text on a terminal")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="least severe line")


S = TypeVar("S", bound=ServiceSettings)


def from_environment(settings: type[S]) -> S:
    """Read the settings; a bad value ends the process with one line a variable on standard error and status 2."""
    try:
        return settings()
    except ValidationError as invalid:
        for error in invalid.errors(include_url=False):
            sys.stderr.write(f"{_variable(error['loc'])}={_shown(error['input'])}: {error['msg']}\n")
        raise SystemExit(2) from None


def _variable(loc: tuple[int | str, ...]) -> str:
    return str(loc[0]).upper() if loc else "settings"


def _shown(value: Any) -> str:
    text = re.sub(r"//[^/@]*@", "//***@", str(value))
    return repr(text if len(text) <= 80 else text[:80] + "…")
