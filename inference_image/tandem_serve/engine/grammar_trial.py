"""Prepares a grammar in a process of its own, which may be ended: some small ones take minutes, or gigabytes.

`check` runs in the server; run as a program this reads a grammar from stdin and prints what is wrong with it.
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
from pathlib import Path

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

CPU_SECONDS = 2
WALL_SECONDS = 30.0
MEMORY_BYTES = 1 << 30
"""Of address space, some of which Python itself takes."""


def limits() -> LLParserLimits:
    """How much work a token may take."""
    return LLParserLimits(max_items_in_row=10_000, max_lexer_states=50_000, verbose_errors=False)


def check(source: str, *, cpu_seconds: int = CPU_SECONDS) -> str:
    """What the compiler says of a grammar; empty when its work is within bounds and nothing is wrong."""
    command = [sys.executable, "-P", "-m", "tandem_serve.engine.grammar_trial", str(cpu_seconds)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        done = subprocess.run(
            command, input=source.encode(), capture_output=True, timeout=WALL_SECONDS, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        return "it takes too long to prepare"
    if done.returncode != 0:
        return f"it takes more than {cpu_seconds} s or {MEMORY_BYTES >> 20} MiB to prepare"
    return done.stdout.decode()


def _main(cpu_seconds: int) -> None:
    with contextlib.suppress(OSError):  # when memory is short this process goes, not the server
        Path("/proc/self/oom_score_adj").write_text("1000")
    source = sys.stdin.buffer.read().decode()
    _limit(resource.RLIMIT_CPU, cpu_seconds)
    _limit(resource.RLIMIT_AS, MEMORY_BYTES)
    matcher = LLMatcher(LLTokenizer("byte"), source, log_level=0, limits=limits())
    if not matcher.is_error():
        matcher.compute_bitmask()  # some work is only done for the first token
    sys.stdout.write(matcher.get_error())


def _limit(kind: int, most: int) -> None:
    """Lowers a limit of this process; one that is lower already stays."""
    _, hard = resource.getrlimit(kind)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))


if __name__ == "__main__":
    _main(int(sys.argv[1]))
