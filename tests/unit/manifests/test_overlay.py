"""podTemplate: merged as Kubernetes merges, refused where it would cut a pod off."""

import copy
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tandem.api.problems import Refused
from tandem.manifests import build
from tests.unit.manifests.deployments import deployment, pod, server, workers


def built(cluster, overlay):
    return build(deployment(roles={"agg": {"podTemplate": overlay}}), cluster=cluster)


def refusal(cluster, overlay):
    with pytest.raises(Refused) as refused:
        built(cluster, overlay)
    return str(refused.value)


def on_server(**fields):
    return {"spec": {"containers": [{"name": "server", **fields}]}}


def test_an_empty_overlay_changes_nothing(cluster):
    assert built(cluster, {}).objects == build(deployment(), cluster=cluster).objects


def test_fields_of_the_pod_are_added_and_replaced(cluster):
    spec = {
        "nodeSelector": {"env": "prod", "ports": "x"},
        "terminationGracePeriodSeconds": 7,
        "securityContext": {"fsGroup": 5},
    }

    found = pod(built(cluster, {"spec": spec}), "agg")

    assert found["nodeSelector"] == {"env": "prod", "ports": "x"}
    assert found["terminationGracePeriodSeconds"] == 7
    assert found["securityContext"]["fsGroup"] == 5
    assert found["securityContext"]["runAsNonRoot"] is True


def test_labels_and_annotations_of_the_pod_are_added(cluster):
    metadata = {"labels": {"team": "a"}, "annotations": {"x/y": "z"}}

    template = workers(built(cluster, {"metadata": metadata}), "agg")["spec"]["template"]["metadata"]

    assert template["labels"]["team"] == "a"
    assert template["labels"]["tandem.dev/role"] == "agg"
    assert template["annotations"] == {"x/y": "z"}


def test_the_server_container_is_addressed_by_its_name(cluster):
    plain = server(build(deployment(), cluster=cluster), "agg")
    overlay = on_server(
        env=[{"name": "HOME", "value": "/h"}, {"name": "A", "value": "b"}],
        ports=[{"containerPort": 9999, "name": "debug"}],
        volumeMounts=[{"mountPath": "/h", "name": "h"}],
        livenessProbe=None,
        readinessProbe={"periodSeconds": 9},
        resources={"limits": {"cpu": 2}},
    )

    found = server(built(cluster, overlay), "agg")

    assert found["image"] == plain["image"]
    assert found["args"] == plain["args"]
    assert [item["name"] for item in found["env"]] == [item["name"] for item in plain["env"]] + ["A"]
    assert found["env"][0] == {"name": "HOME", "value": "/h"}
    assert [item["containerPort"] for item in found["ports"]] == [8000, 9999]
    assert len(found["volumeMounts"]) == len(plain["volumeMounts"]) + 1
    assert "livenessProbe" not in found
    assert found["readinessProbe"] == plain["readinessProbe"] | {"periodSeconds": 9}
    assert found["resources"] == {"limits": {"cpu": 2}}


def test_a_value_from_elsewhere_replaces_a_plain_one_when_null_removes_that(cluster):
    reference = {"fieldRef": {"fieldPath": "metadata.name"}}

    found = server(built(cluster, on_server(env=[{"name": "HOME", "value": None, "valueFrom": reference}])), "agg")

    assert found["env"][0] == {"name": "HOME", "valueFrom": reference}


def test_an_item_is_removed_by_the_delete_directive(cluster):
    overlay = on_server(env=[{"name": "HOME", "$patch": "delete"}, {"name": "NONE", "$patch": "delete"}])

    assert [item["name"] for item in server(built(cluster, overlay), "agg")["env"]] == ["HF_HUB_OFFLINE"]


def test_other_containers_get_what_the_restricted_standard_asks_for(cluster):
    containers = [{"name": "side", "image": "a"}, {"name": "own", "image": "b", "securityContext": {"runAsUser": 5}}]
    spec = {"containers": containers, "initContainers": [{"name": "first", "image": "c"}]}

    found = pod(built(cluster, {"spec": spec}), "agg")

    assert [item["name"] for item in found["containers"]] == ["server", "side", "own"]
    for container in (*found["containers"][1:], *found["initContainers"]):
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"
    assert found["containers"][2]["securityContext"]["runAsUser"] == 5


def test_tolerations_are_kept_apart_by_all_their_fields(cluster):
    tolerations = [{"operator": "Exists"}, {"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoExecute"}]

    assert pod(built(cluster, {"spec": {"tolerations": tolerations}}), "agg")["tolerations"] == tolerations


@pytest.mark.parametrize(
    ("overlay", "where", "reason"),
    [
        ({"status": {}}, "status", "a pod template has metadata and spec"),
        ({"spec": None}, "spec", "a map is needed here (got 'null')"),
        ({"spec": []}, "spec", "a map is needed here"),
        ({"metadata": {"name": "x"}}, "metadata.name", "only labels and annotations can be given"),
        ({"metadata": {"labels": None}}, "metadata.labels", "a map is needed here"),
        (
            {"metadata": {"labels": {"tandem.dev/role": "agg"}}},
            "metadata.labels.tandem.dev/role",
            "find the pod by this",
        ),
        (
            {"metadata": {"labels": {"tandem.dev/deployment": None}}},
            "metadata.labels.tandem.dev/deployment",
            "find the pod",
        ),
        ({"spec": {"containers": None}}, "spec.containers", "it cannot be removed"),
        ({"spec": {"containers": {}}}, "spec.containers", "a list is needed here"),
        ({"spec": {"containers": ["x"]}}, "spec.containers[0]", "a map is needed here"),
        ({"spec": {"containers": [{"image": "x"}]}}, "spec.containers[0].name", "items of this list are merged by it"),
        ({"spec": {"initContainers": "x"}}, "spec.initContainers", "a list is needed here"),
        ({"spec": {"securityContext": "x"}}, "spec.securityContext", "a map is needed here"),
        (on_server(env={"A": "b"}), "spec.containers[0].env", "a list is needed here"),
        (on_server(**{"$patch": "delete"}), "spec.containers[0]", "the server container cannot be removed"),
        (on_server(**{"$patch": "replace"}), "spec.containers[0].$patch", "only `$patch: delete`"),
        (on_server(ports=[{"containerPort": 8000, "name": "web"}]), "spec.containers", "need the port http 8000"),
        (on_server(ports=None), "spec.containers", "need the port http 8000"),
        (on_server(ports=[{"containerPort": 8000, "$patch": "delete"}]), "spec.containers", "need the port http 8000"),
    ],
)
def test_an_overlay_that_would_break_the_pod_is_refused_where_it_is_wrong(cluster, overlay, where, reason):
    message = refusal(cluster, overlay)

    assert message.startswith(f"spec.roles.agg.podTemplate.{where}: ")
    assert reason in message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "containers", "env", "ports", "spec", "metadata", "labels", "a"]), inner
        )
    ),
    max_leaves=12,
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(overlay=st.dictionaries(st.sampled_from(["spec", "metadata"]), JSON))
def test_any_overlay_is_merged_or_refused_and_never_changed(cluster, overlay):
    before = copy.deepcopy(overlay)

    places = _places(cluster, overlay)

    assert all(place.startswith("spec.roles.agg.podTemplate.") for place in places)
    assert overlay == before


def _places(cluster, overlay):
    try:
        built(cluster, overlay)
    except Refused as refused:
        return [problem.path for problem in refused.problems]
    return []


@pytest.mark.parametrize("value", ["root", 5, ["a"], ""])
@pytest.mark.parametrize("group", ["containers", "initContainers"])
def test_a_security_context_that_is_no_mapping_is_refused_at_its_place(cluster, group, value):
    overlay = {"spec": {group: [{"name": "side", "image": "x", "securityContext": value}]}}

    where = f"spec.roles.agg.podTemplate.spec.{group}[0].securityContext: a map is needed here"
    assert refusal(cluster, overlay).startswith(where)


def unknown(cluster, overlay):
    return [
        (problem.path.removeprefix("spec.roles.agg.podTemplate."), problem.fix)
        for problem in built(cluster, overlay).unknown_fields
    ]


@pytest.mark.parametrize(
    ("overlay", "where", "fix"),
    [
        ({"spec": {"containrs": []}}, "spec.containrs", "Did you mean containers?"),
        ({"spec": {"nodeSelecter": {"a": "b"}}}, "spec.nodeSelecter", "Did you mean nodeSelector?"),
        ({"spec": {"node_selector": {}}}, "spec.node_selector", "Did you mean nodeSelector?"),
        (on_server(resorces={}), "spec.containers[0].resorces", "Did you mean resources?"),
        (
            on_server(resources={"limit": {"memory": "8Gi"}}),
            "spec.containers[0].resources.limit",
            "Did you mean limits?",
        ),
        ({"spec": {"env": []}}, "spec.env", "It belongs below podTemplate.spec.containers[]."),
        (
            on_server(tolerations=[]),
            "spec.containers[0].tolerations",
            "It belongs below podTemplate.spec.",
        ),
        (
            {"spec": {"affinity": {"podAffinity": {"zzz": 1}}}},
            "spec.affinity.podAffinity.zzz",
            "Remove it; known here: kubectl explain pod.spec.affinity.podAffinity",
        ),
    ],
)
def test_a_field_that_no_pod_has_is_told_with_the_right_one(cluster, overlay, where, fix):
    assert unknown(cluster, overlay) == [(where, fix)]


def test_a_field_that_no_pod_has_is_applied_all_the_same_for_a_newer_api_server_may_know_it(cluster):
    assert pod(built(cluster, {"spec": {"newInKubernetes": 5}}), "agg")["newInKubernetes"] == 5


def test_what_an_unknown_field_holds_is_not_told_for_it_may_be_a_secret(cluster):
    overlay = on_server(enviroment=[{"name": "TOKEN", "value": "hunter2"}])

    assert "hunter2" not in str(built(cluster, overlay).unknown_fields)


@pytest.mark.parametrize(
    ("overlay", "where", "reason"),
    [
        (on_server(env=[{"name": "A", "value": 5}]), "spec.containers[0].env[0].value", 'Quote it: "5".'),
        (on_server(env=[{"name": "A", "value": True}]), "spec.containers[0].env[0].value", 'Quote it: "true".'),
        (on_server(args=["-x", 5]), "spec.containers[0].args[1]", "a text is needed here"),
        (on_server(command="run me"), "spec.containers[0].command", "a list is needed here"),
        ({"spec": {"nodeSelector": {"gpu": 1}}}, "spec.nodeSelector.gpu", "a text is needed here"),
        ({"spec": {"priority": "5"}}, "spec.priority", "Write 5 without quotes."),
        ({"spec": {"priority": True}}, "spec.priority", "a whole number is needed here"),
        ({"spec": {"hostIPC": "yes"}}, "spec.hostIPC", "Write true without quotes."),
        (on_server(resources={"limits": {"memory": "8GB"}}), "spec.containers[0].resources.limits.memory", "quantity"),
        (on_server(readinessProbe={"httpGet": "/x"}), "spec.containers[0].readinessProbe.httpGet", "a map is needed"),
    ],
)
def test_a_value_of_a_wrong_type_is_refused_where_it_stands(cluster, overlay, where, reason):
    message = refusal(cluster, overlay)

    assert message.startswith(f"spec.roles.agg.podTemplate.{where}: ")
    assert reason in message


def test_wrong_values_of_all_roles_are_told_in_one_round(cluster):
    roles = {name: {"podTemplate": {"spec": {"priority": "high"}}} for name in ("prefill", "decode")}

    with pytest.raises(Refused) as refused:
        build(deployment(mode="disagg", roles=roles), cluster=cluster)

    paths = [problem.path for problem in refused.value.problems]
    assert paths == [f"spec.roles.{name}.podTemplate.spec.priority" for name in ("prefill", "decode")]


def test_values_that_the_api_takes_in_several_forms_are_taken(cluster):
    overlay = on_server(
        resources={"limits": {"cpu": 0.5, "memory": "4Gi"}, "requests": {"cpu": "250m", "memory": 1024}},
        startupProbe={"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 5.0},
        lifecycle={"preStop": {"httpGet": {"port": 8000}}},
    )

    assert unknown(cluster, overlay) == []


def test_what_is_nested_too_deeply_is_refused_at_its_place(cluster):
    deep = 1
    for _ in range(20):
        deep = {"a": [deep]}

    assert refusal(cluster, {"spec": {"x": deep}}).startswith("spec.roles.agg.podTemplate.spec.x.a[0].a[0]")
    assert "nested deeper than 32 levels" in refusal(cluster, {"spec": {"x": deep}})


def test_an_overlay_as_large_as_a_resource_can_be_is_merged_at_once(cluster):
    many = [{"name": f"E{n}"} for n in range(50_000)]

    began = time.process_time()
    env = server(built(cluster, on_server(env=many)), "agg")["env"]

    assert len(env) >= 50_000
    assert time.process_time() - began < 10


def test_an_item_may_be_removed_and_written_anew(cluster):
    env = [{"name": "HOME", "$patch": "delete"}, {"name": "HOME", "value": "/new"}, {"name": "A", "$patch": "delete"}]

    found = server(built(cluster, on_server(env=env)), "agg")["env"]

    assert [item for item in found if item["name"] == "HOME"] == [{"name": "HOME", "value": "/new"}]
