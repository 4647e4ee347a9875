"""Workers of several nodes on a real API server, which knows LeaderWorkerSet from its published schema only."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem.api.load import parse_resource
from tandem.cli.app import run
from tandem.kube.resources import LEADER_WORKER_SET, Resource
from tandem.manifests import Cluster, build
from tandem.rendering.library import load_library
from tests.cluster.binaries import Binaries
from tests.cluster.control_plane import ControlPlane, running_control_plane
from tests.e2e.rights import denied, granted, used
from tests.integration.chart.helm import by_kind, render
from tests.integration.controller.api import Api, Object, eventually
from tests.integration.controller.conftest import USER, install_crds
from tests.integration.controller.node import ToldNode, now
from tests.integration.controller.process import OperatorProcess
from tests.integration.controller.sets import PlayedSets, with_address
from tests.integration.controller.space import AGG, DISAGG, OTHER_MODEL, Space, condition, model_deployment

pytestmark = pytest.mark.integration

CRD = Path(__file__).parents[1] / "crds/leaderworkerset.yaml"
CRD_NAME = "crd/leaderworkersets.leaderworkerset.x-k8s.io"
SLICES = Resource("EndpointSlice", "discovery.k8s.io/v1", "endpointslices")
NOTICED_SECONDS = 40.0
SPANNING: Object = {"backend": "vllm", "parameters": {"tensorParallelSize": 16}}
BOTH: Object = {**DISAGG, **SPANNING}


@pytest.fixture(scope="module")
def bare(cluster_binaries: Binaries) -> Iterator[ControlPlane]:
    """A control plane of this module's own: the kind comes and goes here."""
    with running_control_plane(cluster_binaries) as plane:
        install_crds(plane)
        yield plane


def chart_roles(plane: ControlPlane) -> list[Object]:
    """What the chart lets the operator do."""
    return [role for role in by_kind(render(plane), "ClusterRole") if "rbac" not in str(role["metadata"]["labels"])]


@pytest.fixture(scope="module")
def operator(bare: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    """An operator with the chart's rights, and no others."""
    log = tmp_path_factory.mktemp("operator") / "operator.log"
    (role,) = chart_roles(bare)
    bare.kubectl("apply", "-f", "-", input=json.dumps(role))
    bare.kubectl("create", "clusterrolebinding", USER, f"--clusterrole={role['metadata']['name']}", f"--user={USER}")
    process = OperatorProcess(bare.kubeconfig_for(USER), log).start()
    yield process
    status = process.stop()
    text = log.read_text(errors="replace")
    assert status == 0, text[-4000:]
    assert "a bug in the operator" not in text, text[-4000:]
    assert "Traceback" not in text, text[-4000:]


@pytest.fixture
def space(bare: ControlPlane, operator: OperatorProcess) -> Iterator[Space]:
    yield from a_space(bare)


def a_space(plane: ControlPlane) -> Iterator[Space]:
    name = f"nodes-{secrets.token_hex(3)}"
    plane.kubectl("create", "namespace", name)
    plane.kubectl("wait", "--for=create", "serviceaccount/default", f"--namespace={name}", "--timeout=120s")
    yield Space(Api(plane.kubeconfig), name)
    plane.kubectl("delete", "namespace", name, "--wait=false", check=False)


def serve_the_kind(plane: ControlPlane) -> None:
    plane.kubectl("apply", "--server-side", "-f", str(CRD))
    # kubectl fails on a definition that has no conditions at all yet.
    established = ("wait", "--for=condition=Established", CRD_NAME)
    eventually(lambda: plane.kubectl(*established, check=False).returncode, lambda status: status == 0)


@pytest.fixture
def served(bare: ControlPlane, space: Space) -> Space:
    """A namespace of a cluster in which the operator has noticed the kind."""
    serve_the_kind(bare)
    space.create("probe", **AGG, **SPANNING)
    space.wait_condition("Valid", "True", name="probe", timeout=NOTICED_SECONDS)
    space.api.delete("ModelDeployment", space.namespace, "probe")
    # The garbage collector looks for new kinds every half a minute.
    eventually(lambda: space.api.list(LEADER_WORKER_SET, space.namespace), lambda found: not found, timeout=90)
    return space


@pytest.fixture
def workers(served: Space) -> Iterator[ToldNode]:
    """Workers come up; the node says how each pod fares."""
    with ToldNode(served.api, with_address) as node, PlayedSets(served.api, served.namespace):
        yield node


def sets(space: Space, role: str, name: str = "chat") -> list[Object]:
    """The LeaderWorkerSets of a role, of all revisions, oldest first."""
    selector = f"tandem.dev/deployment={name},tandem.dev/role={role}"
    found = space.api.list(LEADER_WORKER_SET, space.namespace, selector)
    return sorted(found, key=lambda item: (item["metadata"]["creationTimestamp"], item["metadata"]["name"]))


def built(space: Space, name: str = "chat") -> dict[tuple[str, str], Object]:
    """What `build()` makes of the deployment as it is, by kind and name."""
    cluster = Cluster(library=load_library(), apis=frozenset({LEADER_WORKER_SET.api}))
    deployment = parse_resource({key: value for key, value in space.get(name).items() if key != "status"})
    return {(obj["kind"], obj["metadata"]["name"]): obj for obj in build(deployment, cluster=cluster).objects}


def without_defaults(spec: Object) -> Object:
    """A set's spec without what the schema fills in."""
    rolling = dict(spec["rolloutStrategy"]["rollingUpdateConfiguration"])
    assert rolling.pop("partition") == 0
    strategy = {**spec["rolloutStrategy"], "rollingUpdateConfiguration": rolling}
    rest = {key: value for key, value in spec.items() if key != "startupPolicy"}
    return {**rest, "rolloutStrategy": strategy}


def test_where_the_kind_is_unknown_it_is_refused_until_it_comes(bare: ControlPlane, space: Space) -> None:
    bare.kubectl("delete", CRD_NAME, "--ignore-not-found", "--wait")
    space.create("plain", **AGG)
    space.wait_applied("plain")
    space.create(**BOTH)
    status = space.wait_condition("Valid", "False", "InvalidSpec", timeout=NOTICED_SECONDS)
    message = condition({"status": status}, "Valid")["message"]
    assert message.startswith("spec.parameters.tensorParallelSize: ")
    assert f"needs {LEADER_WORKER_SET.api}, which cannot be used here" in message
    assert not space.children()

    serve_the_kind(bare)
    space.wait_applied(timeout=NOTICED_SECONDS)
    wanted = built(space)
    for role in ("prefill", "decode"):
        (made,) = sets(space, role)
        ours = wanted["LeaderWorkerSet", made["metadata"]["name"]]
        assert without_defaults(made["spec"]) == ours["spec"]
        assert made["metadata"]["labels"] == ours["metadata"]["labels"]
        assert [owner["name"] for owner in made["metadata"]["ownerReferences"]] == ["chat"]
    inventory = {(item["kind"], item["name"]) for item in space.status()["inventory"]}
    assert inventory == set(wanted)


def test_a_kind_that_goes_is_refused_again_and_nothing_else_suffers(bare: ControlPlane, served: Space) -> None:
    served.create(**AGG, **SPANNING)
    served.create("plain", **AGG)
    served.wait_applied()
    served.wait_applied("plain")
    bare.kubectl("delete", CRD_NAME, "--wait")
    served.wait_condition("Valid", "False", "InvalidSpec", timeout=NOTICED_SECONDS)
    served.edit("plain", roles={"agg": {"replicas": 3}})
    served.wait_applied("plain")
    serve_the_kind(bare)
    served.wait_applied(timeout=NOTICED_SECONDS)
    assert len(sets(served, "agg")) == 1


def test_an_edit_of_one_role_rolls_only_that_one(bare: ControlPlane, served: Space) -> None:
    served.create(**BOTH)
    revision = served.wait_applied()["revision"]
    (prefill,) = sets(served, "prefill")
    since = bare.audit_offset()
    served.edit(roles={"decode": {"resources": {"requests": {"cpu": "750m"}}}})
    assert served.wait_applied()["revision"] == revision
    writes = {
        (event.resource, event.name)
        for event in bare.audit_events(since=since)
        if event.user == USER and event.is_write and event.namespace == served.namespace and not event.subresource
    }
    assert {write for write in writes if write[0] != "events"} == {
        ("leaderworkersets", f"chat-decode-{revision}-nodes")
    }
    (decode,) = sets(served, "decode")
    for part in ("leaderTemplate", "workerTemplate"):
        (server,) = decode["spec"]["leaderWorkerTemplate"][part]["spec"]["containers"]
        assert server["resources"]["requests"]["cpu"] == "750m"
    assert sets(served, "prefill") == [prefill]


def test_diff_asks_whether_the_kind_is_served(
    bare: ControlPlane, served: Space, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served.create(**AGG, **SPANNING)
    served.wait_applied()
    path = tmp_path / "chat.yaml"
    path.write_text(json.dumps(model_deployment("chat", served.namespace, **AGG, **SPANNING)))

    arguments = ["diff", "-f", str(path), f"--kubeconfig={bare.kubeconfig}"]
    assert run(arguments) == 0
    assert capsys.readouterr().out == ""
    assert run([*arguments, "--gpus-per-node=4"]) == 1
    assert "LeaderWorkerSet" in capsys.readouterr().out


def test_scaling_moves_the_generating_role(bare: ControlPlane, served: Space) -> None:
    served.create(**BOTH)
    served.wait_applied()
    bare.kubectl("scale", "modeldeployment/chat", "--replicas=3", f"--namespace={served.namespace}")
    served.wait_applied()
    assert [found["spec"]["replicas"] for role in ("prefill", "decode") for found in sets(served, role)] == [1, 3]


def test_an_edited_set_is_repaired(served: Space) -> None:
    served.create(**AGG, **SPANNING)
    served.wait_applied()
    (made,) = sets(served, "agg")
    name, kind = made["metadata"]["name"], LEADER_WORKER_SET.kind
    served.api.merge(kind, served.namespace, name, {"spec": {"replicas": 7, "leaderWorkerTemplate": {"size": 3}}})
    eventually(lambda: sets(served, "agg")[0]["spec"], lambda spec: spec == made["spec"])
    labels = {"app.kubernetes.io/managed-by": None, "tandem.dev/deployment": None}
    served.api.merge(kind, served.namespace, name, {"metadata": {"labels": labels}})
    eventually(lambda: sets(served, "agg"), lambda found: [each["metadata"]["labels"] for each in found] != [])
    (again,) = sets(served, "agg")
    assert again["metadata"]["labels"] == made["metadata"]["labels"]
    assert again["metadata"]["uid"] == made["metadata"]["uid"]


def test_a_deleted_set_comes_back_and_goes_with_its_deployment(served: Space) -> None:
    served.create(**AGG, **SPANNING)
    served.wait_applied()
    (made,) = sets(served, "agg")
    served.api.delete(LEADER_WORKER_SET.kind, served.namespace, made["metadata"]["name"])
    eventually(
        lambda: [found["metadata"]["uid"] for found in sets(served, "agg")],
        lambda uids: len(uids) == 1 and uids != [made["metadata"]["uid"]],
    )
    served.api.delete("ModelDeployment", served.namespace, "chat", propagationPolicy="Background")
    eventually(lambda: sets(served, "agg"), lambda found: not found, timeout=90)


def test_a_set_of_others_is_not_touched(served: Space) -> None:
    served.create(**AGG, **SPANNING)
    served.wait_applied()
    (made,) = sets(served, "agg")
    name = made["metadata"]["name"]
    served.api.delete("ModelDeployment", served.namespace, "chat", propagationPolicy="Background")
    eventually(lambda: sets(served, "agg"), lambda found: not found, timeout=90)
    foreign = {key: made[key] for key in ("apiVersion", "kind", "spec")}
    before = served.api.create({**foreign, "metadata": {"name": name, "namespace": served.namespace}})
    served.create(**AGG, **SPANNING)
    served.wait_condition("Rendered", "False", "ObjectNotOwned")
    assert served.api.get(LEADER_WORKER_SET.kind, served.namespace, name) == before


def test_a_set_that_nothing_takes_up_is_told(served: Space) -> None:
    served.create(**AGG, **SPANNING)
    status = served.wait_condition("Ready", "False", "LeaderWorkerSetLeftAlone", timeout=60)
    assert "does its controller run" in status["rootCause"]["message"]


def test_pods_that_may_not_be_made_are_told_from_events(served: Space) -> None:
    served.create(**AGG, **SPANNING)
    served.wait_applied()
    (made,) = sets(served, "agg")
    name = made["metadata"]["name"]
    seen = {"observedGeneration": made["metadata"]["generation"], "replicas": 2}
    served.api.merge(LEADER_WORKER_SET.kind, served.namespace, name, {"status": seen}, "status")
    refusal = f'pods "{name}-0" is forbidden: exceeded quota: small, limited: pods=2'
    served.api.create(
        {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": "refused", "namespace": served.namespace},
            "involvedObject": {"kind": "StatefulSet", "namespace": served.namespace, "name": name},
            "type": "Warning",
            "reason": "FailedCreate",
            "message": f"create Pod {name}-0 in StatefulSet {name} failed error: {refusal}",
            "lastTimestamp": now(),
        }
    )
    status = served.wait_condition("Ready", "False", "QuotaExceeded")
    assert status["rootCause"]["message"] == "exceeded quota: small, limited: pods=2"


def test_workers_of_two_nodes_become_ready_and_only_leaders_are_reached(served: Space, workers: ToldNode) -> None:
    served.create(**BOTH)
    status = served.wait_condition("Ready", "True", timeout=60)
    assert status["roles"] == {
        "prefill": {"desired": 1, "updated": 1, "ready": 1},
        "decode": {"desired": 2, "updated": 2, "ready": 2},
    }
    assert status["replicas"] == 2
    assert "worker-index=0" in status["selector"]
    assert len(served.pods("tandem.dev/role=decode")) == 4
    assert len(served.pods(status["selector"])) == 2

    def reached() -> list[str]:
        found = served.api.list(SLICES, served.namespace, "tandem.dev/role")
        return sorted(entry["targetRef"]["name"] for item in found for entry in item["endpoints"] or ())

    name = f"chat-{{}}-{status['revision']}-nodes-{{}}".format
    assert eventually(reached, lambda names: len(names) >= 3) == [
        name("decode", 0),
        name("decode", 1),
        name("prefill", 0),
    ]


def test_the_cause_is_told_whichever_pod_of_a_worker_has_it(served: Space, workers: ToldNode) -> None:
    def behave(pod: Object) -> Object:
        found = with_address(pod)
        if not pod["metadata"]["name"].endswith("-nodes-1-1"):
            return found
        state = {"terminated": {"exitCode": 2, "reason": "Error", "message": "unrecognized arguments: --nnodes"}}
        (status,) = found["containerStatuses"]
        found["conditions"][-1]["status"] = "False"
        return {**found, "containerStatuses": [{**status, "ready": False, "started": False, "state": state}]}

    workers.behave = behave
    served.create(**AGG, **SPANNING)
    status = served.wait_condition("Ready", "False", "ContainerFailed", timeout=30)
    assert status["rootCause"]["pod"].endswith("-nodes-1-1")
    assert status["rootCause"]["exitCode"] == 2
    assert eventually(lambda: served.status()["roles"]["agg"]["ready"], lambda ready: ready == 1) == 1


def test_a_new_revision_takes_over_without_losing_a_worker(served: Space, workers: ToldNode) -> None:
    served.create(**BOTH)
    old = served.wait_condition("Ready", "True", timeout=60)["revision"]
    over, fewest, most = threading.Event(), 99, 0

    def look() -> None:
        nonlocal fewest, most
        while not over.wait(0.03):
            found = [item.get("status") or {} for item in sets(served, "decode")]
            fewest = min(fewest, sum(status.get("readyReplicas", 0) for status in found))
            most = max(most, sum(status.get("replicas", 0) for status in found))

    witness = threading.Thread(target=look, daemon=True)
    witness.start()
    served.edit(model=OTHER_MODEL)
    status = served.wait_condition("Progressing", "False", "Settled", timeout=90)
    eventually(lambda: [item["metadata"]["name"] for item in sets(served, "decode")], lambda found: len(found) == 1)
    over.set()
    witness.join()
    assert status["revision"] != old
    assert fewest >= 2
    assert most <= 3
    services = [name for kind, name in served.children() if kind == "Service"]
    assert sorted(services) == ["chat", *(f"chat-{role}-{status['revision']}" for role in ("decode", "prefill"))]


def test_a_worker_that_grows_over_its_node_takes_over_from_a_deployment(served: Space, workers: ToldNode) -> None:
    role = {"replicas": 2, "resources": {"limits": {"nvidia.com/gpu": "0"}}}
    served.create(mode="agg", backend="vllm", parameters={"tensorParallelSize": 8}, roles={"agg": role})
    served.wait_condition("Ready", "True", timeout=60)
    assert sets(served, "agg") == []
    served.edit(parameters={"tensorParallelSize": 16})
    served.wait_condition("Progressing", "False", "Settled", timeout=90)
    eventually(lambda: served.workers("agg"), lambda found: not found)
    assert [found["spec"]["replicas"] for found in sets(served, "agg")] == [2]
    assert served.status()["roles"]["agg"] == {"desired": 2, "updated": 2, "ready": 2}


def test_the_charts_rights_are_those_that_sets_need(bare: ControlPlane, served: Space, workers: ToldNode) -> None:
    served.create(mode="agg", roles={"agg": {"replicas": 0}}, **SPANNING)
    served.wait_condition("Ready", "True", timeout=60)
    (made,) = sets(served, "agg")
    kind, name = LEADER_WORKER_SET.kind, made["metadata"]["name"]
    lost = {"metadata": {"labels": {"app.kubernetes.io/managed-by": None}}}
    served.api.merge(kind, served.namespace, name, lost)
    eventually(
        lambda: sets(served, "agg")[0]["metadata"]["labels"], lambda labels: labels == made["metadata"]["labels"]
    )
    metadata = {"name": "left-over", "namespace": served.namespace}
    metadata |= {key: made["metadata"][key] for key in ("labels", "ownerReferences")}
    served.api.create({"apiVersion": made["apiVersion"], "kind": kind, "metadata": metadata, "spec": made["spec"]})
    eventually(lambda: len(sets(served, "agg")), lambda count: count == 1, why="what does not belong is pruned")

    events = bare.audit_events()
    # Where a namespace of an earlier test is going away, nothing may be created.
    here = [event for event in events if event.namespace in ("", served.namespace)]
    assert denied(here, USER) == []
    granted_here = {right for right in granted(chart_roles(bare)) if right.group == LEADER_WORKER_SET.group}
    assert granted_here
    assert {right for right in used(events, USER) if right.group == LEADER_WORKER_SET.group} == granted_here
