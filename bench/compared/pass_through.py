"""A minimal caller as most people would write it: FastAPI and one httpx client."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI, Request


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    async with httpx.AsyncClient(base_url=os.environ["PRODUCER_URL"]) as client:
        yield {"client": client}


app = FastAPI(lifespan=lifespan)


@app.post("/caller/messages")
async def call(message: dict[str, Any], request: Request) -> Any:
    response = await request.state.client.post("/producer/messages", json=message)
    return response.json()


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["PORT"]))
