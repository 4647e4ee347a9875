"""The status says what is so, why it is not otherwise, and changes only when there is something to tell."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tandem.api.handoff import Refusal
from tandem.api.problems import Problem
from tandem.api.status import DeploymentStatus
from tandem.controller.conditions import Condition, as_status, false, find, true
from tandem.controller.contest import Contest
from tandem.controller.events import Transition, transition
from tandem.controller.loading import Loading, Told
from tandem.controller.patch import merge_patch
from tandem.controller.status import Situation, next_status
from tandem.kube.cache import Ref
from tests.unit.controller.samples import ended, refusing, running, unscheduled, waiting
from tests.unit.controller.world import AGG, DISAGG, World

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
LATER = NOW + timedelta(seconds=90)


def situation(world: World, **changes: Any) -> Situation:
    given: dict[str, Any] = {
        "name": "chat",
        "namespace": "ns",
        "generation": 1,
        "declared": world.declared,
        "rendered": world.rendered,
        "problems": (),
        "observed": world.observed(),
        "hindrance": None,
        "contests": (),
        "applied": {(d.ref.kind, d.ref.name): d.digest for d in world.rendered.objects},
        "hints": {},
        "told": Told(),
        "taking_over": False,
        "cluster_domain": "cluster.local",
    }
    return Situation(**{**given, **changes})


def status_of(world: World, previous: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    status = next_status(situation(world, **changes), previous or {}, now=NOW)
    DeploymentStatus.model_validate(status)
    return status


def shown(status: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {condition["type"]: (condition["status"], condition["reason"]) for condition in status["conditions"]}


def message_of(status: dict[str, Any], kind: str) -> str:
    found = find(status["conditions"], kind)
    assert found is not None
    return str(found["message"])


def serving(**spec: Any) -> World:
    world = World(**spec)
    world.apply_all()
    world.settle_all()
    return world


def test_a_serving_deployment() -> None:
    status = status_of(serving(**DISAGG))
    assert shown(status) == {
        "Ready": ("True", "Serving"),
        "Valid": ("True", "Accepted"),
        "Rendered": ("True", "Applied"),
        "ModelReady": ("True", "Loaded"),
        "PrefillReady": ("True", "AllReady"),
        "DecodeReady": ("True", "AllReady"),
        "RouterReady": ("True", "Available"),
        "Progressing": ("False", "Settled"),
        "Degraded": ("False", "AsExpected"),
    }
    assert status["roles"] == {
        "prefill": {"desired": 1, "updated": 1, "ready": 1},
        "decode": {"desired": 2, "updated": 2, "ready": 2},
    }
    assert status["phase"] == "Ready"
    assert status["endpoint"] == "http://chat.ns.svc.cluster.local:8000"
    assert (status["replicas"], status["selector"]) == (2, "tandem.dev/deployment=chat,tandem.dev/role=decode")
    assert "rootCause" not in status
    assert {item["kind"] for item in status["inventory"]} >= {"Deployment", "Service", "ConfigMap"}
    assert status["inventory"] == sorted(status["inventory"], key=lambda item: (item["kind"], item["name"]))
    assert {parameter["role"] for parameter in status["parameters"]} == {"prefill", "decode"}


def test_conditions_that_do_not_apply_are_absent() -> None:
    conditions = shown(status_of(serving(**AGG)))
    assert "AggReady" in conditions
    assert not {"PrefillReady", "DecodeReady"} & conditions.keys()


def test_a_starting_deployment() -> None:
    world = World(**AGG)
    world.apply_all()
    status = status_of(world)
    conditions = shown(status)
    assert conditions["Ready"] == ("False", "WorkersStarting")
    assert conditions["ModelReady"] == ("Unknown", "NotLoadedYet")
    assert conditions["Progressing"] == ("True", "WorkersStarting")
    assert conditions["RouterReady"] == ("False", "RouterStarting")
    assert conditions["Degraded"] == ("False", "AsExpected")
    assert status["phase"] == "Starting"


def test_how_far_a_starting_worker_has_loaded_is_shown_until_it_is_ready() -> None:
    world = World(**DISAGG)
    world.apply_all()
    world.put_pod(running(ready=False, started=False), role="decode", name="d-0")
    told = Told({"d-0": Loading(3_100_000_000, 14_900_000_000)})
    status = status_of(world, told=told)
    assert status["roles"]["decode"]["loading"] == "3.1/14.9 GB"
    assert "loading" not in status["roles"]["prefill"]
    decode = find(status["conditions"], "DecodeReady")
    assert decode is not None
    assert decode["message"] == "0 of 2 workers ready, loading 3.1/14.9 GB"
    world.put_pod(running(ready=True), role="decode", name="d-0")
    assert "loading" not in status_of(world, status, told=told)["roles"]["decode"]


def test_a_refused_hand_off_is_a_condition_until_it_heals() -> None:
    world = serving(**DISAGG)

    def now_told(previous: dict[str, Any] | None, *refusals: Refusal) -> dict[str, Any]:
        return status_of(world, previous, hands_off=True, told=Told({}, refusals))

    other = Refusal("d-1", "protocol", "protocol is 'tandem-kv/4' at the prefill worker and 'tandem-kv/5' here")
    status = now_told(None, other, replace(other, pod="d-0"))
    assert shown(status)["HandOff"] == ("False", "HandoffRefused")
    assert shown(status)["Degraded"] == ("True", "HandoffRefused")
    assert shown(status)["Ready"] == ("True", "Serving"), "decode workers compute the prompts themselves"
    message = message_of(status, "HandOff")
    assert message.startswith("pod d-0 (and 1 more) refuses KV of its prefill workers, protocol: protocol is")
    assert "give both the same image" in message
    assert status_of(world, status, hands_off=True) == status, "nobody tells: as it was"
    healed = now_told(status)
    assert shown(healed)["HandOff"] == ("True", "Accepted")
    assert shown(healed)["Degraded"] == ("False", "AsExpected")
    assert "HandOff" not in shown(status_of(world, hands_off=True)), "nobody has told yet"
    assert "HandOff" not in shown(status_of(world, status)), "it does not hand off any more"


def test_an_edit_that_is_rolling_is_not_ready_although_old_workers_serve() -> None:
    world = serving(**AGG)
    document = world.workers("agg")
    world.set_status(document, observedGeneration=0, replicas=3, updatedReplicas=1, readyReplicas=2)
    status = status_of(world)
    assert shown(status)["AggReady"] == ("False", "RollingOut")
    assert shown(status)["Ready"] == ("False", "RollingOut")
    assert status["roles"]["agg"] == {"desired": 2, "updated": 1, "ready": 2}


def test_a_spec_that_the_controllers_have_not_seen_yet_is_not_ready() -> None:
    world = serving(**AGG)
    document = world.workers("agg")
    world.put(document, metadata={"generation": 2})
    assert shown(status_of(world))["AggReady"][0] == "False"


def test_a_new_revision_that_takes_over_is_not_ready_until_the_old_one_is_gone() -> None:
    world = serving(**AGG)
    old = world.rendered.revision
    world.wish(**AGG, model={"pvc": {"claimName": "models", "path": "other"}})
    for obj in world.built.objects:
        world.put(obj)
    world.settle_all()
    status = status_of(world, taking_over=True)
    assert shown(status)["Ready"] == ("False", "RollingOut")
    assert shown(status)["Progressing"] == ("True", "RollingOut")
    assert status["roles"]["agg"]["ready"] == 4, "workers of all revisions"
    world.settle(world.workers("agg", old), replicas=0)
    assert shown(status_of(world))["Ready"] == ("True", "Serving")


def test_ready_is_never_true_while_a_pod_crashes() -> None:
    world = serving(**AGG)
    world.put_pod(ended(1, message="boom"), role="agg")
    status = status_of(world)
    assert shown(status)["Ready"] == ("False", "ContainerFailed")
    assert shown(status)["Degraded"] == ("True", "ContainerFailed")
    assert shown(status)["Progressing"] == ("False", "ContainerFailed")
    assert status["phase"] == "Failing"
    assert status["rootCause"] == {
        "pod": "p",
        "container": "server",
        "reason": "ContainerFailed",
        "exitCode": 1,
        "message": "boom",
    }
    ready = find(status["conditions"], "Ready")
    assert ready is not None
    serves = f"revision {world.rendered.revision} still serves (agg 2 of 2 ready)"
    assert ready["message"] == f"pod p, container server (exit code 1): boom; {serves}"


def test_a_model_that_is_not_there_is_told_as_such() -> None:
    world = serving(**AGG)
    world.put_pod(ended(1, message="--model = /models/x: there is no such directory."), role="agg")
    conditions = shown(status_of(world))
    assert conditions["ModelReady"] == ("False", "ModelNotFound")
    assert conditions["Ready"] == ("False", "ModelNotFound")


def test_pods_that_may_not_be_made_are_told_without_any_pod() -> None:
    world = World(**AGG)
    world.apply_all()
    refused = refusing('pods "x" is forbidden: exceeded quota: team')
    world.set_status(world.workers("agg"), **refused["status"])
    status = status_of(world)
    assert status["rootCause"] == {"reason": "QuotaExceeded", "message": "exceeded quota: team"}
    assert shown(status)["Ready"] == ("False", "QuotaExceeded")


def test_what_is_wrong_with_workers_comes_before_what_is_wrong_with_the_router() -> None:
    world = World(**AGG)
    world.apply_all()
    world.put_pod(unscheduled("no node"), name="router")
    assert status_of(world)["rootCause"]["pod"] == "router"
    world.put_pod(waiting("ErrImageNeverPull", "no image"), role="agg", name="worker")
    status = status_of(world)
    assert status["rootCause"]["pod"] == "worker"
    assert shown(status)["RouterReady"] == ("False", "Unschedulable")


def test_the_present_revision_comes_before_older_ones() -> None:
    world = serving(**AGG)
    old = world.rendered.revision
    world.wish(**AGG, model={"pvc": {"claimName": "models", "path": "other"}})
    for obj in world.built.objects:
        world.put(obj)
    world.put_pod(ended(1, message="old"), role="agg", revision=old, name="old")
    assert status_of(world, taking_over=True)["rootCause"]["pod"] == "old"
    world.put_pod(ended(1, message="new"), role="agg", name="new")
    assert status_of(world, taking_over=True)["rootCause"]["pod"] == "new"


def test_a_value_that_is_only_approximated_is_told_beside_a_valid_spec() -> None:
    status = status_of(serving(backend="vllm", parameters={"kvCacheDtype": "int8"}))

    assert shown(status)["Valid"] == ("True", "Accepted")
    assert message_of(status, "Valid") == (
        "spec.parameters.kvCacheDtype: kv_cache_dtype int8 becomes --kv-cache-dtype int8_per_token_head: "
        "vLLM keeps a scale per token and head with it"
    )


def test_a_refused_spec_is_told_and_what_runs_is_still_shown() -> None:
    world = serving(**AGG)
    before = status_of(world)
    problem = Problem("spec.backendVersion", "'9'", "this version of torch is not known", "Use one of: 1.")
    status = status_of(world, before, rendered=None, problems=(problem,), generation=2, applied={}, declared={"agg": 2})
    assert shown(status)["Valid"] == ("False", "InvalidSpec")
    assert shown(status)["Ready"] == ("False", "InvalidSpec")
    assert shown(status)["Degraded"] == ("True", "InvalidSpec")
    assert "Rendered" not in shown(status)
    valid = find(status["conditions"], "Valid")
    assert valid is not None
    assert valid["message"] == str(problem)
    assert status["phase"] == "Invalid"
    assert status["roles"] == {"agg": {"desired": 2, "updated": 0, "ready": 2}}
    for field in ("inventory", "parameters", "revision"):
        assert status[field] == before[field]


def test_a_refused_spec_takes_nothing_from_the_revision_that_serves() -> None:
    world = serving(**DISAGG)
    before = status_of(world)
    problem = Problem("spec.backendVersion", "'9'", "this version of torch is not known", "Use one of: 1.")
    status = status_of(world, before, rendered=None, problems=(problem,), generation=2)
    conditions = shown(status)
    assert conditions["ModelReady"] == ("True", "Loaded")
    assert conditions["PrefillReady"] == conditions["DecodeReady"] == ("True", "AllReady")
    assert (conditions["Ready"], conditions["RouterReady"]) == (("False", "InvalidSpec"), ("True", "Available"))
    serves = f"revision {before['revision']} still serves (prefill 1 of 1 ready, decode 2 of 2 ready)"
    for kind in ("Ready", "Progressing", "Degraded"):
        assert message_of(status, kind) == f"{problem}; {serves}"


def test_when_a_new_revision_fails_the_old_one_is_said_to_serve() -> None:
    world = serving(**AGG)
    old = world.rendered.revision
    world.wish(**AGG, model={"pvc": {"claimName": "models", "path": "other"}})
    for obj in world.built.objects:
        world.put(obj)
    world.settle(world.workers("agg"), replicas=1, ready=0)
    world.settle_all_of("router")
    world.put_pod(ended(1, message="boom"), role="agg", name="new")
    status = status_of(world, taking_over=True)
    serves = f"revision {old} still serves (agg 2 of 2 ready)"
    located = "pod new, container server (exit code 1): boom"
    assert message_of(status, "Ready") == message_of(status, "Degraded") == f"{located}; {serves}"
    assert message_of(status, "Progressing") == f"waiting until the cause is removed; {serves}"


@pytest.mark.parametrize("lacking", ["router", "prefill"])
def test_what_cannot_answer_is_not_said_to_serve(lacking: str) -> None:
    world = serving(**DISAGG)
    name = next(doc["metadata"]["name"] for doc in world.deployments() if f"-{lacking}" in doc["metadata"]["name"])
    document = next(doc for doc in world.deployments() if doc["metadata"]["name"] == name)
    world.settle(document, ready=0)
    world.put_pod(ended(1, message="boom"), role="decode")
    assert message_of(status_of(world), "Ready") == "pod p, container server (exit code 1): boom"


def test_objects_that_could_not_be_written_are_told() -> None:
    hindrance = false("Rendered", "ObjectNotOwned", "Service ns/chat exists")
    status = status_of(World(**AGG), hindrance=hindrance)
    assert shown(status)["Rendered"] == ("False", "ObjectNotOwned")
    assert shown(status)["Ready"] == ("False", "ObjectNotOwned")
    assert status["phase"] == "Blocked"


def test_what_somebody_keeps_changing_is_told_and_takes_no_readiness_away() -> None:
    contest = Contest(Ref("Service", "ns", "chat"), ("spec.ports[8000/TCP].targetPort",), ("other-controller",))
    status = status_of(serving(), contests=(contest,))
    assert shown(status)["Degraded"] == ("True", "ObjectContested")
    assert shown(status)["Ready"][0] == "True"
    message = message_of(status, "Degraded")
    assert "Service ns/chat: field manager other-controller keeps changing spec.ports[8000/TCP].targetPort" in message


def test_a_deployment_scaled_to_zero_is_as_declared() -> None:
    world = serving(mode="agg", roles={"agg": {"replicas": 0}})
    status = status_of(world)
    assert shown(status)["AggReady"] == ("True", "ScaledToZero")
    assert shown(status)["Ready"][0] == "True"
    assert "ModelReady" not in shown(status)
    assert status["phase"] == "Stopped"


@pytest.mark.parametrize("spec", [AGG, DISAGG])
def test_the_same_situation_gives_the_same_status_whenever_it_is_looked_at(spec: dict[str, Any]) -> None:
    world = serving(**spec)
    world.put_pod(waiting("ImagePullBackOff", "Back-off pulling image"), role=world.deployment.role_names()[0])
    first = next_status(situation(world), {}, now=NOW)
    assert next_status(situation(world), first, now=LATER) == first


def test_the_time_of_a_condition_is_that_of_its_last_change_of_status() -> None:
    first = as_status([false("Ready", "A", "1")], [], generation=1, now=NOW)
    assert first[0]["lastTransitionTime"] == "2026-11-21T12:00:00Z"
    reason = as_status([false("Ready", "B", "2")], first, generation=2, now=LATER)
    assert (reason[0]["lastTransitionTime"], reason[0]["observedGeneration"]) == ("2026-11-21T12:00:00Z", 2)
    changed = as_status([true("Ready", "C")], reason, generation=2, now=LATER)
    assert changed[0]["lastTransitionTime"] == "2026-11-21T12:01:30Z"


@pytest.mark.parametrize(
    ("before", "after", "patch"),
    [
        ({}, {}, {}),
        ({"a": 1}, {"a": 1}, {}),
        ({"a": 1}, {"a": 2}, {"a": 2}),
        ({"a": 1}, {}, {"a": None}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "d": 3}}, {"a": {"c": None, "d": 3}}),
        ({"a": [1, 2]}, {"a": [1]}, {"a": [1]}),
        ({"a": None}, {}, {}),
        ({}, {"a": None}, {}),
        ({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": 1}}}, {}),
        ({"a": {"b": 1}}, {"a": {}}, {"a": {"b": None}}),
    ],
)
def test_a_merge_patch_holds_only_what_changes(before: Any, after: Any, patch: Any) -> None:
    assert merge_patch(before, after) == patch


def conditions(*given: Condition) -> dict[str, Any]:
    return {"conditions": as_status(given, [], generation=1, now=NOW)}


FINE = (true("Ready", "Serving", "ok"), false("Degraded", "AsExpected"))
STARTING = (false("Ready", "WorkersStarting", "0 of 1"), false("Degraded", "AsExpected"))
CRASHING = (false("Ready", "OOMKilled", "memory"), true("Degraded", "OOMKilled", "memory"))
PULLING = (false("Ready", "ImagePullBackOff", "x"), true("Degraded", "ImagePullBackOff", "x"))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((), STARTING, None),
        ((), CRASHING, Transition("Warning", "OOMKilled", "memory")),
        (STARTING, FINE, Transition("Normal", "Ready", "ok")),
        (FINE, FINE, None),
        (FINE, STARTING, Transition("Normal", "WorkersStarting", "0 of 1")),
        (FINE, CRASHING, Transition("Warning", "OOMKilled", "memory")),
        (CRASHING, CRASHING, None),
        (CRASHING, PULLING, Transition("Warning", "ImagePullBackOff", "x")),
        (CRASHING, FINE, Transition("Normal", "Ready", "ok")),
        (CRASHING, STARTING, None),
    ],
)
def test_events_are_for_transitions(before: Any, after: Any, expected: Transition | None) -> None:
    assert transition(conditions(*before) if before else {}, conditions(*after)) == expected
