"""A real API server takes every object of every golden case, in a namespace that enforces Pod Security *restricted*."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tandem.manifests import Build, Cluster
from tandem.manifests.names import FIELD_MANAGER
from tandem.rendering.library import load_library
from tests.cluster.control_plane import ControlPlane
from tests.golden import CASES, built

pytestmark = pytest.mark.integration
STANDARD = [f"pod-security.kubernetes.io/{what}=restricted" for what in ("enforce", "warn", "audit")]
APPLY = ("apply", "--server-side", f"--field-manager={FIELD_MANAGER}", "--validate=strict", "-f", "-")


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return Cluster(library=load_library())


@pytest.fixture(scope="module")
def groups(control_plane: ControlPlane) -> Iterator[None]:
    """The API server knows LeaderWorkerSet."""
    crd = Path(__file__).parent / "crds" / "leaderworkerset.yaml"
    control_plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(crd))
    name = "crd/leaderworkersets.leaderworkerset.x-k8s.io"
    control_plane.kubectl("wait", "--for=condition=Established", name)
    yield
    control_plane.kubectl("delete", name, "--wait=false", check=False)


@pytest.fixture(scope="module")
def restricted(control_plane: ControlPlane, groups: None) -> Iterator[str]:
    """A namespace in which the API server refuses pods that do not meet the standard."""
    name = "golden-dry-run"
    control_plane.kubectl("create", "namespace", name)
    control_plane.kubectl("label", "namespace", name, *STANDARD)
    yield name
    control_plane.kubectl("delete", "namespace", name, "--wait=false", check=False)


def _as_list(items: list[dict]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


def _pods(build: Build) -> list[dict]:
    """The pods that the workloads of a build would make: only pods themselves are refused by Pod Security."""
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": template["metadata"]
            | {"name": f"{item['metadata']['name']}-{number}", "namespace": _namespace(item)},
            "spec": template["spec"],
        }
        for item in build.objects
        for number, template in enumerate(_templates(item))
    ]


def _templates(item: dict[str, Any]) -> list[dict[str, Any]]:
    if item["kind"] == "LeaderWorkerSet":
        return [item["spec"]["leaderWorkerTemplate"][part] for part in ("leaderTemplate", "workerTemplate")]
    return [item["spec"]["template"]] if item["kind"] == "Deployment" else []


def _ownerless_accounts(build: Build) -> list[dict]:
    """The ServiceAccounts of a build, without the owner that does not exist here: the garbage collector would act."""
    return [
        item | {"metadata": {key: value for key, value in item["metadata"].items() if key != "ownerReferences"}}
        for item in build.objects
        if item["kind"] == "ServiceAccount"
    ]


def _namespace(item: dict) -> str:
    return item["metadata"]["namespace"]


@pytest.mark.parametrize("case", CASES)
def test_the_api_server_takes_every_object_without_a_warning(case, cluster, control_plane, restricted):
    build = built(case, cluster, namespace=restricted)

    done = control_plane.kubectl(*APPLY, "--dry-run=server", input=_as_list(list(build.objects)))

    assert done.stderr == ""
    assert done.stdout.count("serverside-applied (server dry run)") == len(build.objects)


@pytest.mark.parametrize("case", CASES)
def test_pod_security_restricted_takes_every_pod(case, cluster, control_plane, restricted):
    build = built(case, cluster, namespace=restricted)
    # A pod is refused while its account does not exist.
    control_plane.kubectl(*APPLY, input=_as_list(_ownerless_accounts(build)))

    done = control_plane.kubectl(*APPLY, "--dry-run=server", input=_as_list(_pods(build)))

    assert done.stderr == ""
    assert done.stdout.count("serverside-applied (server dry run)") == len(_pods(build))


def test_the_namespace_does_refuse_what_does_not_meet_the_standard(cluster, control_plane, restricted):
    build = built("torch-agg-minimal", cluster, namespace=restricted)
    control_plane.kubectl(*APPLY, input=_as_list(_ownerless_accounts(build)))
    (pod, *_) = _pods(build)
    del pod["spec"]["securityContext"]

    done = control_plane.kubectl(*APPLY, "--dry-run=server", input=_as_list([pod]), check=False)

    assert done.returncode != 0
    assert "violates PodSecurity" in done.stderr
