"""Parses command lines with gcloud's own parser: required flags, positional arguments, the form of values.

    python -m tests.support.gcloud_parser LIB < lines.json

`LIB` is the folder `lib` of the installed gcloud; standard input is a JSON list of lists of words, without `gcloud`.
The commands do not run. Each refused one is printed to stderr, and the exit status is then 1.
"""

import importlib
import json
import sys


def main() -> int:
    library = sys.argv[1]
    sys.path[:0] = [library, f"{library}/third_party"]
    parser = importlib.import_module("googlecloudsdk.gcloud_main").CreateCLI([])._CLI__parser
    refused = 0
    for words in json.load(sys.stdin):
        try:
            parser.parse_args(words)
        except SystemExit:
            sys.stderr.write(f"refused: gcloud {' '.join(words)}\n")
            refused += 1
    return 1 if refused else 0


if __name__ == "__main__":
    raise SystemExit(main())
