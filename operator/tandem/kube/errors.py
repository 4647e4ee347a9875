"""What can go wrong between us and the API server, as values that callers can tell apart."""

from __future__ import annotations

from dataclasses import dataclass

from tandem.api.problems import Refused

UNREACHABLE = 0


@dataclass(frozen=True, slots=True)
class FieldError:
    """One cause of a rejected object: the field's path and what is wrong with it."""

    path: str
    message: str


class ApiError(Exception):
    """An answer other than success. `status` is the HTTP status, `UNREACHABLE` when there was no answer at all.

    `retry_after` is the server's wish in seconds; `causes` name the fields of a rejected object.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        *,
        retry_after: float | None = None,
        causes: tuple[FieldError, ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after
        self.causes = causes

    def __str__(self) -> str:
        return self.message if self.status == UNREACHABLE else f"{self.message} ({self.status} {self.reason})"

    @property
    def is_not_found(self) -> bool:
        """The object, or its whole kind, does not exist."""
        return self.status == 404

    @property
    def is_conflict(self) -> bool:
        """The object exists already, or is not the one (uid, version) that was meant."""
        return self.status == 409

    @property
    def is_namespace_ending(self) -> bool:
        """Nothing can be made in this namespace any more: it is being deleted, which nobody can take back."""
        return self.status == 403 and any("is being terminated" in cause.message for cause in self.causes)

    @property
    def is_transient(self) -> bool:
        """Whether the same request may succeed a moment later without anyone changing anything."""
        return self.status in (UNREACHABLE, 401, 408, 429) or self.status >= 500


class Fenced(Exception):
    """A write was refused on our side: this process may no longer be the leader."""


class CredentialsError(Refused):
    """There are no usable credentials; the problem says which were looked for, and what to do."""
