"""`tandem-serve` and `python -m tandem_serve`."""

from __future__ import annotations

import os
import signal
import sys

EXIT_TERMINATED = 143


def main() -> None:
    """Entry point of the command."""
    if os.getpid() == 1:
        # The kernel drops what a container's first process has no handler for: a pod that is deleted while it starts
        # would live on for its whole grace period.
        signal.signal(signal.SIGTERM, lambda *_: os._exit(EXIT_TERMINATED))
    from tandem_serve.cli import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
