"""Run by an engine's own interpreter: parses command lines with the engine's own parser.

Reads a JSON list of argument lists from standard input; the last line that it prints is a JSON object with the
`version` of the engine, the lines of its `flags` file, and what was `refused`: [arguments, message].
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "make"))

import flags


def refusal(parser: argparse.ArgumentParser, arguments: list[str]) -> str:
    """Why the parser does not take the arguments; empty when it does."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parser.parse_args(arguments)
    except SystemExit:
        return said.getvalue().strip().splitlines()[-1]
    return ""


def main() -> None:
    """Answers for the engine that the command line names."""
    backend = sys.argv[1]
    parser = {"vllm": flags.vllm_parser, "sglang": flags.sglang_parser}[backend]()
    refused = [(each, why) for each in json.load(sys.stdin) if (why := refusal(parser, each))]
    version = importlib.metadata.version(flags.PACKAGES[backend]).split("+")[0]
    entries = flags.written(flags.of_argparse(parser))
    print(json.dumps({"version": version, "flags": entries, "refused": refused}))


if __name__ == "__main__":
    main()
