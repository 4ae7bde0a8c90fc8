"""Size of the caller's image above its base, without an image engine: `python -m bench.image_size`.

The files that Dockerfile.caller adds, copied to a folder and compiled to bytecode: the distributions of its lock as
they are installed beside this Python, and the code.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

from lab.processes import ROOT

CODE = ("common", "caller")
LIMIT = 60


def measure() -> float:
    """In MB (10^6 bytes): the sum of the sizes of the files.

    :raises PackageNotFoundError: a distribution of the lock is not installed.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in distributions():
            copy(name, folder)
        for name in CODE:
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        compile_all = ["-m", "compileall", "-q", "-j0", "--invalidation-mode", "unchecked-hash", temporary]
        subprocess.run([sys.executable, *compile_all], check=True)
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def distributions() -> list[str]:
    """The names in the Dockerfile's lock that apply to this platform, without those that the Dockerfile removes."""
    dockerfile = (ROOT / "Dockerfile.caller").read_text()
    lock = re.findall(r"^ARG REQUIREMENTS=(\S+)", dockerfile, re.MULTILINE)[0]
    removed = re.findall(r"uninstall --yes (.+?) *\\?$", dockerfile, re.MULTILINE)[0].split()
    lines = re.findall(r"^([a-z0-9].+?) *\\?$", (ROOT / lock).read_text(), re.MULTILINE)
    pins = [Requirement(line) for line in lines]
    return [pin.name for pin in pins if pin.name not in removed and (pin.marker is None or pin.marker.evaluate())]


def copy(name: str, folder: Path) -> None:
    """The modules and metadata of a distribution, without scripts outside of the package folder and old bytecode."""
    for file in distribution(name).files or []:
        if ".." not in file.parts and file.suffix != ".pyc":
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file.locate(), path)


if __name__ == "__main__":
    print(f"{measure():.1f} MB (target: at most {LIMIT})")
