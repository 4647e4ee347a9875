"""Rules and templates in ConfigMaps: read anew when they change, and only objects that differ are written."""

from __future__ import annotations

import time

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.integration.controller.api import Object, eventually
from tests.integration.controller.conftest import USER
from tests.integration.controller.process import ROOT, OperatorProcess
from tests.integration.controller.space import DISAGG, Space, condition
from tests.integration.controller.test_reconcile import applied, writes

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("operator", "node")]

RULES = "my-rules"
GOOD = "decode max_batch_size = 8\nprefill max_batch_size = 2\n"
BROKEN = "decode max_batch_size = 8\nprefill max_batch_size = (2 +\n"


def config_map(space: Space, text: str, *, name: str = RULES, key: str = "torch.rule") -> Object:
    metadata = {"name": name, "namespace": space.namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {key: text}}


def edit(space: Space, text: str, *, name: str = RULES, key: str = "torch.rule") -> None:
    space.api.merge("ConfigMap", space.namespace, name, {"data": {key: text}})


def served(space: Space) -> Object:
    """A deployment with rules of its own."""
    space.api.create(config_map(space, GOOD))
    space.create(**DISAGG, rules={"configMapRef": {"name": RULES}})
    return space.wait_applied()


def when_quiet(plane: ControlPlane, space: Space, seconds: float = 2.0) -> int:
    """The place in the audit log where nothing was written in the space for a while."""
    deadline = time.monotonic() + 120
    while True:
        since = plane.audit_offset()
        time.sleep(seconds)
        if not (found := writes(plane, since, space.namespace)):
            return since
        assert time.monotonic() < deadline, found


def batch_sizes(status: Object) -> dict[str, str]:
    return {item["role"]: item["value"] for item in status["parameters"] if item["name"] == "maxBatchSize"}


def test_changed_rules_are_read_at_once_and_only_what_differs_is_written(plane: ControlPlane, space: Space) -> None:
    status = served(space)
    assert batch_sizes(status) == {"prefill": "2", "decode": "8"}
    before = {item["metadata"]["name"]: item["metadata"]["generation"] for item in space.workers("prefill")}
    since = plane.audit_offset()
    edit(space, GOOD + "# nothing else\n")
    edit(space, GOOD.replace("= 8", "= 9") + "# nothing else\n")
    eventually(lambda: batch_sizes(space.status()), lambda sizes: sizes == {"prefill": "2", "decode": "9"}, timeout=20)
    space.wait_applied()
    written = applied(plane, since, space.namespace)
    assert {resource for resource, _ in written} <= {"configmaps", "deployments"}
    assert all("-decode-" in name for _, name in written), written
    assert before == {item["metadata"]["name"]: item["metadata"]["generation"] for item in space.workers("prefill")}


def test_an_edit_of_rules_that_changes_no_result_writes_nothing(plane: ControlPlane, space: Space) -> None:
    served(space)
    space.create("other", **DISAGG, rules={"configMapRef": {"name": "other-rules"}})
    space.wait_condition("Valid", "False", "InvalidSpec", name="other")
    space.wait_condition("Ready", "True")
    since = when_quiet(plane, space)
    edit(space, GOOD + "# a remark\n")
    # What is seen after the remark shows that the remark was seen too: one watch brings both.
    space.api.create(config_map(space, GOOD, name="other-rules"))
    space.wait_applied("other")
    mine = [
        write for write in writes(plane, since, space.namespace) if "other" not in write[2] and write[1] != "events"
    ]
    assert mine == []


def test_broken_rules_are_located_and_what_runs_goes_on(plane: ControlPlane, space: Space) -> None:
    good = served(space)
    space.wait_condition("Ready", "True")
    since = plane.audit_offset()
    edit(space, BROKEN)
    status = space.wait_condition("Valid", "False", "InvalidSpec", timeout=20)
    message = condition({"status": status}, "Valid")["message"]
    assert f"ConfigMap {RULES}/torch.rule:2:" in message
    assert applied(plane, since, space.namespace) == set(), "pods and all else stay as they are"
    assert (status["parameters"], status["inventory"]) == (good["parameters"], good["inventory"])
    assert condition({"status": status}, "Degraded")["status"] == "True"
    edit(space, GOOD)
    status = space.wait_condition("Valid", "True", timeout=20)
    assert condition({"status": status}, "Rendered")["status"] == "True"
    assert applied(plane, since, space.namespace) == set()


def test_a_config_map_that_comes_goes_and_comes_back_is_noticed(space: Space) -> None:
    space.create(**DISAGG, rules={"configMapRef": {"name": RULES}})
    status = space.wait_condition("Valid", "False", "InvalidSpec")
    assert "there is no such ConfigMap" in condition({"status": status}, "Valid")["message"]
    space.api.create(config_map(space, GOOD))
    space.wait_condition("Valid", "True", timeout=20)
    space.api.delete("ConfigMap", space.namespace, RULES)
    space.wait_condition("Valid", "False", "InvalidSpec", timeout=20)
    space.api.create(config_map(space, GOOD))
    space.wait_condition("Valid", "True", timeout=20)


def test_templates_are_read_anew_as_rules_are(space: Space) -> None:
    text = (ROOT / "templates/torch/config.1.yml.j2").read_text()
    space.api.create(config_map(space, text, name="my-templates", key="config.1.yml.j2"))
    space.create(**DISAGG, templates={"configMapRef": {"name": "my-templates"}})
    space.wait_applied()
    edit(space, "{{ nothing.of.the.kind", name="my-templates", key="config.1.yml.j2")
    status = space.wait_condition("Valid", "False", "InvalidSpec", timeout=20)
    assert "ConfigMap my-templates/config.1.yml.j2:1" in condition({"status": status}, "Valid")["message"]
    edit(space, text, name="my-templates", key="config.1.yml.j2")
    space.wait_condition("Valid", "True", timeout=20)


def test_following_config_maps_needs_no_requests_at_rest(
    plane: ControlPlane, space: Space, operator: OperatorProcess
) -> None:
    served(space)
    space.wait_condition("Ready", "True")
    asked = [
        (event.verb, event.name)
        for event in plane.audit_events()
        if event.user == USER and event.namespace == space.namespace and event.resource == "configmaps"
    ]
    assert [name for verb, name in asked if verb == "get"] == [RULES], "once, however often it was needed"
    assert len([verb for verb, name in asked if verb == "list"]) == 1
