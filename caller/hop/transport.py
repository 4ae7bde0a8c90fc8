"""httpx's requests and responses over a session of aiohttp, whose exceptions come through as they are."""

from collections.abc import AsyncIterator

import aiohttp
import httpx


class AiohttpTransport(httpx.AsyncBaseTransport):
    """For requests whose whole body is there; does not close the session."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """
        :raises aiohttp.ClientError: there is no reply, or none that is HTTP.
        :raises OSError: of the connection.
        """
        response = await self.session.request(
            request.method,
            str(request.url),
            headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw],
            data=request.read(),
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(sock_connect=request.extensions["timeout"]["connect"]),
        )
        return httpx.Response(response.status, headers=response.raw_headers, stream=Body(response))


class Body(httpx.AsyncByteStream):
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self.response.content.iter_any())

    async def aclose(self) -> None:
        self.response.release()
        await self.response.wait_for_close()
