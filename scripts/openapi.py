"""The caller's OpenAPI document, as JSON on stdout; `make types` makes the types of the page from it."""

import asyncio
import json
import sys
from typing import Any

import httpx

from caller.app import create_app
from caller.settings import Settings
from common.middleware.draining import Lifecycle


async def openapi() -> dict[str, Any]:
    app = create_app(Settings(gce_metadata_host="none"), Lifecycle())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://caller") as client:
        response = await client.get("/openapi.json")
    response.raise_for_status()
    document: dict[str, Any] = response.json()
    return document


def main() -> None:
    json.dump(asyncio.run(openapi()), sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
