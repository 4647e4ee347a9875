"""The comparison of granted and used rights."""

from __future__ import annotations

from tests.cluster.audit import AuditEvent
from tests.e2e.rights import Right, denied, granted, used

ME = "system:serviceaccount:tandem-system:tandem"


def event(verb: str, resource: str, status: int = 200, *, subresource: str = "", user: str = ME) -> AuditEvent:
    return AuditEvent(
        user=user,
        verb=verb,
        group="apps",
        resource=resource,
        subresource=subresource,
        namespace="one",
        name="x",
        status=status,
        stage="ResponseComplete",
        user_agent="",
    )


def test_rules_are_multiplied_out() -> None:
    rule = {"apiGroups": ["", "apps"], "resources": ["a", "b/status"], "verbs": ["get", "list"]}
    rights = granted([{"rules": [rule]}, {"rules": [rule]}])
    assert len(rights) == 8
    assert Right("apps", "b/status", "list") in rights


def test_used_rights_carry_subresources_and_leave_others_requests_out() -> None:
    events = [
        event("patch", "deployments", subresource="status"),
        event("list", "pods", user="system:admin"),
        event("get", "pods", 404),
    ]
    assert used(events, ME) == {Right("apps", "deployments/status", "patch"), Right("apps", "pods", "get")}


def test_apply_that_created_needed_two_rights() -> None:
    assert used([event("patch", "deployments", 201)], ME) == {
        Right("apps", "deployments", "patch"),
        Right("apps", "deployments", "create"),
    }


def test_refused_requests_are_denied_and_not_used() -> None:
    events = [event("delete", "deployments", 403), event("list", "deployments", 403, user="other")]
    assert used(events, ME) == frozenset()
    assert denied(events, ME) == ["delete apps/deployments/ one/x"]
