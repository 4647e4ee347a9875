"""Which images a deployment in a cluster shows to be the operator's defaults."""

import pytest

from tandem.api.load import parse_resource
from tandem.cli.deployed import with_images_of
from tandem.manifests import Cluster, build
from tandem.rendering.library import load_library

LIBRARY = load_library()
OURS = Cluster(library=LIBRARY)
THEIRS = Cluster(library=LIBRARY, router_image="reg/operator:9", images={"torch": "reg/server:9", "vllm": "reg/vllm:9"})


def deployment(**spec):
    return parse_resource(
        {
            "apiVersion": "tandem.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "q"},
            "spec": {"model": {"pvc": {"claimName": "m"}}, **spec},
        }
    )


def seen(wanted, was, cluster=THEIRS) -> Cluster:
    """What is known of the images when `was` runs in `cluster`, and `wanted` is asked about."""
    objects = build(was, cluster=cluster).objects
    workloads = [found for found in objects if found["kind"] == "Deployment"]
    return with_images_of(OURS, wanted, {"spec": was.spec.as_manifest()}, workloads)


def test_images_of_what_runs_are_the_operators():
    known = seen(deployment(replicas=3), deployment())
    assert (known.router_image, known.images) == ("reg/operator:9", {"torch": "reg/server:9"})


def test_nothing_is_known_where_nothing_runs():
    assert with_images_of(OURS, deployment(), None, []) == OURS


def test_a_backend_that_changes_shows_the_router_only():
    known = seen(deployment(backend="vllm"), deployment())
    assert (known.router_image, known.images) == ("reg/operator:9", {})


@pytest.mark.parametrize(
    "spec",
    [
        {"image": "mine:1"},
        {"roles": {"agg": {"podTemplate": {"spec": {"containers": [{"name": "server", "image": "mine:1"}]}}}}},
    ],
)
def test_an_image_that_the_deployment_named_is_nobodys_default(spec):
    assert seen(deployment(), deployment(**spec)).images == {}


def test_the_other_role_tells_when_one_names_its_own_image():
    own = {"podTemplate": {"spec": {"containers": [{"name": "server", "image": "mine:1"}]}}}
    was = deployment(mode="disagg", roles={"prefill": own, "decode": {}})
    assert seen(was, was).images == {"torch": "reg/server:9"}


def test_a_shipped_image_leaves_other_versions_to_theirs():
    was = deployment(backend="vllm", backendVersion="0.32.0")
    known = seen(deployment(backend="vllm", backendVersion="0.33.0"), was, OURS)
    assert known.images == {}


def test_of_two_revisions_that_of_the_status_counts():
    was = deployment()
    old, new = (
        [found for found in build(was, cluster=cluster).objects if found["kind"] == "Deployment"]
        for cluster in (OURS, THEIRS)
    )
    worker = next(found for found in new if "tandem.dev/revision" in found["metadata"]["labels"])
    status = {"revision": worker["metadata"]["labels"]["tandem.dev/revision"]}
    known = with_images_of(OURS, was, {"spec": was.spec.as_manifest(), "status": status}, [*old, *new])
    assert known.images == {"torch": "reg/server:9"}
