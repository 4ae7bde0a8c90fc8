"""The caller with one thing replaced: the transport of `ProducerClient` is httpx's own."""

from typing import Any

import httpx

from caller.__main__ import main
from caller.hop import client


def stock(_: Any) -> httpx.AsyncHTTPTransport:
    return httpx.AsyncHTTPTransport()


if __name__ == "__main__":
    setattr(client, "AiohttpTransport", stock)  # noqa: B010  (the type is another)
    main()
