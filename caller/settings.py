import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import NoDecode

from caller.target import Target, parse_target
from common.settings import ServiceSettings


def one_target(value: Any) -> Any:
    return parse_target(value) if isinstance(value, str) else value


def many_targets(value: Any) -> Any:
    return tuple(parse_target(part) for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def prefix(value: str) -> str:
    if value.strip("/") and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+/?", value):
        raise ValueError("expected a path such as /caller-ui")
    return value.rstrip("/")


class Settings(ServiceSettings):
    producer_url: Annotated[Target, NoDecode, BeforeValidator(one_target)] = Field(
        default=parse_target("http://sample-producer:8080"),
        description="address of the producer: a host (port 8080), host:port or URL",
    )
    compare_urls: Annotated[tuple[Target, ...], NoDecode, BeforeValidator(many_targets)] = Field(
        default=(), description="more addresses that may be called, comma-separated"
    )
    connect_timeout_seconds: float = Field(
        default=2, gt=0, le=60, description="timeout of TCP and TLS together, without DNS"
    )
    call_timeout_seconds: float = Field(default=65, gt=0, le=600, description="timeout of the whole call")
    max_reply_bytes: int = Field(default=1_048_576, ge=1024, description="maximum size of a reply")

    root_path: Annotated[str, AfterValidator(prefix)] = Field(
        default="", description="path prefix of an ingress that does not strip it, such as `/caller-ui`"
    )

    run_max_rate: float = Field(
        default=200, gt=0, le=10_000, description="maximum rate of a run through the API, in calls per second"
    )
    run_max_seconds: float = Field(
        default=600, gt=0, le=86_400, description="maximum duration of a run through the API"
    )
    run_max_in_flight: int = Field(
        default=500, ge=1, le=10_000, description="maximum calls of a run in flight; calls due above it are dropped"
    )
    run_max_active: int = Field(
        default=2, ge=0, le=100, description="maximum concurrent runs through the API; above it 429 with `Retry-After`"
    )

    kubernetes_service_host: str | None = Field(
        default=None, description="API server, for checks; set by Kubernetes in every pod"
    )
    kubernetes_service_port: int = Field(
        default=443, ge=1, le=65535, description="port of the API server; set by Kubernetes"
    )
    service_account_dir: str = Field(
        default="/var/run/secrets/kubernetes.io/serviceaccount",
        description="directory of the mounted token, if any (`k8s/components/diagnose`)",
    )

    @property
    def targets(self) -> tuple[Target, ...]:
        """The addresses that may be called, `PRODUCER_URL` first."""
        return tuple(dict.fromkeys((self.producer_url, *self.compare_urls)))

    def target(self, name: str | None) -> Target:
        """The allowed target with this name, host or host:port; None is the first.

        :raises ValueError: not an allowed target; the message lists them.
        """
        if name is None:
            return self.producer_url
        for target in self.targets:
            if name in (target.name, target.host, f"{target.host}:{target.port}"):
                return target
        raise ValueError(f"expected one of {', '.join(target.name for target in self.targets)}")
