"""A model on a volume is read by a pod, judged against the memory of its workers, and held back where it cannot fit."""

from __future__ import annotations

import pytest

from tandem.api.labels import BLUEPRINT
from tests.e2e.release import OPERATOR_IMAGE
from tests.e2e.workspace import CLAIM, RESTRICTED, Object, Workspace, condition_of, model_deployment

pytestmark = pytest.mark.e2e

NAME = "sized"
REQUESTS = {"cpu": "50m", "memory": "64Mi"}


def sized(limit: str, **spec: object) -> Object:
    resources = {"requests": REQUESTS, "limits": {"memory": limit}}
    return model_deployment(NAME, roles={"agg": {"resources": resources}}, **spec)


def wait_fits(workspace: Workspace, status: str, reason: str, name: str = NAME) -> Object:
    """Waits until Fits says so of the spec as it is; returns the condition."""

    def said() -> bool:
        found = workspace.get("modeldeployment", name)
        fits = condition_of(found, "Fits")
        current = fits.get("observedGeneration") == found["metadata"]["generation"]
        return bool(current and (fits["status"], fits["reason"]) == (status, reason))

    workspace.wait_until(said, f"Fits is {status} {reason}", timeout=180)
    return condition_of(workspace.get("modeldeployment", name), "Fits")


def limits(workspace: Workspace) -> set[str]:
    """The memory limits of the workers that are wanted."""
    workers = workspace.list("deployments", f"tandem.dev/deployment={NAME},tandem.dev/role=agg")
    return {
        worker["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"]
        for worker in workers
        if worker["spec"]["replicas"]
    }


def test_a_model_is_read_judged_held_back_and_let_through(workspace: Workspace) -> None:
    workspace.apply(sized("2Gi"))
    told = wait_fits(workspace, "True", "Fits")["message"]
    assert "of 2.00 GiB (weights " in told
    found = workspace.wait_ready(NAME)
    derived = {each["name"] for each in found["status"]["parameters"] if each["source"] == "blueprint"}
    assert "maxSeqLen" in derived
    workspace.assert_recites(NAME)

    workspace.apply(sized("600Mi"))
    message = wait_fits(workspace, "False", "DoesNotFit")["message"]
    assert "of 0.59 GiB" in message
    found = workspace.get("modeldeployment", NAME)
    assert condition_of(found, "Ready")["status"] == "True"
    assert condition_of(found, "Progressing")["reason"] == "DoesNotFit"
    assert limits(workspace) == {"2Gi"}
    workspace.assert_recites(NAME)

    workspace.apply(sized("600Mi", overrideFits=True))
    workspace.wait_until(lambda: "600Mi" in limits(workspace), "the override lets it through")

    name = workspace.get("modeldeployment", NAME)["status"]["blueprint"]["name"]
    workspace.delete(NAME)
    if not workspace.list("modeldeployments"):
        workspace.wait_until(
            lambda: name not in {each["metadata"]["name"] for each in workspace.list("modelblueprints")},
            "the blueprint goes with the last that uses it",
        )


def greedy(annotation: str) -> Object:
    """A pod that reads for a blueprint, as the operator sees it, and takes more memory than it may."""
    identity = {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
    container = {
        "name": "probe",
        "image": OPERATOR_IMAGE,
        "imagePullPolicy": "Never",
        "command": ["python", "-c", "b'x' * 10**9"],
        "resources": {"requests": REQUESTS, "limits": {"memory": "64Mi"}},
        "securityContext": RESTRICTED,
    }
    metadata = {"labels": {"app.kubernetes.io/managed-by": "tandem"}, "annotations": {BLUEPRINT: annotation}}
    spec = {"restartPolicy": "Never", "securityContext": identity, "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "greedy", **metadata}, "spec": spec}


def test_why_a_model_could_not_be_read_is_told(workspace: Workspace) -> None:
    name, model = "unread", {"pvc": {"claimName": CLAIM, "path": "unread"}}
    # No registry has the image.
    none = {"agg": {"replicas": 0}}
    workspace.apply(model_deployment(name, model=model, imagePullPolicy="Always", roles=none))
    message = wait_fits(workspace, "Unknown", "ImagePullBackOff", name)["message"]
    assert OPERATOR_IMAGE in message

    blueprint = workspace.get("modeldeployment", name)["status"]["blueprint"]["name"]
    uid = workspace.get("modelblueprint", blueprint)["metadata"]["uid"]
    workspace.apply(greedy(f"{blueprint}/{uid}"))
    message = wait_fits(workspace, "Unknown", "ProbeFailed", name)["message"]
    assert "OOMKilled, exit code 137" in message

    workspace.delete(name)
