"""The command line `tandem`; `main` is its entry point."""

from tandem.cli.app import main

__all__ = ["main"]
