"""CRDs of another version than the operator are told, with what to do."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tandem.api.base import API_GROUP
from tandem.api.crd import KINDS, crd
from tandem.kube.errors import ApiError
from tandem.kube.schemas import lacking, schema_differences


class Published:
    """An API server that publishes schemas."""

    def __init__(self) -> None:
        self.schemas: dict[str, Any] = {}
        for kind in KINDS:
            schema = copy.deepcopy(crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
            # As the API server writes it.
            schema["properties"]["metadata"] = {"allOf": [{"$ref": "#/components/schemas/ObjectMeta"}]}
            gvk = {"group": API_GROUP, "kind": kind.name, "version": "v1alpha1"}
            self.schemas[f"dev.tandem.v1alpha1.{kind.name}"] = {**schema, "x-kubernetes-group-version-kind": [gvk]}
        self.error: ApiError | None = None

    @property
    def deployment(self) -> dict[str, Any]:
        found: dict[str, Any] = self.schemas["dev.tandem.v1alpha1.ModelDeployment"]["properties"]
        return found

    async def get_path(self, path: str) -> Any:
        assert path == "/openapi/v3/apis/tandem.dev/v1alpha1"
        if self.error is not None:
            raise self.error
        return {"components": {"schemas": self.schemas}}


@pytest.fixture
def cluster() -> Any:
    return Published()


async def test_the_same_version_is_nothing_to_tell(cluster: Any) -> None:
    assert await schema_differences(cluster) == ""


async def test_an_older_crd_is_told_with_what_it_drops(cluster: Any) -> None:
    del cluster.deployment["spec"]["properties"]["limits"]
    del cluster.deployment["status"]["properties"]["rootCause"]
    told = await schema_differences(cluster)
    assert "CRD of ModelDeployment is older than this operator and drops spec.limits, status.rootCause" in told
    assert "tandem crds | kubectl apply --server-side" in told


async def test_a_newer_crd_is_told_with_what_is_passed_over(cluster: Any) -> None:
    cluster.deployment["spec"]["properties"]["router"]["properties"]["colour"] = {"type": "string"}
    told = await schema_differences(cluster)
    assert "is newer than this operator, which passes over spec.router.colour: upgrade the operator" in told


async def test_what_cannot_be_read_is_no_reason_to_stop(cluster: Any) -> None:
    cluster.error = ApiError(403, "Forbidden", "no")
    assert await schema_differences(cluster) == ""
    cluster.error, cluster.schemas = None, {"odd": None}
    assert await schema_differences(cluster) == ""


def test_fields_are_found_in_lists_and_maps() -> None:
    inner = {"type": "object", "properties": {"a": {}, "b": {}}}
    less = {"type": "object", "properties": {"a": {}}}
    wanted = {"properties": {"list": {"items": inner}, "map": {"additionalProperties": inner}, "open": inner}}
    served = {
        "properties": {
            "list": {"items": less},
            "map": {"additionalProperties": less},
            "open": {"x-kubernetes-preserve-unknown-fields": True},
        }
    }
    assert list(lacking(wanted, served)) == ["list[].b", "map.*.b"]
