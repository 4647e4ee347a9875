"""`tandem-serve` and `python -m tandem_serve`."""

from __future__ import annotations

import sys

from tandem_serve.cli import run


def main() -> None:
    """Entry point of the command."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
