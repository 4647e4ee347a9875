"""Whether a deployment's model fits: one blueprint for all that have it, read by a pod, and what follows from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from tandem.api.deployment import ModelSource
from tandem.api.labels import BLUEPRINT
from tandem.blueprint.packed import pack
from tandem.blueprint.text import read_text
from tandem.kube.resources import JOB, NODE
from tandem.manifests.probe import blueprint_name
from tests.integration.controller.api import Api, Object, Refusal, eventually
from tests.integration.controller.conftest import Start
from tests.integration.controller.node import Behaviour, ToldNode, container, loading, status
from tests.integration.controller.space import Space, condition
from tests.unit.blueprint.configs import GOLDEN

pytestmark = pytest.mark.integration

PVC: Object = {"pvc": {"claimName": "models", "path": "qwen"}}
HUB: Object = {"hub": {"repo": "example/qwen"}}
QWEN = next(each for each in GOLDEN if each.name == "Qwen2.5-1.5B")
FACTS = json.dumps({"facts": pack(read_text(json.dumps(QWEN.config()), "x"))})
OTHER_FACTS = json.dumps({"facts": pack(read_text(json.dumps(GOLDEN[0].config()), "x"))})


def telling(message: str, *, exit_code: int = 0, reason: str = "Completed") -> Behaviour:
    """A pod that reads a model's files ends with this message."""

    def behave(pod: Object) -> Object:
        since = pod["metadata"]["creationTimestamp"]
        ended = {"exitCode": exit_code, "reason": reason, "message": message, "startedAt": since, "finishedAt": since}
        found = container(pod, state={"terminated": ended})
        return status("Failed" if exit_code else "Succeeded", ready=False, since=since, containers=[found])

    return behave


def memory(limit: str, **role: Any) -> Object:
    return {"mode": "agg", "roles": {"agg": {"resources": {"limits": {"memory": limit}}, **role}}}


def blueprints(space: Space) -> list[Object]:
    return space.api.list("ModelBlueprint", space.namespace)


def jobs(space: Space) -> list[Object]:
    return space.api.list(JOB, space.namespace)


def owners(space: Space) -> list[str]:
    return sorted(owner["name"] for found in blueprints(space) for owner in found["metadata"]["ownerReferences"])


def probes(space: Space) -> list[Object]:
    return [pod for pod in space.pods("") if BLUEPRINT in (pod["metadata"].get("annotations") or {})]


def arguments(space: Space) -> list[str]:
    (worker,) = space.workers("agg")
    return list(worker["spec"]["template"]["spec"]["containers"][0]["args"])


@pytest.fixture
def told(node: ToldNode) -> Iterator[ToldNode]:
    """The node, on which the model's files are those of Qwen2.5-1.5B."""
    node.probe = telling(FACTS)
    return node


@pytest.mark.usefixtures("operator", "told")
class TestWhatFollows:
    def test_a_model_that_fits_is_told_with_its_numbers_and_its_defaults(self, space: Space) -> None:
        space.create(model=HUB, **memory("16Gi"))

        found = space.wait_condition("Fits", "True")

        assert "weights 5.75 GiB" in condition({"status": found}, "Fits")["message"]
        eventually(lambda: space.workers("agg"))
        assert "--max-model-len" in arguments(space)
        derived = {each["name"] for each in space.wait_applied()["parameters"] if each["source"] == "blueprint"}
        assert "maxSeqLen" in derived
        (blueprint,) = blueprints(space)
        assert blueprint["status"]["totalParams"] == QWEN.total
        assert space.status()["blueprint"]["digest"] == blueprint["status"]["digest"]

    def test_the_pod_that_reads_has_no_rights_and_changes_nothing(self, space: Space) -> None:
        space.create(model=PVC)
        (job,) = eventually(lambda: jobs(space))

        spec = job["spec"]["template"]["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
        assert {"name": "model", "mountPath": "/models", "readOnly": True} in spec["containers"][0]["volumeMounts"]
        (owner,) = job["metadata"]["ownerReferences"]
        assert owner["kind"] == "ModelBlueprint"

    def test_a_model_that_does_not_fit_is_not_rolled_out_unless_told_to(self, space: Space) -> None:
        space.create(model=HUB, parameters={"maxSeqLen": 2048}, **memory("16Gi"))
        space.wait_condition("Fits", "True")
        space.wait_condition("Ready", "True")
        before = space.workers("agg")[0]["metadata"]["uid"], space.status()["revision"]

        space.edit(roles={"agg": {"resources": {"limits": {"memory": "4Gi"}}}})
        found = space.wait_condition("Fits", "False", "DoesNotFit")

        message = condition({"status": found}, "Fits")["message"]
        assert "needs" in message
        assert "of 4.00 GiB" in message
        assert "set spec.overrideFits: true" in message
        assert condition({"status": found}, "Ready")["status"] == "True"
        assert condition({"status": found}, "Progressing")["reason"] == "DoesNotFit"
        assert found["phase"] == "Blocked"
        assert "4Gi" not in json.dumps(space.workers("agg"))
        assert (space.workers("agg")[0]["metadata"]["uid"], found["revision"]) == before

        space.edit(overrideFits=True)
        eventually(lambda: json.dumps(space.workers("agg")), lambda text: "4Gi" in text)
        told = condition({"status": space.wait_condition("Fits", "False")}, "Fits")["message"]
        assert "spec.overrideFits" in told

    def test_what_never_fitted_has_no_workers(self, space: Space) -> None:
        space.create(model=HUB, **memory("1Gi"))

        found = space.wait_condition("Fits", "False", "DoesNotFit")

        assert condition({"status": found}, "Ready")["reason"] == "DoesNotFit"
        assert space.workers("agg") == []

        space.edit(roles={"agg": {"resources": {"limits": {"memory": "16Gi"}}}})
        space.wait_condition("Ready", "True")

    def test_two_deployments_share_a_blueprint_until_the_last_goes(self, space: Space) -> None:
        space.create("one", model=HUB)
        space.create("two", model=HUB)
        eventually(lambda: owners(space), lambda found: found == ["one", "two"])
        space.wait_applied("one")
        space.wait_applied("two")
        assert len(jobs(space)) == 1

        space.api.delete("ModelDeployment", space.namespace, "one")
        eventually(lambda: owners(space), lambda found: found == ["two"])
        space.edit("two", model={"hub": {"repo": "example/other"}})
        eventually(
            lambda: [each["spec"]["from"]["hub"]["repo"] for each in blueprints(space)],
            lambda repos: repos == ["example/other"],
        )
        space.api.delete("ModelDeployment", space.namespace, "two")
        eventually(lambda: not blueprints(space) and not jobs(space) and not probes(space))

    def test_another_content_under_the_same_name_is_told_and_changes_no_worker(
        self, space: Space, told: ToldNode
    ) -> None:
        space.create(model=HUB, **memory("16Gi"))
        space.wait_condition("Ready", "True")
        (blueprint,) = blueprints(space)
        before = space.workers("agg")[0]["metadata"]["generation"]

        told.probe = telling(OTHER_FACTS)
        for pod in probes(space):
            # As a Job of later would have it.
            space.api.merge(
                "Pod", space.namespace, pod["metadata"]["name"], {"status": telling(OTHER_FACTS)(pod)}, "status"
            )

        name = blueprint["metadata"]["name"]
        eventually(
            lambda: condition(space.api.get("ModelBlueprint", space.namespace, name), "Parsed").get("reason"),
            lambda reason: reason == "ContentChanged",
        )
        assert (
            space.api.get("ModelBlueprint", space.namespace, name)["status"]["digest"] == blueprint["status"]["digest"]
        )
        assert space.workers("agg")[0]["metadata"]["generation"] == before

    def test_a_blueprint_that_is_deleted_comes_back_and_rolls_nothing(self, space: Space) -> None:
        space.create(model=HUB, **memory("16Gi"))
        space.wait_condition("Ready", "True")
        (blueprint,) = blueprints(space)
        before = [worker["metadata"]["generation"] for worker in space.workers("agg")]

        space.api.delete("ModelBlueprint", space.namespace, blueprint["metadata"]["name"])

        eventually(
            lambda: [
                found.get("status", {}).get("digest")
                for found in blueprints(space)
                if found["metadata"]["uid"] != blueprint["metadata"]["uid"]
            ],
            lambda found: found == [blueprint["status"]["digest"]],
        )
        space.wait_condition("Fits", "True")
        assert [worker["metadata"]["generation"] for worker in space.workers("agg")] == before

    def test_a_named_blueprint_gives_weights_and_facts(self, space: Space) -> None:
        head = {"apiVersion": "tandem.dev/v1alpha1", "kind": "ModelBlueprint"}
        metadata = {"name": "mine", "namespace": space.namespace}
        space.create(model={"blueprintRef": {"name": "mine"}}, **memory("16Gi"))
        refused = space.wait_condition("Valid", "False")
        assert "there is no ModelBlueprint mine" in condition({"status": refused}, "Valid")["message"]

        space.api.create({**head, "metadata": metadata, "spec": {"from": HUB}})

        space.wait_condition("Fits", "True")
        space.wait_condition("Ready", "True")
        assert [found["metadata"]["name"] for found in blueprints(space)] == ["mine"]
        assert "example/qwen" in arguments(space)

    def test_a_blueprint_of_another_source_is_not_believed(self, space: Space) -> None:
        name = blueprint_name(ModelSource.model_validate(HUB, by_alias=True))
        head = {"apiVersion": "tandem.dev/v1alpha1", "kind": "ModelBlueprint"}
        metadata = {"name": name, "namespace": space.namespace}
        space.api.create({**head, "metadata": metadata, "spec": {"design": {"tiny": True}}})

        space.create(model=HUB, **memory("16Gi"))

        found = space.wait_condition("Fits", "Unknown", "BlueprintOfAnother")
        assert "delete it" in condition({"status": found}, "Fits")["message"]
        space.api.delete("ModelBlueprint", space.namespace, str(name))
        space.wait_condition("Fits", "True")

    def test_drift_is_repaired_while_the_blueprint_is_gone(self, space: Space) -> None:
        head = {"apiVersion": "tandem.dev/v1alpha1", "kind": "ModelBlueprint"}
        metadata = {"name": "mine", "namespace": space.namespace}
        space.api.create({**head, "metadata": metadata, "spec": {"from": HUB}})
        space.create(model={"blueprintRef": {"name": "mine"}}, **memory("16Gi"))
        space.wait_condition("Ready", "True")
        (worker,) = space.workers("agg")
        before = worker["spec"]["template"]

        space.api.delete("ModelBlueprint", space.namespace, "mine")
        eventually(lambda: "there is no ModelBlueprint mine" in condition(space.get(), "Fits")["message"])
        container = {"name": "server", "args": ["changed"]}
        changed = {"spec": {"template": {"spec": {"containers": [{**before["spec"]["containers"][0], **container}]}}}}
        space.api.merge("Deployment", space.namespace, worker["metadata"]["name"], changed)

        eventually(lambda: space.workers("agg")[0]["spec"]["template"], lambda found: found == before)
        space.edit(replicas=3)
        eventually(lambda: space.workers("agg")[0]["spec"]["replicas"], lambda found: found == 3)
        assert space.workers("agg")[0]["spec"]["template"] == before


FAULTS = {
    "killed for memory": (telling("", exit_code=137, reason="OOMKilled"), "ProbeFailed", "OOMKilled"),
    "cut off": (
        telling(json.dumps({"refused": "config.json:1:9: malformed JSON"}), exit_code=1),
        "Refused",
        "malformed",
    ),
    "hostile answer": (telling(json.dumps({"facts": "x" * 2000})), "Refused", "no packed facts"),
    "no answer": (telling("Traceback …", exit_code=1), "ProbeFailed", "Traceback"),
}


@pytest.mark.usefixtures("operator")
class TestWhatGoesWrong:
    @pytest.mark.parametrize(("behave", "reason", "told"), FAULTS.values(), ids=FAULTS.keys())
    def test_a_model_that_cannot_be_read_is_deployed_without_facts(
        self, space: Space, node: ToldNode, behave: Behaviour, reason: str, told: str
    ) -> None:
        node.probe = behave
        space.create(model=HUB, **memory("16Gi"))

        found = space.wait_condition("Fits", "Unknown", reason)

        assert told in condition({"status": found}, "Fits")["message"]
        space.wait_condition("Ready", "True")

    def test_facts_that_come_late_are_told_and_roll_nothing(self, space: Space, node: ToldNode) -> None:
        node.probe = telling("", exit_code=1)
        space.create(model=HUB, **memory("1Gi"))
        space.wait_condition("Fits", "Unknown")
        space.wait_condition("Ready", "True")
        before = [worker["metadata"]["generation"] for worker in space.workers("agg")]

        node.probe = telling(FACTS)
        for job in jobs(space):
            space.api.request(
                "DELETE", f"{JOB.path(space.namespace, job['metadata']['name'])}?propagationPolicy=Background"
            )

        found = space.wait_condition("Fits", "False", "DoesNotFit", timeout=120)
        assert "rolled out before this was known" in condition({"status": found}, "Fits")["message"]
        assert condition({"status": found}, "Ready")["status"] == "True"
        assert [worker["metadata"]["generation"] for worker in space.workers("agg")] == before

    def test_workers_wait_while_the_model_is_being_read(self, space: Space, node: ToldNode) -> None:
        node.probe = loading
        space.create(model=HUB, **memory("16Gi"))
        eventually(lambda: probes(space), lambda found: found and found[0]["status"].get("phase") == "Running")

        eventually(space.children, lambda found: ("Service", "chat") in found)
        assert space.workers("agg") == []
        node.probe = telling(FACTS)

        space.wait_condition("Fits", "True")
        assert "--max-model-len" in arguments(space)


GPU_NODE = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "with-gpus"}}


@pytest.fixture
def gpu_node(api: Api) -> Iterator[str]:
    """The name of a node that a test may make."""
    name = GPU_NODE["metadata"]["name"]
    yield name
    with suppress(Refusal):
        api.request("DELETE", NODE.path(None, name))


@pytest.mark.usefixtures("operator", "told")
def test_gpus_are_seen_when_they_come_and_roll_nothing(space: Space, gpu_node: str) -> None:
    vllm = {"backend": "vllm", "model": HUB, "parameters": {"maxBatchSize": 1}}
    space.create(**vllm)
    unknown = space.wait_condition("Fits", "Unknown", "MemoryUnknown")
    assert "the memory of the role's GPUs is not known" in condition({"status": unknown}, "Fits")["message"]
    space.wait_applied()
    before = arguments(space)

    labels = {"nvidia.com/gpu.memory": "81559"}
    space.api.request("POST", NODE.path(None), {**GPU_NODE, "metadata": {"name": gpu_node, "labels": labels}})
    assert "of 71.68 GiB" in condition({"status": space.wait_condition("Fits", "True")}, "Fits")["message"]

    merge = "application/merge-patch+json"
    small = {"metadata": {"labels": {"nvidia.com/gpu.memory": "2048"}}}
    space.api.request("PATCH", NODE.path(None, gpu_node), small, merge)
    found = space.wait_condition("Fits", "False", "DoesNotFit")
    assert "rolled out before this was known" in condition({"status": found}, "Fits")["message"]
    assert arguments(space) == before

    space.edit(parameters={"maxBatchSize": 2})
    space.wait_condition("Progressing", "False", "DoesNotFit")
    assert arguments(space) == before


@pytest.mark.usefixtures("operator")
def test_without_a_node_nobody_waits(space: Space) -> None:
    space.create(model=HUB)

    space.wait_condition("Fits", "Unknown", "Unschedulable")
    eventually(lambda: space.workers("agg"))


def test_an_operator_that_is_killed_finds_the_answer_later(space: Space, start: Start, node: ToldNode) -> None:
    node.probe = loading
    first = start(namespaces=(space.namespace,))
    space.create(model=HUB, **memory("16Gi"))
    eventually(lambda: probes(space))
    first.kill()
    node.probe = telling(FACTS)
    eventually(lambda: probes(space) or [{}], lambda found: found[0].get("status", {}).get("phase") == "Succeeded")

    start(namespaces=(space.namespace,))

    space.wait_condition("Fits", "True")
    space.wait_condition("Ready", "True")
    assert len(jobs(space)) == 1
