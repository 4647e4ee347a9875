"""Errors of the API server that callers tell apart."""

from __future__ import annotations

from tandem.kube.errors import ApiError, FieldError

CAUSE = FieldError("metadata.namespace", "namespace team is being terminated")


def test_a_namespace_that_ends_is_told_from_missing_rights() -> None:
    ending = ApiError(403, "Forbidden", "services is forbidden", causes=(CAUSE,))
    denied = ApiError(403, "Forbidden", 'User "x" cannot create services')
    assert ending.is_namespace_ending
    assert not denied.is_namespace_ending
