"""A ModelBlueprint that is read from what a ModelJob makes: it waits for the job, and goes on when that says something.

The test writes what a job's controller would write into its status.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tandem.controller.conditions import find
from tests.integration.controller.api import Object, eventually
from tests.integration.controller.node import ToldNode
from tests.integration.controller.space import Space
from tests.integration.controller.test_blueprints import create, parsed, status
from tests.integration.controller.test_fits import FACTS, OTHER_FACTS, QWEN, jobs, telling

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("operator")]


@pytest.fixture
def claim(space: Space) -> Iterator[None]:
    """The volume that jobs write to: no pod has a place without it."""
    shared: Object = {"accessModes": ["ReadOnlyMany"], "storageClassName": ""}
    name, claims = f"models-{space.namespace}", f"/api/v1/namespaces/{space.namespace}/persistentvolumeclaims"
    size = {"storage": "1Gi"}
    kept = {
        "capacity": size,
        "hostPath": {"path": "/tmp"},
        "claimRef": {"namespace": space.namespace, "name": "models"},
    }
    volume = {"metadata": {"name": name}, "spec": {**shared, **kept}}
    wanted = {**shared, "volumeName": name, "resources": {"requests": size}}
    space.api.request("POST", "/api/v1/persistentvolumes", volume)
    space.api.request("POST", claims, {"metadata": {"name": "models"}, "spec": wanted})
    eventually(
        lambda: space.api.request("GET", f"{claims}/models")["status"].get("phase"), lambda phase: phase == "Bound"
    )
    yield
    space.api.request("DELETE", f"/api/v1/persistentvolumes/{name}")


def create_job(space: Space) -> None:
    spec = {
        "steps": [{"name": "convert", "convert": {"checkpoint": "run-7"}}],
        "output": {"claimName": "models", "path": "out"},
    }
    metadata = {"name": "job", "namespace": space.namespace}
    space.api.create({"apiVersion": "tandem.dev/v1alpha1", "kind": "ModelJob", "metadata": metadata, "spec": spec})
    eventually(lambda: space.api.get("ModelJob", space.namespace, "job").get("status"))


def tell(space: Space, holds: str, reason: str, message: str = "", **fields: Any) -> None:
    """What the job's controller says."""
    since = {"lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1}
    condition = {"type": "Succeeded", "status": holds, "reason": reason, "message": message, **since}
    known = space.api.get("ModelJob", space.namespace, "job")["status"]["conditions"]
    others = [each for each in known if each["type"] != "Succeeded"]
    told = {"conditions": [*others, condition], **fields}
    space.api.merge("ModelJob", space.namespace, "job", {"status": told}, "status")


def message(space: Space, reason: str) -> str:
    return str(find(parsed(space, reason)["conditions"], "Parsed")["message"])


def directories(space: Space) -> list[str]:
    """What pods were asked to read."""
    found: list[Object] = [job["spec"]["template"]["spec"] for job in jobs(space)]
    return sorted(spec["containers"][0]["args"][-1] for spec in found)


@pytest.mark.usefixtures("claim")
def test_it_says_what_it_waits_for_until_the_job_has_made_it(space: Space, node: ToldNode) -> None:
    node.probe = telling(FACTS)
    create(space, **{"from": {"jobRef": {"name": "job"}}})
    assert "there is no ModelJob job" in message(space, "JobNotFound")

    create_job(space)
    assert "spec.from.pvc" in message(space, "JobNotAccepted")

    tell(space, "Unknown", "Running", step="convert")
    assert "(step convert)" in message(space, "WaitingForJob")

    tell(space, "False", "OutOfMemory", "step convert was killed")
    assert "failed (OutOfMemory): step convert was killed" in message(space, "JobFailed")
    assert directories(space) == []

    tell(space, "True", "Done", artifact={"path": "out/model", "digest": "one"})
    assert parsed(space, "Parsed")["totalParams"] == QWEN.total
    assert directories(space) == ["/models/out/model"]


@pytest.mark.usefixtures("claim")
def test_another_artifact_of_the_job_is_told_and_facts_stay(space: Space, node: ToldNode) -> None:
    node.probe = telling(FACTS)
    create_job(space)
    tell(space, "True", "Done", artifact={"digest": "one"})
    create(space, **{"from": {"jobRef": {"name": "job"}}})
    first = parsed(space, "Parsed")
    assert directories(space) == ["/models/out"]

    node.probe = telling(OTHER_FACTS)
    tell(space, "True", "Done", artifact={"digest": "two"})
    assert parsed(space, "ContentChanged")["digest"] == first["digest"]

    space.api.delete("ModelJob", space.namespace, "job")
    eventually(lambda: space.api.find("ModelJob", space.namespace, "job") is None)
    assert status(space)["digest"] == first["digest"]


def test_a_job_that_names_no_directory_is_refused(space: Space) -> None:
    create_job(space)
    tell(space, "True", "Done", artifact={"path": "../../etc"})
    create(space, **{"from": {"jobRef": {"name": "job"}}})

    assert "ModelJob job: status.artifact.path" in message(space, "Refused")
