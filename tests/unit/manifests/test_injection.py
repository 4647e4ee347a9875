"""What a user writes arrives in the container byte for byte."""

import shlex
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tandem.manifests import build
from tandem.manifests.arguments import escaped
from tandem.manifests.yaml_out import to_yaml
from tests.unit.manifests.deployments import TEXT, deployment, of_kind, server
from tests.unit.yaml_text import read, read_all

BACKENDS = ["torch", "vllm", "sglang", "trtllm"]
FEW = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
NASTY = [
    'x"; touch /tmp/x "',
    "it's",
    "a\nb: [1]\n- c",
    "$(POD_IP)",
    "$$(POD_IP)",
    "$$$(POD_IP) $ $$ $x ${x}",
    "`id` $(id) && ; | > <",
    "{{ 7 * 7 }} {% raw %} {# x #}",
    "\\n \\ \t tab",
    " leading and trailing ",
    "🙂 é \u2028 \x85 \x7f",
    "yes",
    "0o17",
    "1e3",
    "null",
    "~",
    "2020-01-01",
    "!tag &a *a",
]


def kubelet(text, variables):
    """What the kubelet hands to the container: its own algorithm, character by character."""
    out, at = [], 0
    while at < len(text):
        if text[at] != "$" or at + 1 == len(text):
            out.append(text[at])
            at += 1
        elif text[at + 1] == "$":
            out.append("$")
            at += 2
        elif text[at + 1] == "(" and (end := text.find(")", at)) > 0:
            name = text[at + 2 : end]
            out.append(variables.get(name, f"$({name})"))
            at = end + 1
        else:
            out.append(text[at : at + 2])
            at += 2
    return "".join(out)


def arguments(result, role="agg"):
    """The server's arguments as its process gets them, by way of the YAML text and the kubelet."""
    objects = read_all(to_yaml(result))
    found = next(
        item
        for item in objects
        if item["metadata"]["labels"].get("tandem.dev/role") == role and item["kind"] == "Deployment"
    )
    (container,) = found["spec"]["template"]["spec"]["containers"]
    variables = {"POD_IP": "10.0.0.7", "HOME": "/tmp"}
    return [kubelet(text, variables) for text in container["command"] + container["args"]]


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_argument_arrives_byte_for_byte(cluster, text, backend):
    flag = "--log-format" if backend == "torch" else "--x"
    result = build(deployment(backend=backend, roles={"agg": {"extraArgs": [flag, text]}}), cluster=cluster)

    assert arguments(result)[-2:] == [flag, text]


@pytest.mark.parametrize("backend", BACKENDS)
@FEW
@given(texts=st.lists(TEXT.filter(lambda text: not text.startswith("-")), min_size=1, max_size=5))
def test_any_arguments_arrive_byte_for_byte(cluster, backend, texts):
    result = build(deployment(backend=backend, roles={"agg": {"extraArgs": texts}}), cluster=cluster)

    assert arguments(result)[-len(texts) :] == texts


@FEW
@given(texts=st.lists(TEXT, min_size=1, max_size=5))
def test_a_real_shell_reads_any_arguments_back(texts):
    line = shlex.join([sys.executable, "-X", "utf8", "-c", "import sys; print(ascii(sys.argv[1:]))", *texts])

    done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, check=True)

    assert done.stdout.decode().strip() == ascii(texts)


@FEW
@given(value=TEXT)
def test_a_variable_of_the_overlay_arrives_as_written(cluster, value):
    env = {"spec": {"containers": [{"name": "server", "env": [{"name": "NOTE", "value": value}]}]}}
    result = build(deployment(roles={"agg": {"podTemplate": env}}), cluster=cluster)

    found = next(item for item in read_all(to_yaml(result)) if _is_worker(item))

    (container,) = found["spec"]["template"]["spec"]["containers"]
    assert {"name": "NOTE", "value": value} in container["env"]


def _is_worker(item):
    return item["kind"] == "Deployment" and item["metadata"]["labels"].get("tandem.dev/role") == "agg"


@FEW
@given(
    path=st.from_regex(r"[A-Za-z0-9_@+=,:-][-._A-Za-z0-9@+=,:]{0,20}", fullmatch=True),
    served=st.from_regex(r"[A-Za-z0-9][-._/A-Za-z0-9]{0,20}", fullmatch=True),
)
def test_path_and_served_name_arrive_on_every_backend(cluster, path, served):
    for backend in BACKENDS:
        version = "1.3.0rc27" if backend == "trtllm" else None
        model = {"pvc": {"claimName": "models", "path": path}, "servedName": served}
        found = arguments(build(deployment(backend=backend, model=model, backendVersion=version), cluster=cluster))

        assert f"/models/{path}" in found
        flag = "--served_model_name" if backend == "trtllm" else "--served-model-name"
        assert found[found.index(flag) + 1] == served


@given(st.text(alphabet="$()ab", max_size=12))
def test_escaping_survives_the_kubelet(text):
    assert kubelet(escaped(text), {"a": "1", "b": "2", "": "3"}) == text


def test_a_real_process_gets_what_was_written(cluster):
    result = build(deployment(roles={"agg": {"extraArgs": NASTY}}), cluster=cluster)
    echo = [sys.executable, "-X", "utf8", "-c", "import sys; sys.stdout.buffer.write(ascii(sys.argv[1:]).encode())"]

    done = subprocess.run(echo + arguments(result)[-len(NASTY) :], capture_output=True, check=True)

    assert done.stdout.decode() == ascii(NASTY)


def test_a_reference_of_tandems_own_is_expanded(cluster):
    found = arguments(build(deployment(mode="disagg"), cluster=cluster), "prefill")

    assert found[found.index("--advertise-host") + 1] == "10.0.0.7"


def test_no_shell_is_between_tandem_and_the_engine(cluster):
    programs = {
        "torch": ["tandem-serve"],
        "vllm": ["vllm", "serve"],
        "sglang": ["python3", "-m", "sglang.launch_server"],
        "trtllm": ["trtllm-serve", "serve"],
    }
    for backend, program in programs.items():
        assert server(build(deployment(backend=backend), cluster=cluster), "agg")["command"] == program


@pytest.mark.parametrize("served", ["a:b", "org/model-1.5", "y", "1e3", "0x10"])
def test_a_served_name_stays_a_text_everywhere(cluster, served):
    model = {"pvc": {"claimName": "models", "path": "a=b/c:d,e@f"}, "servedName": served}

    result = build(deployment(model=model), cluster=cluster)

    found = arguments(result)
    assert found[found.index("--served-model-name") + 1] == served
    assert found[found.index("--model") + 1] == "/models/a=b/c:d,e@f"
    (config,) = of_kind(result, "ConfigMap").values()
    assert read(config["data"]["config.yml"])["HUGGINGFACE_MODEL"] == {"NAME": "/models/a=b/c:d,e@f"}
