"""CPU profile of a call by layer: `python -m bench.profile caller` or `producer`, with py-spy on the PATH.

py-spy (https://github.com/benfred/py-spy) samples the stack of the program 400 times per second during 16 concurrent
calls. A sample counts for the innermost frame that belongs to a layer; samples in libraries such as pydantic count for
their callers. The time of a layer is its share of the samples times the CPU time of a call as counted by the kernel.
"""

import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from bench.programs import CALLER, PRODUCER, all_programs
from bench.wrk import load

CONCURRENCY = 16
SECONDS = 15
SHOWN = 12

LAYERS = (
    # Prefix of a file name, function or nothing, layer. The first match counts.
    ("caller/explain/", "", "explanation: diagnosis, header diff, clock skew"),
    ("caller/hop/metrics.py", "", "metrics of the hop"),
    ("caller/hop/phases.py", "", "clock of the call"),
    ("caller/hop/kernel.py", "", "the wire, with the write of the request"),
    ("caller/hop/reply_parser.py", "", "the wire, with the write of the request"),
    ("caller/hop/connect.py", "", "the wire, with the write of the request"),
    ("caller/hop/tls.py", "", "the wire, with the write of the request"),
    ("caller/hop/wire.py", "", "the wire, with the write of the request"),
    ("caller/hop/client.py", "request", "the request, its trace context"),
    ("caller/hop/client.py", "hop", "from the reply to the hop"),
    ("caller/hop/reply.py", "", "from the reply to the hop"),
    ("caller/hop/model.py", "", "from the reply to the hop"),
    ("caller/hop/outcome.py", "", "from the reply to the hop"),
    ("caller/hop/client.py", "", "the rest of `ProducerClient.call`"),
    ("httpx/", "", "httpx: request and response"),
    ("caller/api/", "", "the route: the message, the JSON of the reply"),
    ("producer/routes.py", "", "the route: the message, the JSON of the reply"),
    ("common/messages.py", "", "the route: the message, the JSON of the reply"),
    ("logging/", "", "the log line"),
    ("common/logs.py", "", "the log line"),
    ("common/", "", "middleware: limits, drain, metrics, headers"),
    ("caller/app.py", "", "middleware: limits, drain, metrics, headers"),
    ("producer/marker.py", "", "middleware: limits, drain, metrics, headers"),
    ("fastapi/", "", "FastAPI and Starlette"),
    ("starlette/", "", "FastAPI and Starlette"),
    ("uvicorn/protocols", "", "uvicorn"),
    ("uvicorn/middleware", "", "uvicorn"),
)
PROTOCOL = "common/protocol.py"
"""The limits of requests, and one write for head and body."""

FRAME = re.compile(r"(?P<function>\S+) \((?P<file>.*?)(:\d+)?\)$")


def layer_of(stack: list[str]) -> str:
    for frame in reversed(stack):
        if not (found := FRAME.search(frame)):
            continue
        function, file = found["function"].rpartition(".")[2], found["file"]
        if file == PROTOCOL:
            return "`common/protocol.py`"
        for start, name, layer in LAYERS:
            if file.startswith(start) and (not name or name == function) and file != "common/server.py":
                return layer
    return "the event loop: reading, timers, tasks"


def profile(name: str) -> None:
    with all_programs() as programs, tempfile.TemporaryDirectory() as folder:
        program = programs[name]
        load(program.url, program.body, CONCURRENCY, 2)
        before = program.cpu_seconds()
        output = Path(folder) / "stacks"
        command = ["py-spy", "record", "--pid", str(program.process), "--rate=400", f"--duration={SECONDS}"]
        command += ["--format=raw", f"--output={output}", "--nonblocking"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as spy:
            done = load(program.url, program.body, CONCURRENCY, SECONDS)
            cpu = (program.cpu_seconds() - before) / done.calls * 1e6
            spy.wait(60)
        layers: Counter[str] = Counter()
        for line in output.read_text().splitlines():
            stack, _, times = line.rpartition(" ")
            layers[layer_of(stack.split(";"))] += int(times)
    samples = layers.total()
    print(f"| {name}, {cpu:.0f} µs per call | µs | share |\n|---|--:|--:|")
    for layer, count in layers.most_common(SHOWN):
        print(f"| {layer} | {count / samples * cpu:.0f} | {count / samples:.0%} |")
    print(f"\n{done.rate:,.0f} calls/s, {samples:,} samples.")


if __name__ == "__main__":
    if sys.argv[1:] not in ([CALLER], [PRODUCER]):
        raise SystemExit(f"python -m bench.profile {CALLER}|{PRODUCER}")
    profile(sys.argv[1])
