"""The caller with one thing replaced: the transport of `ProducerClient` is httpx's own."""

from typing import Any

import httpx

from caller import producer_client
from caller.__main__ import main


def stock(_: Any) -> httpx.AsyncHTTPTransport:
    return httpx.AsyncHTTPTransport()


if __name__ == "__main__":
    setattr(producer_client, "AiohttpTransport", stock)  # noqa: B010  (the type is another)
    main()
