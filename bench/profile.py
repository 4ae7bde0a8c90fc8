"""Where the CPU of a call goes, by layer: `python -m bench.profile caller` or `producer`, with py-spy on the PATH.

The program is called 16 at once while py-spy (https://github.com/benfred/py-spy) looks at its stack 400 times a second.
A sample counts for the innermost frame that belongs to a layer; what libraries like pydantic take counts for whoever
called them. Shares of samples times the CPU time of a call, as the kernel counts it, are µs.
"""

import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from bench.programs import CALLER, PRODUCER, all_of_them
from bench.wrk import load

AT_ONCE = 16
SECONDS = 15
SHOWN = 12

LAYERS = (
    # The start of a file's name, and a function or nothing; the first that fits counts.
    ("caller/hop/client.py", "explain", "diagnosis, header diff, clock skew"),
    ("caller/explain/header_diff.py", "", "diagnosis, header diff, clock skew"),
    ("caller/explain/diagnosis.py", "", "diagnosis, header diff, clock skew"),
    ("caller/hop/metrics.py", "", "metrics of the hop"),
    ("caller/hop/wire.py", "", "trace of the hop: phases, connection"),
    ("caller/hop/client.py", "request", "the request, its trace context"),
    ("caller/hop/client.py", "hop", "from the reply to the hop"),
    ("caller/hop/outcome.py", "", "from the reply to the hop"),
    ("caller/hop/client.py", "", "the rest of `ProducerClient.call`"),
    ("caller/hop/transport.py", "", "httpx and its transport"),
    ("httpx/", "", "httpx and its transport"),
    ("aiohttp/", "", "aiohttp"),
    ("aiosignal/", "", "trace of the hop: phases, connection"),
    ("caller/api/messages.py", "", "the route: the message, the JSON of the reply"),
    ("producer/routes.py", "", "the route: the message, the JSON of the reply"),
    ("common/message_route.py", "", "the route: the message, the JSON of the reply"),
    ("common/client.py", "", "the route: the message, the JSON of the reply"),
    ("logging/", "", "the log line"),
    ("pythonjsonlogger/", "", "the log line"),
    ("common/", "", "middleware: limits, drain, metrics, headers"),
    ("caller/app.py", "", "middleware: limits, drain, metrics, headers"),
    ("producer/stamp.py", "", "middleware: limits, drain, metrics, headers"),
    ("fastapi/", "", "FastAPI and Starlette"),
    ("starlette/", "", "FastAPI and Starlette"),
    ("uvicorn/protocols", "", "uvicorn"),
    ("uvicorn/middleware", "", "uvicorn"),
)
PROTOCOL = "common/protocol.py"
"""What bounds requests, and joins writes."""

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
    with all_of_them() as programs, tempfile.TemporaryDirectory() as folder:
        program = programs[name]
        load(program.url, program.body, AT_ONCE, 2)
        before = program.cpu_seconds()
        output = Path(folder) / "stacks"
        command = ["py-spy", "record", "--pid", str(program.process), "--rate=400", f"--duration={SECONDS}"]
        command += ["--format=raw", f"--output={output}", "--nonblocking"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as spy:
            done = load(program.url, program.body, AT_ONCE, SECONDS)
            cpu = (program.cpu_seconds() - before) / done.calls * 1e6
            spy.wait(60)
        layers: Counter[str] = Counter()
        for line in output.read_text().splitlines():
            stack, _, times = line.rpartition(" ")
            layers[layer_of(stack.split(";"))] += int(times)
    samples = layers.total()
    print(f"| {name}, {cpu:.0f} µs a call | µs | share |\n|---|--:|--:|")
    for layer, count in layers.most_common(SHOWN):
        print(f"| {layer} | {count / samples * cpu:.0f} | {count / samples:.0%} |")
    print(f"\n{done.rate:,.0f} calls/s, {samples:,} samples.")


if __name__ == "__main__":
    if sys.argv[1:] not in ([CALLER], [PRODUCER]):
        raise SystemExit(f"python -m bench.profile {CALLER}|{PRODUCER}")
    profile(sys.argv[1])
