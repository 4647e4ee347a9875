"""However often the operator is killed on the way, it ends where an undisturbed one ends.

Fifty generated histories of users and saboteurs run at once, each in a namespace of its own, while the operator is
killed and started again at random moments. The same histories are then run past an operator that is left alone.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.integration.controller.api import Api, Object, Refusal, eventually
from tests.integration.controller.conftest import USER
from tests.integration.controller.node import ToldNode
from tests.integration.controller.process import OperatorProcess
from tests.integration.controller.space import Space, model_deployment, normalized

pytestmark = pytest.mark.integration

HISTORIES = 50
STEPS = 9
SETTLE_SECONDS = 120.0
NAME = "chat"


@dataclass(frozen=True)
class Step:
    """One thing that somebody does: `what` with these arguments."""

    what: str
    arguments: Object


def history(seed: int) -> list[Step]:
    """The steps of one history; the first one creates a deployment, and the last spec is one that can be followed."""
    chance = random.Random(seed)
    spec: Object = {"mode": "agg", "roles": {"agg": {"replicas": chance.randint(1, 2)}}}
    steps = [Step("create", spec)]
    moves = ["limits", "model", "mode", "scale", "router", "delete child", "edit child", "refuse", "again"]
    while len(steps) < STEPS:
        steps.append(_step(chance, chance.choice(moves)))
    return [*steps, Step("edit", {"backendVersion": None})]


def _step(chance: random.Random, move: str) -> Step:
    match move:
        case "limits":
            return Step("edit", {"limits": {"maxNewTokens": chance.randint(64, 512)}})
        case "model":
            return Step("edit", {"model": {"hub": {"repo": f"example/m{chance.randint(1, 3)}"}}})
        case "mode":
            disagg = {"agg": None, "prefill": {"replicas": 1}, "decode": {"replicas": chance.randint(1, 2)}}
            agg = {"agg": {"replicas": chance.randint(1, 2)}, "prefill": None, "decode": None}
            mode = chance.choice(["agg", "disagg"])
            return Step("edit", {"mode": mode, "replicas": None, "roles": disagg if mode == "disagg" else agg})
        case "scale":
            return Step("edit", {"replicas": chance.randint(1, 3)})
        case "router":
            return Step("edit", {"router": {"policy": chance.choice(["roundRobin", "leastLoaded"])}})
        case "delete child":
            child = chance.choice([("Service", NAME), ("Deployment", f"{NAME}-router"), ("Role", f"{NAME}-router")])
            return Step("delete child", {"child": child})
        case "edit child":
            return Step("edit child", {"replicas": chance.randint(0, 5)})
        case "refuse":
            return Step("edit", {"backendVersion": "0.0.1-none"})
        case _:
            return Step("again", {"mode": "agg", "roles": {"agg": {"replicas": chance.randint(1, 2)}}})


def play(space: Space, step: Step) -> None:
    """Does one step. Sabotage of what is not there at the moment does nothing."""
    api, namespace = space.api, space.namespace
    match step.what:
        case "create":
            api.create(model_deployment(NAME, namespace, **step.arguments))
        case "edit":
            space.edit(NAME, **step.arguments)
        case "delete child":
            api.delete(*step.arguments["child"][:1], namespace, step.arguments["child"][1])
        case "edit child":
            _quietly(lambda: api.merge("Deployment", namespace, f"{NAME}-router", {"spec": step.arguments}))
        case "again":
            api.delete("ModelDeployment", namespace, NAME, propagationPolicy="Background")
            api.create(model_deployment(NAME, namespace, **step.arguments))


def _quietly(act: Callable[[], object]) -> None:
    try:
        act()
    except Refusal as refusal:
        if refusal.status != 404:
            raise


def end_state(space: Space) -> str:
    """Everything that is there at the end, as text; waits until it has come to rest."""

    def at_rest(deployment: Object) -> bool:
        status = deployment.get("status") or {}
        conditions = {item["type"]: item for item in status.get("conditions", ())}
        told = [(kind, conditions.get(kind, {}).get("status")) for kind in ("Ready", "Progressing")]
        generation = deployment["metadata"]["generation"]
        if told != [("Ready", "True"), ("Progressing", "False")] or status["observedGeneration"] != generation:
            return False
        if conditions.get("Fits", {}).get("reason") == "Probing":
            return False
        return set(space.children(NAME)) == {(item["kind"], item["name"]) for item in status["inventory"]}

    found = eventually(
        lambda: space.get(NAME), at_rest, timeout=SETTLE_SECONDS, why=f"{space.namespace} has not come to rest"
    )
    status = dict(found["status"])
    status["conditions"] = [(item["type"], item["status"], item["reason"]) for item in status["conditions"]]
    # Hashes cover the owner's uid and the namespace; the objects themselves are compared.
    status["inventory"] = [(item["kind"], item["name"]) for item in status["inventory"]]
    status.pop("observedGeneration")
    status.pop("endpoint")
    text = normalized(space.children(NAME)) + json.dumps([found["spec"], status], indent=1, sort_keys=True)
    return text.replace(space.namespace, "NAMESPACE")


class Disturbance:
    """Kills the operator at random moments and starts it again at once, as long as the context lasts."""

    def __init__(self, operator: OperatorProcess, seed: int) -> None:
        self._operator = operator
        self._chance = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.kills = 0

    def __enter__(self) -> Disturbance:
        self._operator.start(wait=False)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        # From before the cache is complete to well into the work.
        while not self._stop.wait(self._chance.uniform(1.2, 4.0)):
            assert self._operator.handle.poll() is None, self._operator.log_tail()
            self._operator.kill()
            self.kills += 1
            self._operator.start(wait=False)


@pytest.fixture(scope="module")
def histories() -> list[list[Step]]:
    return [history(seed) for seed in range(HISTORIES)]


@pytest.fixture(scope="module")
def told_node(api: Api) -> Iterator[ToldNode]:
    with ToldNode(api, period=0.3) as node:
        yield node


def make_spaces(plane: ControlPlane, api: Api, prefix: str) -> list[Space]:
    names = [f"{prefix}-{number:02}" for number in range(HISTORIES)]
    items: list[Any] = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in names]
    plane.kubectl("create", "--filename=-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    return [Space(api, name) for name in names]


def play_all(spaces: list[Space], histories: list[list[Step]], pause: Callable[[], float]) -> None:
    """All histories at once, each in its own time."""

    def one(space: Space, steps: list[Step], seed: int) -> None:
        chance = random.Random(seed)
        for step in steps:
            play(space, step)
            time.sleep(chance.uniform(0, 2) * pause())

    with ThreadPoolExecutor(HISTORIES) as pool:
        list(pool.map(one, spaces, histories, range(HISTORIES)))


def end_states(spaces: list[Space]) -> list[str]:
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(end_state, spaces))


def test_a_killed_operator_ends_where_an_undisturbed_one_ends(
    plane: ControlPlane, api: Api, told_node: ToldNode, histories: list[list[Step]], tmp_path: Path
) -> None:
    operator = OperatorProcess(plane.kubeconfig_for(USER, ["system:masters"]), tmp_path / "operator.log")
    try:
        disturbed = make_spaces(plane, api, "disturbed")
        with Disturbance(operator, seed=7) as disturbance:
            play_all(disturbed, histories, pause=lambda: 2.0)
        assert disturbance.kills >= 5
        after_kills = end_states(disturbed)
        calm = make_spaces(plane, api, "calm")
        play_all(calm, histories, pause=lambda: 0.5)
        undisturbed = end_states(calm)
    finally:
        if operator.handle.poll() is None:
            operator.stop()
        names = [f"{prefix}-{number:02}" for prefix in ("disturbed", "calm") for number in range(HISTORIES)]
        # While there is a node that lets pods go; left to themselves they would slow whatever test comes next.
        plane.kubectl("delete", "namespace", *names, "--ignore-not-found", "--timeout=180s", check=False)
    for number, (killed, left_alone) in enumerate(zip(after_kills, undisturbed, strict=True)):
        assert killed == left_alone, f"history {number} ended otherwise"
    assert "a bug in the operator" not in operator.log.read_text(), operator.log_tail()


def test_histories_are_varied(histories: list[list[Step]]) -> None:
    told = {json.dumps([[step.what, step.arguments] for step in steps]) for steps in histories}
    assert len(told) == HISTORIES
    kinds = {step.what for steps in histories for step in steps}
    assert kinds == {"create", "edit", "delete child", "edit child", "again"}
