from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode

from caller.target import Target, parse_target
from common.settings import ServiceSettings


def one_target(value: Any) -> Any:
    return parse_target(value) if isinstance(value, str) else value


def many_targets(value: Any) -> Any:
    return tuple(parse_target(part) for part in value.split(",") if part.strip()) if isinstance(value, str) else value


class Settings(ServiceSettings):
    producer_url: Annotated[Target, NoDecode, BeforeValidator(one_target)] = Field(
        default=parse_target("http://sample-producer:8080"),
        description="the address that is called: a host (port 8080), host:port or URL",
    )
    compare_urls: Annotated[tuple[Target, ...], NoDecode, BeforeValidator(many_targets)] = Field(
        default=(), description="more addresses that may be called, separated by commas"
    )
    connect_timeout_seconds: float = Field(
        default=2, gt=0, le=60, description="for TCP and TLS together; DNS is not in it"
    )
    call_timeout_seconds: float = Field(default=65, gt=0, le=600, description="for the whole call")
    max_reply_bytes: int = Field(default=1_048_576, ge=1024, description="largest reply that is read")

    @property
    def targets(self) -> tuple[Target, ...]:
        """The addresses that may be called, `PRODUCER_URL` first."""
        return tuple(dict.fromkeys((self.producer_url, *self.compare_urls)))

    def target(self, name: str | None) -> Target:
        """The allowed address of that name, host or host:port; the first when none is named.

        :raises ValueError: it is none of them; says which are.
        """
        if name is None:
            return self.producer_url
        for target in self.targets:
            if name in (target.name, target.host, f"{target.host}:{target.port}"):
                return target
        raise ValueError(f"not allowed; allowed are: {', '.join(target.name for target in self.targets)}")
