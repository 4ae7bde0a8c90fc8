"""The caller with one change: the transport of `ProducerClient` is that of httpx."""

from typing import Any

import httpx

from caller.__main__ import main
from caller.hop import client


def stock(_: Any) -> httpx.AsyncHTTPTransport:
    return httpx.AsyncHTTPTransport()


if __name__ == "__main__":
    setattr(client, "AiohttpTransport", stock)  # noqa: B010  (its type differs)
    main()
