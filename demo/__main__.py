"""`python -m demo` (`make demo`). Imports the rest late: a Ctrl-C is no crash, from the first moment on."""

import signal
import sys


def main() -> None:
    """Runs the demo and exits: 0 when the passage came right and from the right place, 1 when not, 130 interrupted."""
    try:
        from demo.command import command

        command()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
