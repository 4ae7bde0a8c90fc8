"""A DNS server whose zone is a JSON file, read anew at each query; what was asked goes into a log beside it.

    python -m tests.dns_server 10.4.0.10 zone.json

A name has addresses, or a behaviour: `nxdomain` (any name that is not there), `nodata`, `servfail`, `refused`,
`silent` (no answer at all). `*.name` is every name below, `*` every name:

    {"a.example": {"addresses": ["10.0.0.1"], "ttl": 30}, "b.example": "servfail", "*.example": "silent"}

`"silent": ["AAAA"]` beside the addresses: no answer to questions of that type.

The log is `zone.log`: one `[name, type, answer]` a line.
"""

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

NEGATIVE_TTL = 30
RCODES = {
    "nodata": dns.rcode.NOERROR,
    "nxdomain": dns.rcode.NXDOMAIN,
    "servfail": dns.rcode.SERVFAIL,
    "refused": dns.rcode.REFUSED,
}


class DnsServer:
    def __init__(self, zone: Path) -> None:
        self.zone = zone
        self.log = zone.with_suffix(".log")

    async def serve(self, address: str, port: int = 53) -> None:
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: Datagrams(self), (address, port))
        server = await asyncio.start_server(self.stream, address, port)
        sys.stdout.write("listening\n")
        sys.stdout.flush()
        await server.serve_forever()

    async def stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                query = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
                if reply := self.reply(query):
                    writer.write(len(reply).to_bytes(2) + reply)
                    await writer.drain()
        writer.close()

    def reply(self, wire: bytes) -> bytes | None:
        """The answer to a query; None: there is to be none."""
        try:
            query = dns.message.from_wire(wire)
        except dns.exception.DNSException:
            return None
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        record = self.record(name)
        behaviour, addresses = (record, []) if isinstance(record, str) else behaviour_of(record, kind)
        self.write_log(name, kind, ",".join(addresses) or behaviour)
        if behaviour == "silent":
            return None
        response = dns.message.make_response(query, recursion_available=True)
        response.flags |= dns.flags.AA
        response.set_rcode(RCODES[behaviour])
        if addresses:
            rrset = dns.rrset.from_text(question.name, record["ttl"], "IN", question.rdtype, *addresses)
            response.answer.append(rrset)
        elif behaviour in ("nodata", "nxdomain"):
            response.authority.append(start_of_authority(question.name))
        return response.to_wire()

    def record(self, name: str) -> Any:
        zone = json.loads(self.zone.read_text())
        return next((zone[key] for key in keys(name) if key in zone), "nxdomain")

    def write_log(self, name: str, kind: str, answer: str) -> None:
        with self.log.open("a") as log:
            log.write(json.dumps([name, kind, answer]) + "\n")


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self.server = server

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        if reply := self.server.reply(data):
            self.transport.sendto(reply, addr)


def keys(name: str) -> Iterator[str]:
    """Where the name may stand in the zone, the closest first."""
    yield name
    while "." in name:
        name = name.partition(".")[2]
        yield f"*.{name}"
    yield "*"


def start_of_authority(name: dns.name.Name) -> dns.rrset.RRset:
    """What a negative answer carries; the zone is the last two labels, as `clusterset.local`."""
    zone = dns.name.Name(name.labels[-3:])
    text = f"ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 {NEGATIVE_TTL}"
    return dns.rrset.from_text(zone, NEGATIVE_TTL, "IN", "SOA", text)


def behaviour_of(record: dict[str, Any], kind: str) -> tuple[str, list[str]]:
    if kind in record.get("silent", []):
        return "silent", []
    if kind not in ("A", "AAAA"):
        return "nodata", []
    return "nodata", [address for address in record["addresses"] if (":" in address) == (kind == "AAAA")]


if __name__ == "__main__":
    asyncio.run(DnsServer(Path(sys.argv[2])).serve(sys.argv[1]))
