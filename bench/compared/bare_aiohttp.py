"""A minimal caller in Python: aiohttp as server and client, which forwards bytes."""

import os
from collections.abc import AsyncIterator

import aiohttp
import uvloop
from aiohttp import web

CLIENT = web.AppKey("client", aiohttp.ClientSession)


async def call(request: web.Request) -> web.Response:
    headers = {"content-type": "application/json"}
    async with request.app[CLIENT].post("/producer/messages", data=await request.read(), headers=headers) as reply:
        return web.Response(body=await reply.read(), status=reply.status, content_type="application/json")


async def client(app: web.Application) -> AsyncIterator[None]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(os.environ["PRODUCER_URL"], connector=connector) as app[CLIENT]:
        yield


if __name__ == "__main__":
    app = web.Application()
    app.cleanup_ctx.append(client)
    app.router.add_post("/caller/messages", call)
    uvloop.install()
    web.run_app(app, host="127.0.0.1", port=int(os.environ["PORT"]), access_log=None, print=None)
