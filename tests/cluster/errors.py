"""What can go wrong with the rig, told apart by what a caller should do about it."""

from __future__ import annotations


class Unavailable(Exception):
    """This machine cannot run that part of the rig; tests skip and name the reason.

    The message says what is missing and, where there is one, the command that supplies it.
    """

    @property
    def reason(self) -> str:
        """The message, as a skip reason."""
        return str(self)


class RigError(RuntimeError):
    """A part of the rig that should have worked did not; tests fail. The message carries the end of its log."""
