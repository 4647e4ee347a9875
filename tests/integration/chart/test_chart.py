"""The chart against a real API server: everything it renders is accepted, bad values are not."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.cluster.control_plane import ControlPlane
from tests.integration.chart.helm import CHART, by_kind, helm, objects, render

pytestmark = pytest.mark.integration

VALUE_SETS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "one operator without election": {"replicaCount": 1, "leaderElection": {"enabled": False}},
    "no operator": {"replicaCount": 0},
    "namespaced": {"watchNamespaces": ["default", "kube-public"], "crds": {"enabled": False}},
    "images of a registry": {
        "image": {"registry": "registry.example:5000/team", "digest": f"sha256:{'0' * 64}", "pullPolicy": "Always"},
        "imagePullSecrets": [{"name": "pull"}],
        "workerImages": {"torch": "localhost/serve:1", "vllm": "example/vllm:2"},
    },
    "own account and roles": {"rbac": {"create": False}, "serviceAccount": {"create": False, "name": "mine"}},
    "everything about scheduling": {
        "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": 2, "memory": "1Gi"}},
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {"app.kubernetes.io/component": "operator"}},
            }
        ],
        "priorityClassName": "system-cluster-critical",
        "podAnnotations": {"example.com/a": "b"},
        "podLabels": {"example.com/c": "d"},
        "extraEnv": [{"name": "A", "value": "b"}],
        "serviceAccount": {"annotations": {"example.com/role": "x"}},
        "terminationGracePeriodSeconds": 5,
    },
    "long names": {"fullnameOverride": "x" * 52, "nameOverride": "y" * 52},
    "without extras": {
        "podDisruptionBudget": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "rbac": {"userRoles": False},
    },
}
BAD_VALUES = [
    ("replicaCount=two", "got string, want integer", "/replicaCount"),
    ("replicaCout=2", "additional properties 'replicaCout' not allowed", ""),
    ("image.pullpolicy=Always", "additional properties 'pullpolicy' not allowed", "/image"),
    ("image.pullPolicy=Sometimes", "must be one of 'Always', 'IfNotPresent', 'Never'", "/image/pullPolicy"),
    ("image.digest=sha256:abc", "does not match pattern", "/image/digest"),
    ("watchNamespaces={Team_A}", "does not match pattern", "/watchNamespaces/0"),
    ("watchNamespaces=team-a", "got string, want array", "/watchNamespaces"),
    ("watchNamespaces={a,a}", "items at 0 and 1 are equal", "/watchNamespaces"),
    ("logLevel=loud", "must be one of", "/logLevel"),
    ("resources.requests.memory=much", "does not match pattern", "/resources/requests/memory"),
    ("podLabels.app\\.kubernetes\\.io/name=x", "invalid propertyName 'app.kubernetes.io/name'", ""),
    ("leaderElection.enabled=false", "two operators would act at once", ""),
    ("serviceAccount.create=false", "serviceAccount.name is needed", ""),
]


@pytest.fixture(params=VALUE_SETS)
def values_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("values") / "values.yaml"
    path.write_text(yaml.safe_dump(VALUE_SETS[request.param]))
    return str(path)


def test_lint_finds_nothing(control_plane: ControlPlane, values_file: str) -> None:
    linted = helm(control_plane, "lint", "--strict", f"--values={values_file}", str(CHART)).stdout
    assert "0 chart(s) failed" in linted
    assert "[WARNING]" not in linted
    assert "[ERROR]" not in linted


def test_api_server_accepts_every_object(control_plane: ControlPlane, namespace: str, values_file: str) -> None:
    text = render(control_plane, f"--values={values_file}", namespace=namespace)
    applied = control_plane.kubectl(
        *("apply", "--server-side", "--dry-run=server", "--validate=strict", "--filename=-"), input=text
    )
    assert len(applied.stdout.splitlines()) == len(objects(text))
    assert "Warning" not in applied.stderr


@pytest.mark.parametrize(("setting", "message", "path"), BAD_VALUES, ids=[bad[0] for bad in BAD_VALUES])
def test_bad_values_are_refused_with_their_place(
    control_plane: ControlPlane, setting: str, message: str, path: str
) -> None:
    version = "--kube-version=1.34.4"
    refused = helm(control_plane, "template", "tandem", str(CHART), version, f"--set={setting}", check=False)
    assert refused.returncode != 0
    assert message in refused.stderr
    assert f"'{path}'" in refused.stderr or not path


def test_namespaced_mode_renders_nothing_for_the_cluster(control_plane: ControlPlane, namespace: str) -> None:
    text = render(control_plane, "--set=watchNamespaces={one,two}", "--set=crds.enabled=false", namespace=namespace)
    kinds = control_plane.kubectl("api-resources", "--namespaced=true", "--no-headers", "--output=name").stdout
    namespaced = {name.split(".")[0] for name in kinds.split()}
    for item in objects(text):
        assert f"{item['kind'].lower()}s".replace("policys", "policies") in namespaced, item["kind"]
        assert item["metadata"]["namespace"] in {namespace, "one", "two"}
    assert {role["metadata"]["namespace"] for role in by_kind(text, "Role")} == {"one", "two", namespace}


def test_namespaced_roles_hold_what_the_cluster_role_holds_but_nodes(control_plane: ControlPlane) -> None:
    wide = by_kind(render(control_plane), "ClusterRole")[0]
    narrow = by_kind(render(control_plane, "--set=watchNamespaces={one}"), "Role")
    of_nodes = {"apiGroups": [""], "resources": ["nodes"], "verbs": ["list", "watch"]}
    (rules,) = (role["rules"] for role in narrow if role["metadata"]["namespace"] == "one")
    assert [*rules, of_nodes] == wide["rules"]


def test_crds_are_the_generated_ones_and_are_kept(control_plane: ControlPlane) -> None:
    rendered = {crd["metadata"]["name"]: crd for crd in by_kind(render(control_plane), "CustomResourceDefinition")}
    generated = [yaml.safe_load(path.read_text()) for path in sorted((CHART.parents[1] / "crds").glob("*.yaml"))]
    assert {crd["metadata"]["name"]: crd["spec"] for crd in generated} == {
        name: crd["spec"] for name, crd in rendered.items()
    }
    assert {crd["metadata"]["annotations"]["helm.sh/resource-policy"] for crd in rendered.values()} == {"keep"}
    assert not by_kind(render(control_plane, "--set=crds.enabled=false"), "CustomResourceDefinition")


def test_helm_has_nothing_to_remark(control_plane: ControlPlane) -> None:
    assert helm(control_plane, "template", "tandem", str(CHART), "--kube-version=1.33.0").stderr == ""


def test_operator_may_neither_read_secrets_nor_use_wildcards(control_plane: ControlPlane) -> None:
    text = render(control_plane)
    rules = [rule for kind in ("ClusterRole", "Role") for role in by_kind(text, kind) for rule in role["rules"]]
    assert len(rules) > 5
    for rule in rules:
        assert "*" not in {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
        assert "secrets" not in rule["resources"]
    assert not by_kind(text, "Secret")


def test_operator_pod_meets_the_restricted_standard(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    pod_template = by_kind(render(control_plane, namespace=namespace), "Deployment")[0]["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", **pod_template}
    pod["metadata"] |= {"name": "operator", "namespace": namespace}
    del pod["spec"]["serviceAccountName"]
    control_plane.kubectl("create", "--dry-run=server", "--filename=-", input=yaml.safe_dump(pod))


def test_packaged_chart_is_complete(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("package")
    helm(control_plane, "package", str(CHART), f"--destination={folder}")
    (archive,) = folder.glob("tandem-*.tgz")
    packaged = helm(control_plane, "template", "tandem", str(archive), "--kube-version=1.34.4").stdout
    assert packaged.replace("\r", "") == render(control_plane)
