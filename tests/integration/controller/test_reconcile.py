"""From a resource to its objects on a real API server: made, changed, repaired, left alone, removed."""

from __future__ import annotations

import json
import time

import pytest

from tandem.controller.pace import FREE
from tandem.kube.resources import BY_KIND
from tandem.manifests import names
from tests.cluster.control_plane import ControlPlane
from tests.integration.controller.api import Api, Object, eventually
from tests.integration.controller.conftest import USER
from tests.integration.controller.process import OperatorProcess
from tests.integration.controller.space import AGG, DISAGG, Space, condition, model_deployment

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("operator")]


def writes(plane: ControlPlane, since: int, namespace: str) -> list[tuple[str, str, str]]:
    """What the operator wrote in a namespace: verb, resource, name."""
    return [
        (event.verb, "/".join(filter(None, (event.resource, event.subresource))), event.name)
        for event in plane.audit_events(since=since)
        if event.user == USER and event.namespace == namespace and event.is_write and event.stage == "ResponseComplete"
    ]


def applied(plane: ControlPlane, since: int, namespace: str) -> set[tuple[str, str]]:
    """Resource and name of the objects that were applied."""
    found = writes(plane, since, namespace)
    return {(resource, name) for verb, resource, name in found if verb == "patch" and "/" not in resource}


def test_a_deployment_becomes_its_objects(space: Space) -> None:
    space.create(**DISAGG)
    status = space.wait_applied()
    children = space.children()
    assert {(item["kind"], item["name"]) for item in status["inventory"]} == set(children)
    revision = status["revision"]
    assert ("Deployment", f"chat-prefill-{revision}") in children
    assert ("Service", f"chat-decode-{revision}") in children
    assert ("Service", "chat") in children
    for child in children.values():
        (owner,) = child["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["controller"]) == ("ModelDeployment", "chat", True)
        assert "finalizers" not in child["metadata"]
        managers = {field["manager"] for field in child["metadata"]["managedFields"]} - {"kube-controller-manager"}
        assert managers == {"tandem"}
    deployment = space.get()
    assert "finalizers" not in deployment["metadata"]
    assert "annotations" not in deployment["metadata"]
    assert status["endpoint"] == f"http://chat.{space.namespace}.svc.cluster.local:8000"


def test_each_object_is_written_once_and_the_status_seldom(plane: ControlPlane, space: Space) -> None:
    since = plane.audit_offset()
    space.create(mode="disagg", roles={"prefill": {"replicas": 0}, "decode": {"replicas": 0}})
    status = space.wait_condition("Ready", "False", "Unschedulable")
    eventually(lambda: space.status()["roles"]["decode"], lambda role: role["updated"] == 0)
    found = writes(plane, since, space.namespace)
    patches = [(resource, name) for verb, resource, name in found if verb == "patch" and "/" not in resource]
    assert len(patches) == len(set(patches)) == len(status["inventory"])
    assert len([1 for _, resource, _ in found if resource == "modeldeployments/status"]) <= 3
    assert {verb for verb, _, _ in found} <= {"patch", "create"}


def test_an_object_whose_json_is_as_long_as_it_can_get_does_not_end_the_operator(
    space: Space, operator: OperatorProcess
) -> None:
    space.create(**AGG)
    status = space.wait_applied()
    ours = next(item["name"] for item in status["inventory"] if item["kind"] == "ConfigMap")
    # Control characters take six bytes each in JSON; no one request may bring more than 3 MB.
    part = "\x01" * 480_000
    labels = {"app.kubernetes.io/managed-by": "tandem"}
    metadata = {"name": "large", "namespace": space.namespace, "labels": labels}
    space.api.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"x": part}})
    space.api.merge("ConfigMap", space.namespace, "large", {"data": {"y": part}})

    space.api.delete("ConfigMap", space.namespace, ours)

    eventually(lambda: space.child("ConfigMap", ours), why="its deletion was not heard of")
    assert operator.handle.poll() is None


def test_an_edit_of_one_role_writes_only_that_role(plane: ControlPlane, space: Space) -> None:
    space.create(**DISAGG)
    revision = space.wait_applied()["revision"]
    since = plane.audit_offset()
    space.edit(roles={"decode": {"resources": {"requests": {"cpu": "750m"}}}})
    assert space.wait_applied()["revision"] == revision
    assert applied(plane, since, space.namespace) == {("deployments", f"chat-decode-{revision}")}
    (decode,) = space.workers("decode")
    container = decode["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["requests"]["cpu"] == "750m"


def test_a_field_that_is_taken_out_of_the_spec_is_taken_out_of_the_objects(space: Space) -> None:
    space.create(mode="agg", roles={"agg": {"podTemplate": {"metadata": {"labels": {"team": "x"}}}}})
    space.wait_applied()
    (workers,) = space.workers("agg")
    assert workers["spec"]["template"]["metadata"]["labels"]["team"] == "x"
    space.edit(roles={"agg": {"podTemplate": None}})
    space.wait_applied()
    (workers,) = space.workers("agg")
    assert "team" not in workers["spec"]["template"]["metadata"]["labels"]


def test_scaling_writes_the_generating_role_only(plane: ControlPlane, space: Space) -> None:
    space.create(**DISAGG)
    revision = space.wait_applied()["revision"]
    since = plane.audit_offset()
    plane.kubectl("scale", "modeldeployment/chat", "--replicas=3", f"--namespace={space.namespace}")
    space.wait_applied()
    assert space.workers("decode")[0]["spec"]["replicas"] == 3
    assert space.workers("prefill")[0]["spec"]["replicas"] == 1
    assert applied(plane, since, space.namespace) == {("deployments", f"chat-decode-{revision}")}


def test_an_edited_child_is_repaired(space: Space) -> None:
    space.create(**AGG)
    space.wait_applied()
    (workers,) = space.workers("agg")
    name = workers["metadata"]["name"]
    space.api.merge("Deployment", space.namespace, name, {"spec": {"replicas": 7, "minReadySeconds": 0}})
    eventually(lambda: space.workers("agg")[0]["spec"]["replicas"], lambda replicas: replicas == 2)
    space.api.merge("Service", space.namespace, "chat", {"spec": {"selector": {"app.kubernetes.io/component": "x"}}})
    eventually(
        lambda: space.api.get("Service", space.namespace, "chat")["spec"]["selector"],
        lambda selector: selector["app.kubernetes.io/component"] == "router",
    )


def test_what_others_change_again_and_again_is_put_back_ever_more_rarely(plane: ControlPlane, space: Space) -> None:
    space.create(**AGG)
    space.wait_applied()
    since, until = plane.audit_offset(), time.monotonic() + 8
    while time.monotonic() < until:
        strategy = {"rollingUpdate": {"maxSurge": 7}}
        space.api.merge("Deployment", space.namespace, "chat-router", {"spec": {"strategy": strategy}})
        time.sleep(0.05)
    made = writes(plane, since, space.namespace).count(("patch", "deployments", "chat-router"))
    assert FREE <= made <= FREE + 4

    def surge() -> object:
        return space.api.get("Deployment", space.namespace, "chat-router")["spec"]["strategy"]["rollingUpdate"][
            "maxSurge"
        ]

    assert eventually(surge, lambda value: value == 1, timeout=40) == 1


def test_a_deleted_child_comes_back(space: Space) -> None:
    space.create(**AGG)
    space.wait_applied()
    for (kind, name), child in space.children().items():
        space.api.delete(kind, space.namespace, name)
        eventually(
            lambda kind=kind, name=name: space.child(kind, name),
            lambda found, old=child: found is not None and found["metadata"]["uid"] != old["metadata"]["uid"],
            why=f"{kind} {name} is not back",
        )


def test_a_label_that_was_taken_away_comes_back(space: Space) -> None:
    space.create(**AGG)
    space.wait_applied()
    labels = {names.LABEL_MANAGED_BY: None, names.LABEL_DEPLOYMENT: None}
    before = space.api.merge("ServiceAccount", space.namespace, "chat-worker", {"metadata": {"labels": labels}})
    assert names.LABEL_MANAGED_BY not in before["metadata"]["labels"]
    after = eventually(
        lambda: space.api.get("ServiceAccount", space.namespace, "chat-worker"),
        lambda found: names.LABEL_MANAGED_BY in found["metadata"]["labels"],
    )
    assert after["metadata"]["uid"] == before["metadata"]["uid"]


def test_what_others_add_is_left_alone(plane: ControlPlane, space: Space) -> None:
    space.create(**AGG)
    space.wait_applied()
    since = plane.audit_offset()
    space.api.merge("Service", space.namespace, "chat", {"metadata": {"annotations": {"mesh.example/x": "y"}}})
    space.edit(router={"replicas": 2})
    space.wait_applied()
    service = space.api.get("Service", space.namespace, "chat")
    assert service["metadata"]["annotations"] == {"mesh.example/x": "y"}
    assert ("services", "chat") not in applied(plane, since, space.namespace)


def test_a_deleted_deployment_leaves_nothing(space: Space) -> None:
    space.create(**DISAGG)
    space.wait_applied()
    space.api.delete("ModelDeployment", space.namespace, "chat")
    eventually(space.children, lambda left: not left, why="objects are left")
    eventually(lambda: space.api.list("Pod", space.namespace), lambda left: not left, why="pods are left")


def test_a_deployment_that_is_made_again_under_its_name_gets_new_objects(space: Space) -> None:
    space.create(**AGG)
    space.wait_applied()
    before = {child["metadata"]["uid"] for child in space.children().values()}
    space.api.delete("ModelDeployment", space.namespace, "chat", propagationPolicy="Background")
    uid = space.create(**AGG)["metadata"]["uid"]
    space.wait_applied(timeout=60)
    children = space.children()
    owners = {child["metadata"]["ownerReferences"][0]["uid"] for child in children.values()}
    assert owners == {uid}
    assert not before & {child["metadata"]["uid"] for child in children.values()}


FOREIGN: dict[str, Object] = {
    "a Service that nobody controls": {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "chat"},
        "spec": {"ports": [{"port": 1234}]},
    },
    "an empty ServiceAccount": {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "chat-worker"}},
    "one with our labels, made by hand": {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "chat-worker", "labels": names.common_labels("chat", "worker")},
    },
}


@pytest.mark.parametrize(
    "whose", ["a Service that nobody controls", "an empty ServiceAccount", "one with our labels, made by hand"]
)
def test_objects_of_others_are_not_touched(plane: ControlPlane, space: Space, whose: str) -> None:
    foreign = {**FOREIGN[whose], "metadata": {**FOREIGN[whose]["metadata"], "namespace": space.namespace}}
    before = space.api.create(foreign)
    space.create(**AGG)
    status = space.wait_condition("Rendered", "False", "ObjectNotOwned")
    kind, name = before["kind"], before["metadata"]["name"]
    ready = condition({"status": status}, "Ready")
    assert ready["reason"] == "ObjectNotOwned"
    assert f"{kind} {space.namespace}/{name} exists" in ready["message"]
    assert "rename this ModelDeployment, or delete that object" in ready["message"]
    assert len(space.children()) >= 9, "everything else is there"
    assert space.api.get(kind, space.namespace, name) == before

    space.api.delete(kind, space.namespace, name)
    space.wait_condition("Rendered", "True", timeout=40)
    assert space.api.get(kind, space.namespace, name)["metadata"]["ownerReferences"]


def test_two_deployments_that_want_one_name_are_told(space: Space) -> None:
    space.create("chat", **AGG)
    space.wait_applied("chat")
    taken = next(name for kind, name in space.children("chat") if kind == "Service" and name.startswith("chat-agg-"))
    space.create(taken, **AGG)

    status = space.wait_condition("Rendered", "False", "ObjectNotOwned", name=taken)

    assert "belongs to ModelDeployment chat: rename" in condition({"status": status}, "Ready")["message"]
    space.api.delete("ModelDeployment", space.namespace, "chat")
    space.wait_condition("Rendered", "True", name=taken, timeout=60)


def test_an_overlay_whose_names_are_no_texts_is_told(space: Space) -> None:
    space.create(**AGG)
    space.wait_applied()

    space.edit(roles={"agg": {"podTemplate": {"spec": {"volumes": [{"name": {"a": "b"}, "emptyDir": {}}]}}}})

    status = space.wait_condition("Valid", "False", "InvalidSpec")
    told = "spec.roles.agg.podTemplate.spec.volumes[0].name: a text is needed here"
    assert condition({"status": status}, "Valid")["message"].startswith(told)


@pytest.mark.parametrize("levels", [150, 1_000, 9_000])
def test_an_overlay_that_is_nested_without_end_is_told_and_harms_nobody(
    plane: ControlPlane, space: Space, levels: int
) -> None:
    document = model_deployment("deep", space.namespace, roles={"agg": {"podTemplate": {"spec": {"x": "HERE"}}}})
    text = json.dumps(document).replace('"HERE"', '{"a":' * levels + "1" + "}" * levels)
    plane.kubectl("create", "--filename=-", input=text)

    # Python could not read the resource; kubectl takes the condition out of it.
    shown = 'jsonpath={.status.conditions[?(@.type=="Valid")].message}'
    look = ("get", "modeldeployment", "deep", f"--namespace={space.namespace}", "--output", shown)
    message = eventually(lambda: plane.kubectl(*look).stdout, why="the status is silent")
    plane.kubectl("delete", "modeldeployment", "deep", f"--namespace={space.namespace}")
    assert "spec.roles.agg.podTemplate.spec.x.a.a.a" in message
    assert "nested deeper than 32 levels" in message
    space.create(**AGG)
    space.wait_applied()


def test_a_field_that_no_pod_has_is_for_the_api_server_to_judge_and_told_with_the_right_one(space: Space) -> None:
    space.create(roles={"agg": {"podTemplate": {"spec": {"nodeSelecter": {"disk": "ssd"}}}}})

    status = space.wait_condition("Rendered", "False", timeout=30)

    assert "nodeSelecter" in condition({"status": status}, "Ready")["message"]
    assert condition({"status": status}, "Valid")["status"] == "True"
    assert "Did you mean nodeSelector?" in condition({"status": status}, "Valid")["message"]


def test_a_refused_spec_is_told_and_what_runs_stays(plane: ControlPlane, space: Space) -> None:
    space.create(**AGG)
    space.wait_applied()
    before = space.children()
    since = plane.audit_offset()
    space.edit(backendVersion="0.0.1-none")
    status = space.wait_condition("Valid", "False", "InvalidSpec")
    message = condition({"status": status}, "Ready")["message"]
    assert message.startswith("spec.backendVersion: ")
    assert "Use one of" in message
    assert condition({"status": status}, "Ready")["observedGeneration"] == 2
    assert applied(plane, since, space.namespace) == set()
    assert {key: child["metadata"]["uid"] for key, child in before.items()} == {
        key: child["metadata"]["uid"] for key, child in space.children().items()
    }
    assert len(status["inventory"]) == len(before)
    space.edit(backendVersion=None)
    space.wait_condition("Valid", "True")


def test_an_overlay_that_the_api_server_refuses_is_told_with_its_field(space: Space) -> None:
    space.create(
        mode="agg",
        roles={"agg": {"podTemplate": {"spec": {"containers": [{"name": "server", "imagePullPolicy": "Often"}]}}}},
    )
    status = space.wait_condition("Rendered", "False", "ObjectRejected")
    assert "imagePullPolicy" in condition({"status": status}, "Ready")["message"]
    space.edit(roles={"agg": {"podTemplate": None}})
    space.wait_condition("Rendered", "True", timeout=40)


def test_objects_beyond_a_quota_are_told(api: Api, space: Space) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "q"},
        "spec": {"hard": {"services": "0"}},
    }
    api.request("POST", f"/api/v1/namespaces/{space.namespace}/resourcequotas", quota)
    eventually(
        lambda: api.request("GET", f"/api/v1/namespaces/{space.namespace}/resourcequotas/q")["status"],
        lambda status: "hard" in status,
    )
    space.create(**AGG)
    status = space.wait_condition("Rendered", "False", "QuotaExceeded")
    assert "exceeded quota: q" in condition({"status": status}, "Ready")["message"]


def test_rules_of_a_user_come_from_a_config_map(space: Space) -> None:
    space.create(**AGG, rules={"configMapRef": {"name": "mine"}})
    status = space.wait_condition("Valid", "False", "InvalidSpec")
    assert (
        "spec.rules.configMapRef.name: there is no such ConfigMap" in condition({"status": status}, "Ready")["message"]
    )


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("ModelJob", {"steps": [{"name": "a", "gguf": {"type": "q4_0"}}], "output": {"claimName": "c"}}),
        ("ModelRoute", {"virtualModel": "m", "chain": [{"name": "a", "service": {"name": "s"}}]}),
    ],
)
def test_a_resource_that_is_not_served_yet_says_so(space: Space, kind: str, spec: Object) -> None:
    resource = BY_KIND[kind]
    metadata = {"name": "x", "namespace": space.namespace}
    space.api.create({"apiVersion": resource.api_version, "kind": kind, "metadata": metadata, "spec": spec})
    found = eventually(
        lambda: space.api.get(kind, space.namespace, "x"), lambda item: condition(item, "Accepted"), why="not told"
    )
    accepted = condition(found, "Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "NotServedYet")
    assert accepted["message"]


def test_events_are_posted_on_transitions_only(space: Space) -> None:
    space.create(**AGG)
    space.wait_condition("Ready", "False", "Unschedulable")
    space.edit(router={"policy": "roundRobin"})
    space.wait_applied()

    def about() -> list[Object]:
        found = space.api.list("Event", space.namespace)
        return [event for event in found if event["involvedObject"]["kind"] == "ModelDeployment"]

    (event,) = eventually(about)
    assert (event["type"], event["reason"], event["involvedObject"]["name"]) == ("Warning", "Unschedulable", "chat")
    assert event["reportingComponent"] == "tandem-operator"


def test_health_and_metrics_are_served(operator: OperatorProcess, space: Space) -> None:
    space.create(**AGG)
    space.wait_applied()
    assert operator.http("/livez") == "ok\n"
    assert operator.http("/readyz") == "leading\n"
    metrics = operator.http("/metrics")
    assert 'tandem_reconciles_total{kind="ModelDeployment",result="ok"}' in metrics
    assert 'tandem_api_requests_total{code="201",kind="Deployment",verb="apply"}' in metrics
    for name in ("tandem_queue_depth", "tandem_queue_oldest_seconds", "tandem_cached_objects", "tandem_leading 1.0"):
        assert name in metrics
    assert 'result="error"' not in metrics


def test_status_follows_the_schema_of_the_crd(space: Space) -> None:
    created = space.create(**DISAGG)
    status = space.wait_condition("Ready", "False", "Unschedulable")
    # What the schema does not know would have been dropped on the way.
    assert json.dumps(space.status(), sort_keys=True) == json.dumps(status, sort_keys=True)
    assert {"conditions", "roles", "rootCause", "parameters", "inventory", "phase", "endpoint"} <= status.keys()
    assert created["spec"] == space.get()["spec"], "the user's spec is never changed"
