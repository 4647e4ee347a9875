"""The cache keeps the latest news, whichever way they come, and little of them."""

from __future__ import annotations

from typing import Any

import pytest

from tandem.kube.cache import LARGEST, Cache, Ref, entry_of
from tandem.kube.resources import CONFIG_MAP, DEPLOYMENT, MODEL_DEPLOYMENT, POD, Resource

OWNER = {"apiVersion": "tandem.dev/v1alpha1", "kind": "ModelDeployment", "name": "chat", "uid": "md-1"}


def obj(
    resource: Resource = CONFIG_MAP,
    *,
    name: str = "c",
    uid: str = "u1",
    version: int = 10,
    owner: dict[str, Any] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "namespace": "ns", "uid": uid, "resourceVersion": str(version)}
    metadata["labels"] = {"tandem.dev/deployment": "chat"}
    if owner:
        metadata["ownerReferences"] = [{**owner, "controller": True}]
    metadata |= fields.pop("metadata", {})
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata, **fields}


def entry(resource: Resource = CONFIG_MAP, **fields: Any) -> Any:
    return entry_of(resource, obj(resource, **fields))


REF = Ref("ConfigMap", "ns", "c")


def test_older_news_never_replace_newer() -> None:
    cache = Cache()
    assert cache.put(entry(owner=OWNER, version=10, data={"a": "new"}))
    assert not cache.put(entry(owner=OWNER, version=9, data={"a": "old"}))
    found = cache.get(REF)
    assert found is not None
    assert found.object["data"] == {"a": "new"}


def test_the_echo_of_our_own_write_is_no_news() -> None:
    cache = Cache()
    assert cache.put(entry(owner=OWNER, version=10, data={"a": "1"}))
    assert not cache.put(entry(owner=OWNER, version=10, data={"a": "1"}))


def test_a_new_version_that_says_the_same_is_no_news_but_is_remembered() -> None:
    cache = Cache()
    cache.put(entry(owner=OWNER, version=10, data={"a": "1"}))
    assert not cache.put(
        entry(owner=OWNER, version=11, data={"a": "1"}, metadata={"managedFields": [{"manager": "x"}]})
    )
    found = cache.get(REF)
    assert found is not None
    assert found.version == 11


def test_the_end_of_an_earlier_object_of_the_same_name_changes_nothing() -> None:
    cache = Cache()
    cache.put(entry(uid="u2", version=20))
    assert cache.remove(REF, uid="u1", version=15) is None
    assert cache.get(REF) is not None


def test_a_late_end_does_not_undo_what_was_written_after_it() -> None:
    # Somebody took our label away (the watch calls that a deletion), and we have put it back already.
    cache = Cache()
    cache.put(entry(version=21))
    assert cache.remove(REF, uid="u1", version=20) is None
    assert cache.remove(REF, uid="u1", version=22) is not None
    assert cache.get(REF) is None


def test_children_are_found_by_controller_and_by_label_but_the_controller_counts_more() -> None:
    cache = Cache()
    cache.put(entry(name="by-label"))
    cache.put(entry(name="by-owner", owner=OWNER, metadata={"labels": {"tandem.dev/deployment": "other"}}))
    cache.put(entry(name="by-owner", owner=OWNER, version=12))
    assert {child.ref.name for child in cache.children("ns", "chat")} == {"by-label", "by-owner"}
    assert cache.children("ns", "other") == ()
    cache.remove(Ref("ConfigMap", "ns", "by-label"), uid="u1")
    assert {child.ref.name for child in cache.children("ns", "chat")} == {"by-owner"}


def test_a_model_deployment_is_no_child_of_its_own() -> None:
    cache = Cache()
    cache.put(entry(MODEL_DEPLOYMENT, name="chat", spec={}))
    assert cache.children("ns", "chat") == ()


def test_owner_is_the_controller_only() -> None:
    plain = {**OWNER, "controller": False}
    metadata = {"ownerReferences": [plain, {**OWNER, "kind": "ReplicaSet", "controller": True, "uid": "rs"}]}
    found = entry(POD, metadata=metadata)
    assert (found.owner.kind, found.owner.uid, found.deployment) == ("ReplicaSet", "rs", "chat")


def test_what_nobody_reads_is_not_kept() -> None:
    status = {
        "phase": "Pending",
        "hostIP": "10.0.0.1",
        "conditions": [{"type": "Ready", "status": "False", "lastProbeTime": None}, {"type": "Initialized"}],
        "containerStatuses": [
            {"name": "server", "imageID": "sha256:1", "state": {"terminated": {"message": "x" * 9000, "exitCode": 1}}}
        ],
    }
    pod = entry(POD, spec={"containers": []}, status=status, metadata={"managedFields": [], "annotations": {"a": "b"}})
    document = pod.object
    assert "spec" not in document
    assert document["metadata"].keys() <= {"name", "namespace", "uid", "labels", "annotations"}
    assert document["status"]["conditions"] == [{"type": "Ready", "status": "False"}]
    message = document["status"]["containerStatuses"][0]["state"]["terminated"]["message"]
    assert len(message) == 4096
    assert "hostIP" not in document["status"]


@pytest.mark.parametrize(("resource", "kept"), [(DEPLOYMENT, True), (MODEL_DEPLOYMENT, True), (CONFIG_MAP, False)])
def test_status_is_kept_where_it_is_read(resource: Resource, kept: bool) -> None:
    assert ("status" in entry(resource, owner=OWNER, status={"replicas": 1}).object) is kept


def test_observers_hear_of_every_version_and_end() -> None:
    cache, heard = Cache(), []
    cache.observers.append(lambda ref, uid, version: heard.append((ref.name, uid, version)))
    cache.put(entry(version=10))
    cache.put(entry(version=10))
    cache.remove(REF, uid="u1", version=12)
    assert heard == [("c", "u1", 10), ("c", "u1", 12)]


def test_an_object_of_ours_that_is_too_large_is_kept_without_its_spec() -> None:
    found = entry(MODEL_DEPLOYMENT, spec={"text": "x" * LARGEST}, status={"phase": "Invalid"})
    assert found.too_large > LARGEST
    assert len(found.body) < 1000
    assert found.object["status"] == {"phase": "Invalid"}
    assert entry(MODEL_DEPLOYMENT, spec={"text": "x" * (LARGEST // 2)}).too_large == 0


def test_no_part_of_an_object_makes_it_large_in_the_cache() -> None:
    labels = {f"l{number}": "x" * 60 for number in range(10_000)}
    found = entry(MODEL_DEPLOYMENT, spec={}, status={"m": "x" * LARGEST}, metadata={"labels": labels})
    assert found.too_large
    assert len(found.body) < 1000


def test_of_what_nobody_of_ours_controls_only_the_head_is_kept() -> None:
    stray = entry(data={"a": "x" * 10_000})
    assert (stray.deployment, stray.owner) == ("chat", None)
    assert "data" not in stray.object
    assert entry(data={"a": "x"}, owner=OWNER).object["data"] == {"a": "x"}
