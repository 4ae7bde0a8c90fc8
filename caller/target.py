"""The addresses that may be called. They come from settings only, never from a request."""

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

import httpx

NameKind = Literal["clusterset.local", "cluster.local", "short", "other"]
"""What kind of name a host is; causes of failures differ by it. Short: completed by the pod's search list."""

PRODUCER_PATH = "/producer/messages"
DEFAULT_PORT = 8080
"""Of a host without a scheme and a port: the port of the `sample-producer` Service."""

_LABEL = re.compile(r"^(?!-)[a-z0-9_-]{1,63}(?<!-)$")
_LONGEST_NAME = 253
"""Characters of a domain name in text form (RFC 1035, 3.1)."""


@dataclass(frozen=True)
class Target:
    """One address. `name` is what requests, metrics and the page call it: the URL without the path of the API."""

    url: httpx.URL

    @property
    def host(self) -> str:
        return self.url.host

    @property
    def port(self) -> int:
        return self.url.port or (443 if self.url.scheme == "https" else 80)

    @property
    def name(self) -> str:
        return str(self.url).removesuffix(PRODUCER_PATH)

    @property
    def kind(self) -> NameKind:
        if self.host.endswith(".clusterset.local"):
            return "clusterset.local"
        if self.host.endswith(".cluster.local"):
            return "cluster.local"
        few_dots = self.host.count(".") <= 1 and ":" not in self.host and self.host != "localhost"
        return "short" if few_dots or self.host.endswith(".svc") else "other"

    @property
    def service(self) -> str | None:
        """The Kubernetes Service that the name means; None where it means none."""
        return self._parts[0]

    @property
    def namespace(self) -> str | None:
        """The namespace in the name; None where the name has none."""
        return self._parts[1]

    @property
    def _parts(self) -> tuple[str | None, str | None]:
        """Service and namespace, the last two labels before `.svc.`: a pod of a headless Service has more in front."""
        if self.kind == "other":
            return None, None
        *_, service, namespace = (None, None, *self.host.removesuffix(".svc").partition(".svc.")[0].split("."))
        if self.kind == "short" and "." not in self.host:
            return self.host, None
        return service, namespace

    @property
    def twin(self) -> str | None:
        """The same Service under the other suffix; None where the name has neither."""
        if self.kind not in ("clusterset.local", "cluster.local"):
            return None
        other = "cluster.local" if self.kind == "clusterset.local" else "clusterset.local"
        return f"{self.service}.{self.namespace}.svc.{other}"


def parse_target(text: str) -> Target:
    """A target from a bare host, a `host:port` or a URL.

    :raises ValueError: what is wrong, without the credentials that the text may hold.
    """
    bare = "://" not in text
    text = f"http://{text.strip()}" if bare else text.strip()
    try:
        port = urlsplit(text).port  # httpx leaves out a port that is the scheme's own
        url = httpx.URL(text)
    except (ValueError, httpx.InvalidURL) as error:
        raise ValueError(f"not a host, host:port or URL: {error}") from None
    if url.scheme not in ("http", "https"):
        raise ValueError(f"the scheme is {url.scheme!r}; it must be http or https")
    if url.userinfo:
        raise ValueError("a URL must not carry credentials")
    if url.query or url.fragment:
        raise ValueError("a URL must have no query and no fragment")
    check_host(url.host)
    if port == 0:
        raise ValueError("port 0 cannot be called")
    if bare and port is None:
        url = url.copy_with(port=DEFAULT_PORT)
    return Target(url.copy_with(path=url.path.rstrip("/").removesuffix(PRODUCER_PATH) + PRODUCER_PATH))


def check_host(host: str) -> None:
    """Refuse what no resolver could look up, before a call does.

    :raises ValueError: empty, too long, a trailing dot, or a label that no DNS name has.
    """
    if not host:
        raise ValueError("there is no host in it")
    if host.endswith("."):
        raise ValueError(f"host {host!r} ends in a dot; leave it off (it would go into `Host` and into the TLS name)")
    if len(host) > _LONGEST_NAME:
        raise ValueError(f"the host has {len(host)} characters; a DNS name has at most {_LONGEST_NAME}")
    if ":" in host:
        return  # an IPv6 address; the URL parser has checked it
    for label in host.encode("idna").decode().lower().split(".") if not host.isascii() else host.lower().split("."):
        if not _LABEL.match(label):
            raise ValueError(f"host {host!r} has the label {label!r}; a label is 1 to 63 letters, digits and hyphens")
