"""From objects to processes: what the shipped examples become, and what is refused before anything starts."""

from pathlib import Path

import pytest

from tandem.api.load import load_deployment
from tandem.api.problems import Refused
from tandem.local.plan import make_plan
from tandem.local.spec import FileSpec
from tandem.manifests import Cluster, build
from tandem.rendering.library import load_library
from tests.unit.local.objects import machine, router_objects, worker_deployment

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "demo-disagg.yaml"


@pytest.fixture(scope="module")
def built():
    return build(load_deployment(EXAMPLE), cluster=Cluster(library=load_library()))


@pytest.fixture
def plan(built):
    return make_plan(built.objects, machine=machine(volumes={"models": Path("/data/m")}))


def unit(plan, role: str):
    return next(pod for pod in plan.pods if pod.role == role).units[0]


def problems_of(*objects, **changes):
    with pytest.raises(Refused) as caught:
        make_plan(objects, machine=machine(**changes))
    return caught.value.problems


def option(argv, name: str) -> str:
    return argv[argv.index(name) + 1]


def test_the_example_becomes_one_process_per_pod_each_on_its_own_port(plan, built):
    assert [(pod.role, pod.revision) for pod in plan.workers] == [
        ("prefill", built.revision),
        ("decode", built.revision),
    ]
    assert [pod.name for pod in plan.pods][-1] == "demo-router-0"
    ports = [pod.port for pod in plan.pods]
    assert len(set(ports)) == 3
    assert plan.port == ports[-1] == 7777
    assert plan.deployment == "demo"


def test_a_worker_gets_the_arguments_of_its_container_with_this_machines_paths_and_ports(plan):
    pod = plan.workers[1]
    argv = pod.units[0].argv
    assert argv[0] == "/bin/tandem-serve"
    assert option(argv, "--role") == "decode"
    assert option(argv, "--model") == "/data/m"
    assert option(argv, "--host") == option(argv, "--advertise-host") == "127.0.0.1"
    assert option(argv, "--port") == str(pod.port)
    assert option(argv, "--config") == f"/run/pods/{pod.name}/config/config.yml"


def test_config_maps_become_files_with_their_text(plan, built):
    texts = {found["data"]["config.yml"] for found in built.objects if found["kind"] == "ConfigMap"}
    assert {file.content.decode() for file in plan.files} == texts
    assert all(file.mode == 0o644 for file in plan.files)


def test_the_environment_is_this_shells_then_the_containers(plan):
    environment = unit(plan, "prefill").environment
    assert environment["PATH"] == "/bin"
    assert environment["POD_IP"] == "127.0.0.1"
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["TMPDIR"] == environment["HOME"] == f"/run/pods/{plan.workers[0].name}/tmp"


def test_the_router_follows_the_endpoints_file_on_the_port_for_clients(plan):
    argv = unit(plan, "").argv
    assert option(argv, "--endpoints-file") == "/run/endpoints.json" == str(plan.endpoints_file)
    assert "--namespace" not in argv
    assert option(argv, "--port") == "7777"
    assert option(argv, "--host") == "127.0.0.1"


def test_probes_keep_their_numbers_and_get_the_port_of_this_machine(plan):
    decode = unit(plan, "decode")
    startup, readiness, liveness = decode.probes
    assert (startup.kind, startup.path, startup.port) == ("startup", "/health", plan.workers[1].port)
    assert (readiness.kind, readiness.period, readiness.failure_threshold) == ("readiness", 2, 3)
    assert (liveness.kind, liveness.path, liveness.period, liveness.timeout) == ("liveness", "/livez", 10, 5)


def test_what_has_no_meaning_on_one_machine_is_noted_not_dropped(plan):
    noted = " ".join(plan.notes)
    assert all(kind in noted for kind in ("NetworkPolicy", "ServiceAccount", "Role", "RoleBinding"))


def test_fields_of_a_pod_that_a_process_does_not_have_are_noted_too():
    deployment = worker_deployment(lifecycle={"preStop": {}}, spec={"nodeSelector": {"a": "b"}})
    (note,) = make_plan([deployment], machine=machine()).notes
    assert note.endswith("left out: lifecycle, nodeSelector")


def test_gpus_are_given_to_one_container_each():
    deployment = worker_deployment(replicas=2, resources={"limits": {"nvidia.com/gpu": "2", "memory": "1Gi"}})
    plan = make_plan([deployment], machine=machine(find_gpus=lambda: ("0", "1", "4", "5")))
    assert [pod.units[0].environment["CUDA_VISIBLE_DEVICES"] for pod in plan.pods] == ["0,1", "4,5"]


def test_more_gpus_than_there_are_are_refused():
    deployment = worker_deployment(replicas=3, resources={"limits": {"nvidia.com/gpu": 1}})
    (problem,) = problems_of(deployment, find_gpus=lambda: ("0", "1"))
    assert problem.path.endswith("containers[0].resources.limits[nvidia.com/gpu]")
    assert "2 GPUs" in problem.reason
    (problem,) = problems_of(
        worker_deployment(resources={"limits": {"nvidia.com/gpu": "0.5"}}), find_gpus=lambda: ("0",)
    )
    assert problem.value == "'0.5'"


def test_the_same_objects_and_machine_give_the_same_plan(built):
    volumes = {"models": Path("/data/m")}
    assert make_plan(built.objects, machine=machine(volumes=volumes)) == make_plan(
        built.objects, machine=machine(volumes=volumes)
    )


def test_processor_threads_are_shared_between_workers_unless_the_user_says_otherwise():
    two = make_plan([worker_deployment(replicas=2)], machine=machine())
    assert [pod.units[0].environment["OMP_THREAD_LIMIT"] for pod in two.pods] == ["2", "2"]
    many = make_plan([worker_deployment(replicas=9)], machine=machine())
    assert many.pods[0].units[0].environment["OMP_THREAD_LIMIT"] == "1"
    chosen = make_plan([worker_deployment()], machine=machine(environment={"OMP_THREAD_LIMIT": "7"}))
    assert chosen.pods[0].units[0].environment["OMP_THREAD_LIMIT"] == "7"


def test_replicas_are_pods_with_names_and_ports_of_their_own():
    plan = make_plan([worker_deployment(replicas=3)], machine=machine())
    assert [(pod.name, pod.port) for pod in plan.pods] == [
        ("demo-agg-r1-0", 9001),
        ("demo-agg-r1-1", 9002),
        ("demo-agg-r1-2", 9003),
    ]


def test_of_several_routers_one_runs_for_a_service_is_one_port_here():
    plan = make_plan(router_objects(replicas=2), machine=machine())
    assert len(plan.pods) == 1
    assert any("1 of 2 replicas" in note for note in plan.notes)


def test_no_replicas_are_no_pods():
    assert make_plan([worker_deployment(replicas=0)], machine=machine()).pods == ()


def test_secrets_and_scratch_volumes_are_made_in_the_run_directory():
    deployment = worker_deployment(
        args=["--port", "8000", "--key", "/keys/token", "--cache=/cache/x"],
        volumeMounts=[{"name": "keys", "mountPath": "/keys/"}, {"name": "cache", "mountPath": "/cache"}],
        spec={"volumes": [{"name": "keys", "secret": {"secretName": "hf"}}, {"name": "cache", "emptyDir": {}}]},
    )
    plan = make_plan([deployment], machine=machine(secrets={("hf", "token"): "s3cret"}))
    home = Path("/run/pods/demo-agg-r1-0")
    assert plan.files == (FileSpec(home / "keys" / "token", b"s3cret", 0o600),)
    assert {home / "keys", home / "cache", home} <= set(plan.directories)
    assert plan.pods[0].units[0].argv[4:] == (str(home / "keys" / "token"), f"--cache={home}/cache/x")


def test_items_of_a_config_map_choose_keys_and_names():
    config_map = {"kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1", "b": "2"}}
    volume = {"name": "v", "configMap": {"name": "c", "items": [{"key": "b", "path": "dir/b.txt"}]}}
    mounts = [{"name": "v", "mountPath": "/etc/one", "subPath": "dir/b.txt"}]
    deployment = worker_deployment(
        spec={"volumes": [volume]}, volumeMounts=mounts, args=["--port", "8000", "--file", "/etc/one"]
    )
    plan = make_plan([config_map, deployment], machine=machine())
    path = Path("/run/pods/demo-agg-r1-0/v/dir/b.txt")
    assert plan.files == (FileSpec(path, b"2"),)
    assert plan.pods[0].units[0].argv[-1] == str(path)


def test_a_claim_without_directory_is_refused_with_the_option_to_give(built):
    with pytest.raises(Refused) as caught:
        make_plan(built.objects, machine=machine())
    paths = [problem.path for problem in caught.value.problems]
    assert len(paths) == len(set(paths)) == 2  # once for each role
    assert all("persistentVolumeClaim.claimName" in path for path in paths)
    assert "--volume models=DIRECTORY" in caught.value.problems[0].fix


def test_a_volume_that_nobody_mounts_is_refused():
    (problem,) = problems_of(worker_deployment(), volumes={"typo": Path("/x")})
    assert problem.path == "--volume typo"


@pytest.mark.parametrize(
    ("changes", "path", "said"),
    [
        ({"command": []}, ".command", "no image"),
        ({"args": []}, ".ports", "--port"),
        (
            {"args": [], "readinessProbe": {"httpGet": {"path": "/", "port": "http"}}},
            ".readinessProbe.port",
            "--port",
        ),
        ({"livenessProbe": {"exec": {"command": ["x"]}}}, ".livenessProbe", "httpGet"),
        ({"livenessProbe": {"httpGet": {"path": "/", "port": "metrics"}}}, ".livenessProbe", "declares"),
        ({"volumeMounts": [{"name": "no", "mountPath": "/x"}]}, ".volumeMounts[0].name", "no such volume"),
    ],
)
def test_a_container_that_cannot_run_here_is_refused_with_its_place(changes, path, said):
    problems = problems_of(worker_deployment(**changes))
    problem = next(each for each in problems if path in each.path)
    assert problem.path.startswith("Deployment demo-agg-r1: spec.template.spec.containers[0]")
    assert said in f"{problem.reason} {problem.fix}"


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"initContainers": [{"name": "x"}]}, ".initContainers"),
        ({"volumes": [{"name": "v", "nfs": {"server": "s", "path": "/"}}]}, ".volumes[0].nfs"),
        ({"volumes": [{"name": "v", "configMap": {"name": "absent"}}]}, ".volumes[0].configMap"),
        ({"volumes": [{"name": "v", "secret": {"secretName": "absent"}}]}, ".volumes[0].secret"),
    ],
)
def test_a_pod_that_cannot_run_here_is_refused_with_its_place(spec, path):
    (problem,) = problems_of(worker_deployment(spec=spec))
    assert problem.path == f"Deployment demo-agg-r1: spec.template.spec{path}"


def test_a_missing_program_is_refused_with_how_to_get_it():
    (problem,) = problems_of(worker_deployment(command=["tandem-serve"]), find_program=lambda _name: None)
    assert problem.path.endswith("containers[0].command[0]")
    assert "tandem-operator[serve]" in problem.fix


def test_a_kind_that_needs_a_cluster_is_refused():
    (problem,) = problems_of({"kind": "LeaderWorkerSet", "metadata": {"name": "big"}})
    assert problem.path == "LeaderWorkerSet big"


@pytest.mark.parametrize(
    "container", [{"env": [{"value": "x"}]}, {"ports": ["8000"]}, {"command": "serve --port 8000"}]
)
def test_a_template_of_a_wrong_shape_is_refused_not_a_crash(container):
    problems = problems_of(worker_deployment(**container))
    assert any(problem.path.startswith("Deployment demo-agg-r1: spec.template") for problem in problems)


def test_all_problems_are_told_at_once():
    found = problems_of(
        worker_deployment(command=[], spec={"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]})
    )
    assert len(found) == 2
