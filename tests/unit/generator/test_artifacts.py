"""What is written: scripts, engine files, objects."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tandem.api.deployment import Limits
from tandem.api.load import parse_resource
from tandem.api.problems import Refused
from tandem.generator.calls import backend_configs, generate_backend_artifacts, generate_config_from_input_dict
from tandem.generator.engine import library_of, shell_value, shell_word
from tandem.generator.placement import Pool, place
from tandem.generator.ports import Ports
from tandem.manifests import Cluster, build
from tandem.manifests.yaml_out import to_yaml
from tandem.rendering.library import load_library
from tandem.rendering.values import EnvRef
from tests.unit.yaml_text import read, read_all

BACKENDS = sorted(backend for backend, tables in load_library().tables.items() if tables)
MODES = ("agg", "disagg")
SHELLCHECK = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or shutil.which("shellcheck")
HARD_TEXTS = ("", "a b", "$(id)", "`id`", "'", '"', "a\nb", "$HOME", "\\", "*", "é", "{x}", "-x", "#", "a;b", "!")


def artifacts(raw, backend, library, **options):
    params = generate_config_from_input_dict(raw, backend=backend, library=library)
    return generate_backend_artifacts(params, backend, library=library, **options)


def inputs(minimal, mode, **groups):
    return {**minimal, "DynConfig": {"mode": mode}, "SlaConfig": {"isl": 4000, "osl": 500}, **groups}


def pods(found):
    """The pod specs of workers by role."""
    objects = list(read_all(found["k8s_deploy.yaml"]))
    label = "tandem.dev/role"
    return {
        item["metadata"]["labels"][label]: item["spec"]["template"]
        for item in objects
        if item["kind"] == "Deployment" and label in item["metadata"]["labels"]
    }


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_resource_and_the_api_give_identical_worker_arguments(backend, mode, minimal, library):
    found = artifacts(inputs(minimal, mode), backend, library)

    deployment = parse_resource(read(found["model_deployment.yaml"]))
    built = build(deployment, cluster=Cluster(library=library))

    workers = [item for item in built.objects if item["metadata"]["labels"].get("tandem.dev/role")]
    by_role = {
        item["metadata"]["labels"]["tandem.dev/role"]: item["spec"]["template"]["spec"]["containers"][0]
        for item in workers
        if item["kind"] == "Deployment"
    }
    assert set(by_role) == ({"agg"} if mode == "agg" else {"prefill", "decode"})
    for role, container in by_role.items():
        pod = [item.replace("$(POD_IP)", "$POD_IP").replace("$$", "$") for item in container["args"]]
        assert shlex.split(found[f"cli_args_{role}"]) == pod
        assert pods(found)[role]["spec"]["containers"][0]["args"] == container["args"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_objects_are_what_the_resource_is_built_to(backend, mode, minimal, library):
    engine = {"K8sConfig": {"k8s_engine_mode": "configmap"}} if backend == "trtllm" else {}
    found = artifacts(inputs(minimal, mode, **engine), backend, library)

    deployment = parse_resource(read(found["model_deployment.yaml"]))

    assert to_yaml(build(deployment, cluster=Cluster(library=library))) == found["k8s_deploy.yaml"]


def test_s0_33_workers_fill_machines_and_one_frontend_is_started(disagg, library):
    found = artifacts(disagg, "vllm", library)

    scripts = [found["run_0.sh"], found["run_1.sh"]]
    assert "run_2.sh" not in found
    assert [script.count("# prefill-") for script in scripts] == [2, 0]
    assert [script.count("# decode-") for script in scripts] == [2, 1]
    assert [script.count("tandem router") for script in scripts] == [1, 0]


def test_s0_33_decode_workers_begin_after_the_gpus_of_prefill_workers():
    nodes = place((Pool("prefill", 2, 2), Pool("decode", 3, 2)), gpus_per_node=8)

    assert [dict(node.counts()) for node in nodes] == [{"prefill": 2, "decode": 2}, {"decode": 1}]
    assert [worker.gpus for worker in nodes[0].places] == [(0, 1), (2, 3), (4, 5), (6, 7)]
    assert nodes[1].places[0].gpus == (0, 1)
    assert [node.has_frontend for node in nodes] == [True, False]


def test_s0_33_no_two_processes_of_a_machine_share_a_port(disagg, library):
    found = artifacts({**disagg, "DynConfig": {"enable_router": True}}, "vllm", library)

    for script in (found["run_0.sh"], found["run_1.sh"]):
        words = shlex.split(script.replace("\\\n", " "), comments=True)
        ports = [words[index + 1] for index, word in enumerate(words) if word == "--port"]
        ports += [word.partition("=")[2] for word in words if word.startswith("VLLM_NIXL_SIDE_CHANNEL_PORT=")]
        ports += [
            json.loads(words[index + 1])["endpoint"].rpartition(":")[2]
            for index, word in enumerate(words)
            if word == "--kv-events-config"
        ]
        assert len(ports) == len(set(ports)) > 0


def test_s0_33_the_frontend_knows_the_workers_of_every_machine(disagg, library):
    script = artifacts(disagg, "vllm", library)["run_0.sh"]

    listed = script.partition("<<END\n")[2].partition("END")[0]
    endpoints = json.loads(listed)["endpoints"]
    assert [(item["role"], item["address"]) for item in endpoints] == [
        ("prefill", "$NODE_0_IP"),
        ("prefill", "$NODE_0_IP"),
        ("decode", "$NODE_0_IP"),
        ("decode", "$NODE_0_IP"),
        ("decode", "$NODE_1_IP"),
    ]
    assert len({(item["address"], item["port"]) for item in endpoints}) == 5


def test_s0_33_workers_without_gpus_share_one_machine(minimal, library):
    found = artifacts(inputs(minimal, "disagg", WorkerConfig={"decode_workers": 12}), "torch", library)

    assert [name for name in found if name.startswith("run_")] == ["run_0.sh"]


def test_ports_that_are_taken_are_passed_over():
    ports = Ports()
    ports.take(8001, key="a")

    assert [ports.take(8000, key="a"), ports.take(8000, key="a", count=2), ports.take(8003, key="a")] == [
        8000,
        8002,
        8004,
    ]


def test_ports_end():
    with pytest.raises(Refused, match="not enough ports"):
        Ports().take(65535, key="ServiceConfig.port", count=2)


@pytest.mark.skipif(SHELLCHECK is None, reason="shellcheck is not installed (extra dev)")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_s0_28_scripts_pass_shellcheck(backend, mode, minimal, library, tmp_path):
    counts = {"WorkerConfig": {f"{role}_workers": 9 for role in (("agg",) if mode == "agg" else ("prefill", "decode"))}}
    artifacts(inputs(minimal, mode, **counts), backend, library, output_dir=tmp_path)

    done = subprocess.run(
        [SHELLCHECK, *sorted(map(str, tmp_path.glob("*.sh")))], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout) == (0, "")


# A program that writes down what it was given, and one that runs until it is ended.
RECORDER = """\
#!/bin/bash
printf '%s\\0' "$0" "$@" > "$RECORD"
env -0 | grep -z -E '^(CUDA|VLLM)_' | tr '\\0' '\\n' > "$RECORD.env"
"""
WAITER = "#!/bin/bash\nexec tail -f /dev/null\n"


def test_a_script_hands_every_argument_over_byte_for_byte(minimal, library, tmp_path):
    """A real shell starts programs that write down what they were given."""
    name = "we/ird-name:v1.0"
    raw = inputs(minimal, "agg", WorkerConfig={"agg_workers": 1})
    raw["ServiceConfig"] = {"model_path": "org/model", "served_model_name": name}
    found = artifacts(raw, "vllm", library, output_dir=tmp_path / "out")
    for program, text in (("vllm", RECORDER), ("tandem", WAITER)):
        path = tmp_path / "bin" / program
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "RECORD": str(tmp_path / "record")}

    subprocess.run([str(tmp_path / "out" / "run_0.sh")], env=environment, timeout=60, check=False)

    words = (tmp_path / "record").read_text().split("\0")
    wanted = [item.replace("8000", "8001") if item == "8000" else item for item in shlex.split(found["cli_args_agg"])]
    start = words.index(str(tmp_path / "bin" / "vllm"))
    assert words[start + 1 : start + 2 + len(wanted)] == ["serve", *wanted]
    assert "CUDA_VISIBLE_DEVICES=0" in (tmp_path / "record.env").read_text()


@pytest.mark.parametrize("text", HARD_TEXTS)
def test_a_word_survives_a_real_shell(text):
    done = subprocess.run(["bash", "-c", f"printf %s {shell_word(text)}"], capture_output=True, check=True)

    assert done.stdout.decode() == text


def test_references_are_variables_of_the_shell():
    script = f"POD_IP='a b'; printf '%s|' {shell_word(EnvRef('POD_IP'))} {shell_value('$(POD_IP):1 $x')}"

    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True)

    assert done.stdout == b"a b|a b:1 $x|"


@pytest.mark.parametrize("switch", [False, True])
def test_s0_34_name_and_flag_of_the_router_appear_together(switch, minimal, library):
    raw = {**minimal, "DynConfig": {"enable_router": switch}, "K8sConfig": {"name_prefix": "team"}}

    params = generate_config_from_input_dict(raw, backend="vllm", library=library)
    found = generate_backend_artifacts(params, "vllm", library=library)

    name = "team-disagg-router" if switch else "team-disagg"
    assert (params["k8s"]["name"], params["k8s"].get("router_mode"), params["k8s"]["is_kv"]) == (
        name,
        "kv" if switch else None,
        switch,
    )
    assert (f"\n  name: {name}\n" in found["k8s_deploy.yaml"], "prefixAffinity" in found["k8s_deploy.yaml"]) == (
        True,
        switch,
    )
    assert ("--policy prefixAffinity" in found["run_0.sh"].replace("\\\n   ", "")) is switch


def test_s0_34_a_name_that_does_not_fit_is_refused(minimal, library):
    params = generate_config_from_input_dict(minimal, backend="vllm", library=library)
    params["k8s"]["name"] = "mine"

    with pytest.raises(Refused, match=r"k8s\.name: it follows from other keys"):
        generate_backend_artifacts(params, "vllm", library=library)


def claims(template):
    volumes = template["spec"]["volumes"]
    return [item["persistentVolumeClaim"]["claimName"] for item in volumes if "persistentVolumeClaim" in item]


def test_s0_35_nothing_appears_in_pods_unless_it_is_set(minimal, library):
    found = artifacts(inputs(minimal, "agg"), "vllm", library)

    template = pods(found)["agg"]
    assert claims(template) == []
    assert "imagePullSecrets" not in template["spec"]
    assert "HF_TOKEN" not in found["k8s_deploy.yaml"]
    assert "None" not in found["k8s_deploy.yaml"].replace("clusterIP: 'None'", "")


def test_s0_35_what_is_set_appears_in_pods(minimal, library):
    k8s = {
        "k8s_namespace": "team",
        "k8s_image": "registry.example/vllm:1",
        "k8s_image_pull_secret": "pull",
        "k8s_model_cache": "cache",
        "k8s_hf_token_secret": "hf-token-secret",
    }

    template = pods(artifacts(inputs(minimal, "agg", K8sConfig=k8s), "vllm", library))["agg"]

    container = template["spec"]["containers"][0]
    assert claims(template) == ["cache"]
    assert template["spec"]["imagePullSecrets"] == [{"name": "pull"}]
    assert container["image"] == "registry.example/vllm:1"
    token = next(item for item in container["env"] if item["name"] == "HF_TOKEN")
    assert token["valueFrom"]["secretKeyRef"] == {"name": "hf-token-secret", "key": "HF_TOKEN"}


def test_s0_35_a_directory_of_the_claim_is_mounted(minimal, library):
    raw = inputs(minimal, "agg", K8sConfig={"k8s_model_cache": "models"})
    raw["ServiceConfig"] = {"model_path": "/models/llama", "served_model_name": "llama"}

    found = artifacts(raw, "vllm", library)

    assert claims(pods(found)["agg"]) == ["models"]
    assert found["cli_args_agg"].startswith("/models/llama ")


def test_s0_31_an_overriding_template_wins(tmp_path, minimal, library):
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "cli_args.0.33.0.j2").write_text('- {{ "--mine=" ~ model.served_name }}\n')

    found = artifacts(inputs(minimal, "agg"), "vllm", library, templates_dir=tmp_path)

    assert found["cli_args_agg"] == "--mine=qwen"


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        (None, "", "there is no such directory"),
        ("unknown.j2", "- a\n", "unknown.j2"),
        ("cli_args.0.33.0.j2", "- {{ nope }}\n", "'nope' is undefined"),
        ("cli_args.0.33.0.j2", "- {% if %}\n", "malformed template"),
    ],
)
def test_s0_31_templates_that_cannot_be_used_are_refused(name, text, reason, tmp_path, minimal, library):
    folder = tmp_path / "templates"
    if name is not None:
        folder.mkdir()
        (folder / name).write_text(text)

    with pytest.raises(Refused, match=reason):
        artifacts(inputs(minimal, "agg"), "vllm", library, templates_dir=folder)


def test_s0_14_flags_come_from_a_mapping_and_templates_in_memory(minimal):
    names = load_library().table("vllm", None).entries
    refused = {name: {"unsupported": "no", "fix": "no"} for name in names} | {"tensor_parallel_size": "--cards"}
    limits = dict.fromkeys(Limits.model_fields) | {"timeout_seconds": 60}
    mapping = {"backend": "vllm", "version": "1", "preferred": True, "image": "i:1", "command": ["x"], "limits": limits}
    mine = library_of(
        mappings={"vllm": {"1": yaml.safe_dump({**mapping, "parameters": refused})}},
        templates={"vllm": {"cli_args.j2": "{% for flag in flags %}\n- {{ flag }}\n{% endfor %}\n"}},
    )
    raw = inputs(minimal, "agg", Workers={"agg": {"tensor_parallel_size": 2}})

    params = generate_config_from_input_dict(raw, backend="vllm", library=mine)
    found = backend_configs(params, "vllm", library=mine)

    assert found == {"agg": {"tensor_parallel_size": {"cards": 2}}}
    shipped = backend_configs(params, "vllm", library=load_library())
    assert shipped["agg"]["tensor_parallel_size"] == {"tensor-parallel-size": 2}


def engine_file(found, role):
    """What the pod of a role reads as its engine's file, and how the pod gets it."""
    template = pods(found)[role]
    volume = next(item for item in template["spec"]["volumes"] if item["name"] == "config")
    if "downwardAPI" in volume:
        [item] = volume["downwardAPI"]["items"]
        key = item["fieldRef"]["fieldPath"].removeprefix("metadata.annotations['").removesuffix("']")
        return template["metadata"]["annotations"][key], item["path"]
    maps = {
        item["metadata"]["name"]: item["data"]
        for item in read_all(found["k8s_deploy.yaml"])
        if item["kind"] == "ConfigMap"
    }
    [(path, text)] = maps[volume["configMap"]["name"]].items()
    return text, path


@pytest.mark.parametrize("mode", MODES)
def test_s0_32_the_engine_file_is_the_same_inline_and_in_a_config_map(mode, minimal, library):
    inline, separate = (
        artifacts(inputs(minimal, mode, K8sConfig={"k8s_engine_mode": kind}), "trtllm", library)
        for kind in ("inline", "configmap")
    )

    for role in pods(inline):
        assert engine_file(inline, role) == engine_file(separate, role)
        assert engine_file(inline, role)[0] == inline[f"{role}_config.yaml"]
    assert "kind: ConfigMap" not in inline["k8s_deploy.yaml"]


@pytest.mark.parametrize("kind", ["inline", "configmap"])
def test_s0_32_a_changed_engine_file_changes_the_pods(kind, minimal, library):
    k8s = {"k8s_engine_mode": kind}

    before, after = (
        pods(artifacts(inputs(minimal, "agg", K8sConfig=k8s, Workers={"agg": {"max_seq_len": n}}), "trtllm", library))
        for n in (4096, 8192)
    )

    assert before["agg"] != after["agg"]


def test_s0_32_another_engine_mode_is_refused(minimal, library):
    with pytest.raises(Refused, match="k8s_engine_mode: this mode does not exist"):
        artifacts(inputs(minimal, "agg", K8sConfig={"k8s_engine_mode": "file"}), "trtllm", library)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("backend", [backend for backend in BACKENDS if backend != "vllm"])
def test_s0_09_other_backends_never_mention_the_ports_of_vllm(backend, mode, minimal, library):
    text = "".join(artifacts(inputs(minimal, mode), backend, library).values())

    assert not [word for word in ("20081", "20097", "vllm") if word in text]


@pytest.mark.parametrize(("backend", "word"), [("trtllm", "MTP"), ("sglang", "NEXTN")])
def test_multi_token_prediction_has_the_word_of_each_backend(backend, word, minimal, library):
    raw = inputs(minimal, "agg", ModelConfig={"nextn": 1})
    raw["ServiceConfig"] = {"model_path": "deepseek-ai/DeepSeek-V3", "served_model_name": "deepseek"}

    found = artifacts(raw, backend, library)

    assert word in found["cli_args_agg"] + found.get("agg_config.yaml", "")


def test_the_frontend_knows_where_each_prefill_worker_of_sglang_is_met(minimal, library):
    raw = inputs(minimal, "disagg", WorkerConfig={"prefill_workers": 2, "decode_workers": 1})

    script = artifacts(raw, "sglang", library)["run_0.sh"]

    endpoints = json.loads(script.partition("<<END\n")[2].partition("END")[0])["endpoints"]
    assert [(item["name"], item.get("bootstrap_port")) for item in endpoints] == [
        ("prefill-0", 8998),
        ("prefill-1", 8999),
        ("decode-0", None),
    ]
    words = shlex.split(script.replace("\\\n", " "), comments=True)
    assert [words[at + 1] for at, word in enumerate(words) if word == "--disaggregation-bootstrap-port"] == [
        "8998",
        "8999",
    ]


def test_copies_of_a_worker_have_a_port_each(minimal, library):
    parameters = {"data_parallel_size": 2}
    raw = inputs(
        minimal, "disagg", Workers={"prefill": parameters, "decode": parameters}, WorkerConfig={"prefill_workers": 2}
    )

    script = artifacts(raw, "vllm", library)["run_0.sh"]

    assert re.findall(r"VLLM_NIXL_SIDE_CHANNEL_PORT=(\d+)", script) == ["20097", "20099", "20101"]


def test_s0_33_a_larger_machine_holds_a_larger_worker(minimal, library):
    raw = inputs(minimal, "agg", Workers={"agg": {"tensor_parallel_size": 16}})

    found = artifacts({**raw, "NodeConfig": {"num_gpus_per_node": 16}}, "vllm", library)
    assert "CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15" in found["run_0.sh"]
