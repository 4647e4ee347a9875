"""Revisions and modes change over without ever costing capacity; what is left over goes."""

from __future__ import annotations

import threading

import pytest

from tests.integration.controller.api import Object, eventually
from tests.integration.controller.node import ToldNode, loading, serving
from tests.integration.controller.space import AGG, DISAGG, MODEL, OTHER_MODEL, Space

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("operator")]

GENERATING = {"agg": "agg", "disagg": "decode"}


class Witness:
    """Notes the fewest ready workers of a deployment, and the most that there were, from looking all the time."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.fewest: dict[str, int] = {}
        self.most: dict[str, int] = {}

    def __enter__(self) -> Witness:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.03):
            counts: dict[str, tuple[int, int]] = {}
            for pod in self._space.pods("tandem.dev/role"):
                role = pod["metadata"]["labels"]["tandem.dev/role"]
                ready, present = counts.get(role, (0, 0))
                counts[role] = (ready + is_ready(pod), present + 1)
            for role, (ready, present) in counts.items():
                self.fewest[role] = min(ready, self.fewest.get(role, ready))
                self.most[role] = max(present, self.most.get(role, 0))


def is_ready(pod: Object) -> bool:
    conditions = pod["status"].get("conditions") or ()
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


@pytest.fixture
def witness(space: Space) -> Witness:
    return Witness(space)


def settled(space: Space) -> Object:
    """Waits until everything is as declared and nothing old is left; returns the status."""
    space.wait_condition("Ready", "True", timeout=60)
    status = space.wait_condition("Progressing", "False", "Settled", timeout=60)
    wanted = {(item["kind"], item["name"]) for item in status["inventory"]}
    eventually(lambda: sorted(space.children()), lambda found: set(found) == wanted, why="not just what is wanted")
    return status


def test_a_deployment_becomes_ready(space: Space, node: ToldNode) -> None:
    space.create(**DISAGG)
    status = settled(space)
    assert status["roles"] == {
        "prefill": {"desired": 1, "updated": 1, "ready": 1},
        "decode": {"desired": 2, "updated": 2, "ready": 2},
    }
    assert (status["phase"], status["replicas"]) == ("Ready", 2)
    assert "rootCause" not in status


def test_a_new_revision_takes_over_step_by_step(space: Space, node: ToldNode, witness: Witness) -> None:
    space.create(**DISAGG)
    old = settled(space)["revision"]
    with witness:
        space.edit(model=OTHER_MODEL)
        new = settled(space)["revision"]
    assert new != old
    assert [item["metadata"]["labels"]["tandem.dev/revision"] for item in space.workers("decode")] == [new]
    assert witness.fewest["prefill"] >= 1
    assert witness.fewest["decode"] >= 2
    assert witness.most["prefill"] <= 2
    assert witness.most["decode"] <= 3


def test_an_edit_in_place_keeps_the_old_workers_until_new_ones_are_ready(
    space: Space, node: ToldNode, witness: Witness
) -> None:
    space.create(**AGG)
    old = settled(space)
    with witness:
        space.edit(limits={"maxNewTokens": 77})
        new = settled(space)
    assert new["revision"] == old["revision"]
    assert witness.fewest["agg"] >= 2
    configs = {item["name"] for item in new["inventory"] if item["kind"] == "ConfigMap"}
    assert not configs & {item["name"] for item in old["inventory"] if item["kind"] == "ConfigMap"}


@pytest.mark.parametrize(("before", "after"), [(AGG, DISAGG), (DISAGG, AGG)], ids=["to disagg", "to agg"])
def test_a_switch_of_mode_changes_the_router_when_the_new_workers_are_ready(
    space: Space, node: ToldNode, before: Object, after: Object
) -> None:
    space.create(**before)
    settled(space)
    node.behave = lambda pod: loading(pod) if _is_of_mode(pod, after["mode"]) else serving(pod)
    roles = dict.fromkeys(before["roles"], None) | after["roles"]
    space.edit(mode=after["mode"], roles=roles)
    space.wait_condition("Ready", "False")
    eventually(lambda: space.workers(GENERATING[after["mode"]]))
    assert _router_mode(space) == before["mode"]
    assert space.workers(GENERATING[before["mode"]])[0]["status"]["readyReplicas"] == 2

    node.behave = serving
    status = settled(space)
    assert _router_mode(space) == after["mode"]
    assert set(status["roles"]) == set(after["roles"])
    assert not space.workers(GENERATING[before["mode"]])


def _is_of_mode(pod: Object, mode: str) -> bool:
    role = pod["metadata"]["labels"].get("tandem.dev/role", "")
    return bool(role) and (role == "agg") == (mode == "agg")


def _router_mode(space: Space) -> str:
    router = space.child("Deployment", "chat-router")
    assert router is not None
    arguments = router["spec"]["template"]["spec"]["containers"][0]["args"]
    return str(arguments[arguments.index("--mode") + 1])


def test_going_back_half_way_is_just_another_step(space: Space, node: ToldNode, witness: Witness) -> None:
    space.create(**DISAGG)
    first = settled(space)["revision"]
    node.behave = lambda pod: serving(pod) if _revision(pod) in ("", first) else loading(pod)
    with witness:
        space.edit(model=OTHER_MODEL)
        eventually(lambda: len(space.workers("decode")), lambda count: count == 2)
        space.edit(model=MODEL)
        assert settled(space)["revision"] == first
    assert witness.fewest["decode"] >= 2
    assert [item["metadata"]["labels"]["tandem.dev/revision"] for item in space.workers("decode")] == [first]


def test_an_older_deployment_is_repaired_while_it_serves(space: Space, node: ToldNode) -> None:
    space.create(**AGG)
    first = settled(space)["revision"]
    node.behave = lambda pod: serving(pod) if _revision(pod) in ("", first) else loading(pod)
    space.edit(model=OTHER_MODEL)
    old, _ = eventually(lambda: space.workers("agg"), lambda found: len(found) == 2)
    container = old["spec"]["template"]["spec"]["containers"][0]
    changed = {"spec": {"template": {"spec": {"containers": [{**container, "image": "other:1"}]}}}}
    space.api.merge("Deployment", space.namespace, old["metadata"]["name"], changed)
    eventually(lambda: space.workers("agg")[0], lambda found: found["metadata"]["generation"] >= 3)
    assert space.workers("agg")[0]["spec"]["template"] == old["spec"]["template"]


def _revision(pod: Object) -> str:
    return str(pod["metadata"]["labels"].get("tandem.dev/revision", ""))


def test_rapid_edits_end_at_the_last_one(space: Space, node: ToldNode, witness: Witness) -> None:
    space.create(**AGG)
    settled(space)
    with witness:
        for number in range(6):
            space.edit(model={"hub": {"repo": f"example/m{number}"}})
        status = settled(space)
    assert witness.fewest["agg"] >= 2
    (workers,) = space.workers("agg")
    assert workers["metadata"]["labels"]["tandem.dev/revision"] == status["revision"]
    assert "example/m5" in workers["spec"]["template"]["spec"]["containers"][0]["args"]


def test_a_new_revision_replaces_workers_that_never_came_up(space: Space, node: ToldNode) -> None:
    node.behave = lambda pod: serving(pod) if "tandem.dev/role" not in pod["metadata"]["labels"] else loading(pod)
    space.create(**AGG)
    space.wait_condition("RouterReady", "True")
    node.behave = serving
    space.edit(model=OTHER_MODEL)
    settled(space)
    assert len(space.workers("agg")) == 1
