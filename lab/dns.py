"""The DNS of a cluster: a real unbound that serves `cluster.local` and `clusterset.local`, with faults on request.

A name has addresses, or a fault:

    {"addresses": ["10.0.0.1"], "ttl": 30}     also with `"silent": ["AAAA"]` or `"servfail": ["AAAA"]`, for that type
    "nxdomain"   the name does not exist
    "nodata"     the name exists and has no address
    "servfail"   it is forwarded to an unreachable server, as a stub domain whose upstream is dead
    "refused"    the server refuses the query
    "silent"     the server does not answer

`*` stands for every name without an entry.
"""

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

Record = Mapping[str, Any] | str

SBIN = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
"""Debian installs servers in a directory that is only on root's PATH."""
UNBOUND = shutil.which("unbound", path=SBIN)

ZONES = (".", "cluster.local.", "clusterset.local.")
TYPES = {
    "nxdomain": "static",
    "nodata": "always_nodata",
    "refused": "always_refuse",
    "silent": "always_deny",
    "servfail": "transparent",
}
"""unbound's local-zone types (unbound.conf(5)). It forwards queries that a transparent zone has no data for."""
DEAD = "127.0.0.1"
"""unbound sends no query to loopback (`do-not-query-localhost`), so a query forwarded there is SERVFAIL immediately."""
AUTHORITY = "30 SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 30"

CONFIG = """
server:
  username: ""
  chroot: ""
  directory: "{folder}"
  pidfile: ""
  use-syslog: no
  logfile: "{folder}/dns.log"
  log-queries: yes
  log-replies: yes
  interface: {address}
  access-control: 0.0.0.0/0 allow
  module-config: "iterator"
remote-control:
  control-enable: yes
  control-use-cert: no
  control-interface: "{folder}/dns.sock"
include: "{folder}/names.conf"
"""

LOGGED = re.compile(r"info: \S+ (?P<name>\S+)\. (?P<type>\S+) IN(?: (?P<rcode>[A-Z]+) \S+ \S+ \S+)?$", re.MULTILINE)


class Query(NamedTuple):
    """A query to the DNS server and its answer: an rcode, or `silent`."""

    name: str
    type: str
    rcode: str


class Dns:
    """unbound in a namespace. `rules` changes its iptables, for queries that are dropped before they arrive."""

    def __init__(self, folder: Path, address: str, prefix: tuple[str, ...], rules: Callable[..., None]) -> None:
        self.folder = folder
        self.address = address
        self.prefix = prefix
        self.rules = rules
        self.records: dict[str, Record] = {}

    def start(self) -> None:
        """Start unbound and wait for its control socket."""
        assert UNBOUND is not None
        self.folder.mkdir()
        config = self.folder / "dns.conf"
        config.write_text(CONFIG.format(folder=self.folder, address=self.address))
        self._write({})
        # A copy, because Debian's AppArmor profile goes by the path of the program, and denies it this folder.
        program = shutil.copy(UNBOUND, self.folder)
        output = (self.folder / "dns.out").open("w")
        with output:
            process = subprocess.Popen(
                [*self.prefix, program, "-d", "-c", config], stdout=output, stderr=output, start_new_session=True
            )
        self.process = process
        deadline = time.monotonic() + 10
        while not (self.folder / "dns.sock").exists():
            assert process.poll() is None, (self.folder / "dns.out").read_text()
            assert time.monotonic() < deadline, "unbound has not started"
            time.sleep(0.01)
        self.rules("*filter", ":DNS - [0:0]", "-A INPUT -p udp --dport 53 -j DNS", "COMMIT")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def set(self, records: Mapping[str, Record]) -> None:
        """Serve exactly these names. Queries wait meanwhile.

        By a reload, because `local_zone` of unbound-control gives a zone within a zone a wrong parent (unbound 1.17).
        """
        if records != self.records:
            self._write(records)
            self._reload()
            self._drop_aaaa(
                [name for name, record in records.items() if not isinstance(record, str) and "silent" in record]
            )

    def _write(self, records: Mapping[str, Record]) -> None:
        default = records.get("*", "nxdomain")
        lines = [line for zone in ZONES for line in (*served(zone, default), f"  local-data: '{zone} {AUTHORITY}'")]
        for name, record in records.items():
            if name != "*" and record != "nxdomain":
                lines += served(f"{name}.", record)
        (self.folder / "names.conf").write_text("\n".join([*lines, ""]))
        self.records = dict(records)

    def _reload(self) -> None:
        """The same as `unbound-control reload`, without another process."""
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(10)
            control.connect(str(self.folder / "dns.sock"))
            control.sendall(b"UBCT1 reload\n")
            reply = control.recv(1024)
        assert reply == b"ok\n", reply

    def _drop_aaaa(self, names: list[str]) -> None:
        """Drop AAAA queries for these names before they arrive."""
        drop = "-A DNS -m string --algo bm --hex-string {} -j DROP"
        self.rules("*filter", ":DNS - [0:0]", *(drop.format(question(name, 28)) for name in names), "COMMIT")

    def queries(self) -> list[Query]:
        """The queries since `forget_queries`, in the order of their arrival."""
        found: list[Query] = []
        for line in LOGGED.finditer((self.folder / "dns.log").read_text()):
            name, kind, rcode = line["name"].lower(), line["type"], line["rcode"]
            if rcode is None:
                found.append(Query(name, kind, "silent"))
            else:
                last = len(found) - 1 - found[::-1].index(Query(name, kind, "silent"))
                found[last] = Query(name, kind, rcode)
        return found

    def forget_queries(self) -> None:
        (self.folder / "dns.log").write_text("")


def served(name: str, record: Record) -> Iterator[str]:
    """The lines of unbound.conf for a name or a zone; the name has its final dot."""
    failing = record if isinstance(record, str) else "servfail" if "servfail" in record else None
    if failing == "servfail":
        yield f'forward-zone:\n  name: "{name}"\n  forward-addr: {DEAD}'
    yield "server:"
    if isinstance(record, str):
        yield f'  local-zone: "{name}" {TYPES[record]}'
        return
    if failing:
        yield f'  local-zone: "{name}" typetransparent'
    for address in record["addresses"]:
        yield f"  local-data: '{name} {record['ttl']} {'AAAA' if ':' in address else 'A'} {address}'"


def question(name: str, kind: int) -> str:
    """The question of a query in the syntax of iptables: name and type as on the wire (RFC 1035, 4.1.2)."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return f"|{(labels + bytes([0, 0, kind, 0, 1])).hex()}|"
