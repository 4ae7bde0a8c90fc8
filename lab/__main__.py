"""`make two-clusters`: the clusters, left up to be broken and repaired by hand.

    python -m lab [SUFFIX]

SUFFIX comes after the names of the namespaces, for clusters beside others. PORT is that of the page.
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
    CONTROL_NAME,
    Lab,
    missing,
    pod_name,
)

PAGE_PORT = 8081
"""As `make demo`."""
REJECT = "REJECT --reject-with icmp-admin-prohibited"


class Prompt(cmd.Cmd):
    """One command a line. What is wrong with a line is said, and the prompt comes again."""

    prompt = "two-clusters> "

    def __init__(self, lab: Lab, page: str) -> None:
        super().__init__()
        self.lab = lab
        self.page = page
        self.link = ExitStack()
        self.faults: dict[str, str] = {}

    def preloop(self) -> None:
        self.do_help("")
        say(f"the same from another shell: {' '.join(self.lab.caller_cluster.prefix)} COMMAND")
        self.do_status("")

    def onecmd(self, line: str) -> bool:
        try:
            return super().onecmd(line)
        except (UsageError, CommandFailed) as error:
            say(str(error))
        except KeyError as error:
            say(f"there is no {error}")
        return False

    def emptyline(self) -> bool:
        return False

    def default(self, line: str) -> None:
        say(f"unknown: {line}; try help")

    def do_help(self, arg: str) -> None:
        """help  this list"""
        for name in self.get_names():
            if name.startswith("do_") and name not in ("do_EOF", "do_shell"):
                usage, _, text = str(getattr(self, name).__doc__).partition("  ")
                say(f"  {usage:<32} {text.strip()}")

    def do_status(self, _: str) -> None:
        """status  what is exported, who is ready, and what is broken"""
        say(f"page             {self.page}")
        for cluster in self.lab.clusters:
            exports = "exports" if cluster in self.lab.exporting else "-"
            pods = ", ".join(f"{pod_name(pod)} {pod}" for pod in cluster.ready) or "no ready pod"
            say(f"{cluster.name:<16} {exports:<8} {pods}")
        say(f"endpoints        {', '.join(self.lab.endpoint_pods) or 'none'}")
        say(f"broken           {', '.join(f'{what} {how}' for what, how in self.faults.items()) or 'nothing'}")

    def do_call(self, line: str) -> None:
        """call [OPTION…]  sample-caller call, in the caller's cluster"""
        self.caller("call", line)

    def do_check(self, line: str) -> None:
        """check [OPTION…]  sample-caller check"""
        self.caller("check", line)

    def do_run(self, line: str) -> None:
        """run [OPTION…]  sample-caller run, as --rate 20 --duration 30s"""
        self.caller("run", line)

    def caller(self, command: str, line: str) -> None:
        with ctrl_c_is_for_the_command():
            done = self.lab.cli(command, *shlex.split(line), timeout=3600, capture=False)
        say(f"exit code {done.returncode}")

    def do_export(self, line: str) -> None:
        """export [CLUSTER]  a ServiceExport in this cluster: caller, producer (default) or third"""
        cluster = self.cluster(line)
        if cluster not in self.lab.exporting:
            self.lab.export(cluster)

    def do_unexport(self, line: str) -> None:
        """unexport [CLUSTER]  delete it"""
        cluster = self.cluster(line)
        if cluster in self.lab.exporting:
            self.lab.unexport(cluster)

    def do_scale(self, line: str) -> None:
        """scale N [CLUSTER]  replicas of the producer: 0, 1 or 2"""
        number, _, name = line.partition(" ")
        cluster = self.cluster(name)
        if not number.isdigit() or int(number) > len(cluster.pods):
            raise UsageError(f"scale takes a number up to {len(cluster.pods)}, and a cluster")
        self.lab.scale(cluster, int(number))

    def do_kill(self, line: str) -> None:
        """kill POD  kill -9 a producer, by its address; its endpoint stays. To repair: scale 0, scale 2"""
        self.signal(line, signal.SIGKILL)

    def do_freeze(self, line: str) -> None:
        """freeze POD  SIGSTOP: it accepts connections and does not answer"""
        self.signal(line, signal.SIGSTOP)

    def do_thaw(self, line: str) -> None:
        """thaw POD  SIGCONT"""
        self.signal(line, signal.SIGCONT)

    def signal(self, pod: str, number: signal.Signals) -> None:
        if pod not in self.lab.producers:
            raise UsageError(f"POD is one of {', '.join(self.lab.producers)}")
        self.lab.producers[pod].process.send_signal(number)

    def do_firewall(self, line: str) -> None:
        """firewall drop|reject|reset|off  in front of the producer's cluster"""
        verdicts = {"drop": "DROP", "reject": REJECT, "reset": "REJECT --reject-with tcp-reset", "off": None}
        self.lab.set_firewall(verdicts[chosen(line, verdicts)])
        self.note("firewall", line)

    def do_dns(self, line: str) -> None:
        """dns FAULT|off  of the exported name: nxdomain, nodata, servfail, refused, silent; dead: of all names"""
        faults = ("nxdomain", "nodata", "servfail", "refused", "silent", "dead", "off")
        changes = {CLUSTER_SET_NAME: chosen(line, faults)}
        if line == "dead":
            changes = dict.fromkeys(("*", CLUSTER_SET_NAME, CLUSTER_NAME, CONTROL_NAME), "silent")
        self.lab.change_names({} if line == "off" else changes)
        self.note("dns", line)

    def do_latency(self, line: str) -> None:
        """latency MILLIS  of a round trip between the caller's and the producer's cluster; 0: none"""
        try:
            millis = float(line)
        except ValueError:
            raise UsageError("latency takes a number of milliseconds") from None
        self.link.close()
        if millis > 0:
            self.link.enter_context(self.lab.latency(millis))
        self.note("latency", f"{millis:g} ms" if millis > 0 else "off")

    def do_shell(self, line: str) -> None:
        self.do_sh(line)

    def do_sh(self, line: str) -> None:
        """sh [COMMAND…]  a shell, or a command, in the caller's cluster: sh getent hosts NAME"""
        command = ["sh", "-c", line] if line else ["sh"]
        with ctrl_c_is_for_the_command():
            subprocess.run([*self.lab.caller_cluster.prefix, *command], check=False)

    def do_quit(self, _: str) -> bool:
        """quit  take it all down, as Ctrl-C does"""
        return True

    def do_EOF(self, _: str) -> bool:
        """The end of what comes by a pipe; a terminal's Ctrl-D."""
        return True

    def cluster(self, name: str) -> Cluster:
        by_name = {cluster.name.removesuffix("-cluster"): cluster for cluster in self.lab.clusters}
        return by_name[chosen(name.strip() or "producer", by_name)]

    def note(self, what: str, how: str) -> None:
        if how == "off":
            self.faults.pop(what, None)
        else:
            self.faults[what] = how


class UsageError(Exception):
    """A line that a command can do nothing with."""


def chosen(word: str, words: Any) -> str:
    if word not in words:
        raise UsageError(f"{word or 'nothing'} is none of: {', '.join(words)}")
    return word


@contextmanager
def ctrl_c_is_for_the_command() -> Iterator[None]:
    """Not `SIG_IGN`, which the command would inherit."""
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
    if reason := missing():
        say(reason)
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        say("building the clusters …")
        with Lab("".join(sys.argv[1:])).up() as lab, page_of(lab) as page:
            say(f"{CLUSTER_SET_NAME} is {CLUSTER_SET_IP}")
            talk(Prompt(lab, page))
    except CommandFailed as failure:
        say(str(failure))
        return 1
    except KeyboardInterrupt:
        say("")
    say("all taken down")
    return 0


def talk(prompt: Prompt) -> None:
    try:
        prompt.cmdloop()
    finally:
        prompt.link.close()


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
