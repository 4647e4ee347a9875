"""Compares what roles grant with what the API server's audit log says was asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.cluster.audit import AuditEvent


@dataclass(frozen=True, order=True)
class Right:
    """One verb on one kind of resource; `resource` has the subresource after a slash."""

    group: str
    resource: str
    verb: str

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}{'.' if self.group else ''}{self.group}"


def granted(roles: Iterable[Mapping[str, Any]]) -> frozenset[Right]:
    """Every right that the rules of these Roles and ClusterRoles give."""
    return frozenset(
        Right(group, resource, verb)
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    )


def used(events: Iterable[AuditEvent], user: str) -> frozenset[Right]:
    """Every right that a user needed for the requests that were let through.

    A patch answered with 201 has created its object (server-side apply) and needed the right to create as well.
    """
    found = set()
    for event in events:
        if event.user != user or not event.resource or event.status in (401, 403):
            continue
        resource = f"{event.resource}/{event.subresource}" if event.subresource else event.resource
        found.add(Right(event.group, resource, event.verb))
        if event.verb == "patch" and event.status == 201:
            found.add(Right(event.group, resource, "create"))
    return frozenset(found)


def denied(events: Iterable[AuditEvent], user: str) -> list[str]:
    """The requests of a user that were refused for want of rights, as text."""
    return sorted(
        {
            f"{event.verb} {event.group}/{event.resource}/{event.subresource} {event.namespace}/{event.name}"
            for event in events
            if event.user == user and event.status in (401, 403)
        }
    )
