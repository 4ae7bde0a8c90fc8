"""Targets: the addresses that may be called. They come from settings, never from a request."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal
from urllib.parse import urlsplit

import httpx

NameKind = Literal["clusterset.local", "cluster.local", "short", "other"]
"""Kind of a host name; the causes of failures depend on it. `short`: completed by the pod's search list."""

PRODUCER_PATH = "/producer/messages"
DEFAULT_PORT = 8080
"""For a host without scheme and port: the port of the `sample-producer` Service."""

_LABEL = re.compile(r"^(?!-)[a-z0-9_-]{1,63}(?<!-)$")
_MAX_NAME = 253
"""Characters of a domain name in text form (RFC 1035, 3.1)."""


@dataclass(frozen=True)
class Target:
    """An address. `name`, in requests, metrics and the page, is the URL without the path of the API."""

    url: httpx.URL

    @cached_property
    def host(self) -> str:
        return self.url.host

    @cached_property
    def port(self) -> int:
        return self.url.port or (443 if self.url.scheme == "https" else 80)

    @cached_property
    def name(self) -> str:
        return str(self.url).removesuffix(PRODUCER_PATH)

    def __hash__(self) -> int:
        return hash(self.name)  # that of the URL makes its text again each time

    @cached_property
    def kind(self) -> NameKind:
        if self.host.endswith(".clusterset.local"):
            return "clusterset.local"
        if self.host.endswith(".cluster.local"):
            return "cluster.local"
        few_dots = self.host.count(".") <= 1 and ":" not in self.host and self.host != "localhost"
        return "short" if few_dots or self.host.endswith(".svc") else "other"

    @property
    def service(self) -> str | None:
        """The Kubernetes Service in the name; None if the name is not that of a Service."""
        return self._parts[0]

    @property
    def namespace(self) -> str | None:
        """The namespace in the name; None without one."""
        return self._parts[1]

    @property
    def _parts(self) -> tuple[str | None, str | None]:
        """Service and namespace: the last two labels before `.svc.` (a pod of a headless Service has more)."""
        if self.kind == "other":
            return None, None
        *_, service, namespace = (None, None, *self.host.removesuffix(".svc").partition(".svc.")[0].split("."))
        if self.kind == "short" and "." not in self.host:
            return self.host, None
        return service, namespace

    @property
    def counterpart(self) -> str | None:
        """The same Service under the other suffix; None if the name has neither suffix."""
        if self.kind not in ("clusterset.local", "cluster.local"):
            return None
        other = "cluster.local" if self.kind == "clusterset.local" else "clusterset.local"
        return f"{self.service}.{self.namespace}.svc.{other}"


def parse_target(text: str) -> Target:
    """A target from a bare host, a `host:port` or a URL.

    :raises ValueError: the reason, without credentials that the text may contain.
    """
    bare = "://" not in text
    text = f"http://{text.strip()}" if bare else text.strip()
    try:
        port = urlsplit(text).port  # httpx leaves out a port that is the scheme's own
        url = httpx.URL(text)
    except (ValueError, httpx.InvalidURL) as error:
        raise ValueError(f"expected a host, host:port or URL: {error}") from None
    if url.scheme not in ("http", "https"):
        raise ValueError(f"expected scheme http or https, got {url.scheme!r}")
    if url.userinfo:
        raise ValueError("a URL must not contain credentials")
    if url.query or url.fragment:
        raise ValueError("a URL must not have a query or a fragment")
    check_host(url.host)
    if port == 0:
        raise ValueError("port 0 cannot be called")
    if bare and port is None:
        url = url.copy_with(port=DEFAULT_PORT)
    return Target(url.copy_with(path=url.path.rstrip("/").removesuffix(PRODUCER_PATH) + PRODUCER_PATH))


def check_host(host: str) -> None:
    """Check that the host is one that a resolver can look up.

    :raises ValueError: empty, too long, a trailing dot, or a label that no DNS name has.
    """
    if not host:
        raise ValueError("the URL has no host")
    if host.endswith("."):
        raise ValueError(f"host {host!r} ends in a dot; remove it (it would be sent in `Host` and as the TLS name)")
    if len(host) > _MAX_NAME:
        raise ValueError(f"the host has {len(host)} characters; the maximum of a DNS name is {_MAX_NAME}")
    if ":" in host:
        return  # an IPv6 address; the URL parser has checked it
    for label in host.encode("idna").decode().lower().split(".") if not host.isascii() else host.lower().split("."):
        if not _LABEL.match(label):
            raise ValueError(
                f"host {host!r} has the invalid label {label!r}; a label is 1 to 63 letters, digits and hyphens"
            )
