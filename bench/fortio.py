"""fortio (https://github.com/fortio/fortio), a closed loop that is fair: each connection has a goroutine of its own.

wrk is not fair between many connections, so the p99 that it reports is partly its own.
"""

import json
import subprocess

from bench.wrk import TIMEOUT_SECONDS, Load


def load(fortio: str, url: str, body: str, concurrency: int, seconds: int) -> Load:
    """POST the body over `concurrency` connections, as fast as the replies come. `fortio`: path of the program."""
    command = [fortio, "load", "-quiet", "-json=-", "-qps=0", f"-c={concurrency}", f"-t={seconds}s"]
    command += [f"-timeout={TIMEOUT_SECONDS}s", "-p=50,99", "-r=0.00001", "-content-type=application/json"]
    ended = subprocess.run(
        [*command, f"-payload={body}", url],
        capture_output=True,
        text=True,
        timeout=seconds + 3 * TIMEOUT_SECONDS,
        check=True,
    )
    found = json.loads(ended.stdout)
    histogram = found["DurationHistogram"]
    millis = {each["Percentile"]: each["Value"] * 1000 for each in histogram["Percentiles"]}
    failed = histogram["Count"] - found["RetCodes"].get("200", 0)
    return Load(histogram["Count"], found["ActualDuration"] / 1e9, failed, millis[50], millis[99])
