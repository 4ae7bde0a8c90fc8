"""`make two-clusters`: builds two clusters and reads commands that break and repair them.

    python -m lab [SUFFIX]

SUFFIX is appended to the names of the namespaces, so that several labs can run concurrently. PORT is the port of the
page.
"""

import cmd
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from lab.cluster import Cluster, CommandFailed
from lab.forward import forwarded
from lab.lab import (
    CALLER_POD,
    CLUSTER_NAME,
    CLUSTER_SET_IP,
    CLUSTER_SET_NAME,
    SANITY_CHECK_NAME,
    Lab,
    missing,
    pod_name,
)
from lab.processes import NotReady

PAGE_PORT = 8081
"""The same as of `make demo`."""
REJECT = "REJECT --reject-with icmp-admin-prohibited"


class Prompt(cmd.Cmd):
    """Reads one command per line. An invalid line prints its error, and the next line is read."""

    prompt = "two-clusters> "

    def __init__(self, lab: Lab, page: str) -> None:
        super().__init__()
        self.lab = lab
        self.page = page
        self.link = ExitStack()
        self.faults: dict[str, str] = {}

    def preloop(self) -> None:
        self.do_help("")
        say(f"from another shell: {' '.join(self.lab.caller_cluster.prefix)} COMMAND")
        self.do_status("")

    def onecmd(self, line: str) -> bool:
        try:
            return super().onecmd(line)
        except (UsageError, CommandFailed, NotReady) as error:
            say(str(error))
        except KeyError as error:
            say(f"unknown name {error}")
        return False

    def emptyline(self) -> bool:
        return False

    def default(self, line: str) -> None:
        say(f"unknown command: {line}; help lists the commands")

    def do_help(self, arg: str) -> None:
        """help  list the commands"""
        for name in self.get_names():
            if name.startswith("do_") and name not in ("do_EOF", "do_shell"):
                usage, _, text = str(getattr(self, name).__doc__).partition("  ")
                say(f"  {usage:<32} {text.strip()}")

    def do_status(self, _: str) -> None:
        """status  exports, ready pods, endpoints, active faults"""
        say(f"page             {self.page}")
        for cluster in self.lab.clusters:
            exports = "exports" if cluster in self.lab.exporting else "-"
            pods = ", ".join(f"{pod_name(pod)} {pod}" for pod in cluster.ready) or "no ready pod"
            say(f"{cluster.name:<16} {exports:<8} {pods}")
        say(f"endpoints        {', '.join(self.lab.endpoint_pods) or 'none'}")
        say(f"faults           {', '.join(f'{name} {fault}' for name, fault in self.faults.items()) or 'none'}")

    def do_call(self, line: str) -> None:
        """call [OPTION…]  sample-caller call in the caller's cluster"""
        self.caller("call", line)

    def do_check(self, line: str) -> None:
        """check [OPTION…]  sample-caller check"""
        self.caller("check", line)

    def do_run(self, line: str) -> None:
        """run [OPTION…]  sample-caller run, for example --rate 20 --duration 30s"""
        self.caller("run", line)

    def caller(self, command: str, line: str) -> None:
        with ctrl_c_is_for_the_command():
            done = self.lab.cli(command, *shlex.split(line), timeout=3600, capture=False)
        say(f"exit code {done.returncode}")

    def do_export(self, line: str) -> None:
        """export [CLUSTER]  create a ServiceExport in a cluster: caller, producer (default) or third"""
        cluster = self.cluster(line)
        if cluster not in self.lab.exporting:
            self.lab.export(cluster)

    def do_unexport(self, line: str) -> None:
        """unexport [CLUSTER]  delete the ServiceExport"""
        cluster = self.cluster(line)
        if cluster in self.lab.exporting:
            self.lab.unexport(cluster)

    def do_scale(self, line: str) -> None:
        """scale N [CLUSTER]  set the replicas of the producer: 0, 1 or 2"""
        number, _, name = line.partition(" ")
        cluster = self.cluster(name)
        if not number.isdigit() or int(number) > len(cluster.pods):
            raise UsageError(f"scale expects a number from 0 to {len(cluster.pods)}")
        self.lab.scale(cluster, int(number))

    def do_kill(self, line: str) -> None:
        """kill POD  SIGKILL to the producer with this address; its endpoint stays. To repair: scale 0, scale 2"""
        self.signal(line, signal.SIGKILL)

    def do_freeze(self, line: str) -> None:
        """freeze POD  SIGSTOP: the pod accepts connections and does not answer"""
        self.signal(line, signal.SIGSTOP)

    def do_thaw(self, line: str) -> None:
        """thaw POD  SIGCONT: the pod answers again"""
        self.signal(line, signal.SIGCONT)

    def signal(self, pod: str, number: signal.Signals) -> None:
        if pod not in self.lab.producers:
            raise UsageError(f"expected the address of a pod: {', '.join(self.lab.producers)}")
        self.lab.producers[pod].process.send_signal(number)

    def do_firewall(self, line: str) -> None:
        """firewall drop|reject|reset|off  change the firewall of the producer's cluster"""
        verdicts = {"drop": "DROP", "reject": REJECT, "reset": "REJECT --reject-with tcp-reset", "off": None}
        self.lab.set_firewall(verdicts[chosen(line, verdicts)])
        self.note("firewall", line)

    def do_dns(self, line: str) -> None:
        """dns FAULT|off  fault of the exported name: nxdomain, nodata, servfail, refused, silent; of all names: dead"""
        faults = ("nxdomain", "nodata", "servfail", "refused", "silent", "dead", "off")
        changes = {CLUSTER_SET_NAME: chosen(line, faults)}
        if line == "dead":
            changes = dict.fromkeys(("*", CLUSTER_SET_NAME, CLUSTER_NAME, SANITY_CHECK_NAME), "silent")
        self.lab.change_names({} if line == "off" else changes)
        self.note("dns", line)

    def do_latency(self, line: str) -> None:
        """latency MILLIS  set the round-trip time between the caller's and the producer's cluster; 0: none"""
        try:
            millis = float(line)
        except ValueError:
            raise UsageError("latency expects a number of milliseconds") from None
        self.link.close()
        if millis > 0:
            self.link.enter_context(self.lab.latency(millis))
        self.note("latency", f"{millis:g} ms" if millis > 0 else "off")

    def do_shell(self, line: str) -> None:
        self.do_sh(line)

    def do_sh(self, line: str) -> None:
        """sh [COMMAND…]  run a shell, or a command, in the caller's cluster: sh getent hosts NAME"""
        command = ["sh", "-c", line] if line else ["sh"]
        with ctrl_c_is_for_the_command():
            subprocess.run([*self.lab.caller_cluster.prefix, *command], check=False)

    def do_quit(self, _: str) -> bool:
        """quit  remove the clusters, as Ctrl-C"""
        return True

    def do_EOF(self, _: str) -> bool:
        """The end of a pipe, or Ctrl-D."""
        return True

    def cluster(self, name: str) -> Cluster:
        by_name = {cluster.name.removesuffix("-cluster"): cluster for cluster in self.lab.clusters}
        return by_name[chosen(name.strip() or "producer", by_name)]

    def note(self, name: str, fault: str) -> None:
        if fault == "off":
            self.faults.pop(name, None)
        else:
            self.faults[name] = fault


class UsageError(Exception):
    """Invalid arguments of a command."""


def chosen(word: str, words: Any) -> str:
    if word not in words:
        raise UsageError(f"expected one of {', '.join(words)}, got {word or 'nothing'}")
    return word


@contextmanager
def ctrl_c_is_for_the_command() -> Iterator[None]:
    """Ctrl-C ends the command, not the prompt. A handler, because the command would inherit `SIG_IGN`."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def page_of(lab: Lab) -> Iterator[str]:
    port = int(lab.main_caller.url.rpartition(":")[2])
    with forwarded(lab.caller_cluster, (CALLER_POD, port), int(os.environ.get("PORT", PAGE_PORT))) as url:
        yield url


def main() -> int:
    if sys.argv[1:] in (["-h"], ["--help"]):
        say(str(__doc__).strip())
        return 0
    if reason := missing():
        say(reason)
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        say("building the clusters …")
        with Lab("".join(sys.argv[1:])).up() as lab, page_of(lab) as page:
            say(f"{CLUSTER_SET_NAME} is {CLUSTER_SET_IP}")
            read_commands(Prompt(lab, page))
    except (CommandFailed, NotReady) as failure:
        say(str(failure))
        return 1
    except KeyboardInterrupt:
        say("")
    say("removed all clusters")
    return 0


def read_commands(prompt: Prompt) -> None:
    try:
        prompt.cmdloop()
    finally:
        prompt.link.close()


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
