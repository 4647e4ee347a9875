"""What is wrong with a kubeconfig is told in our words, with what to do."""

from pathlib import Path

import pytest
import yaml

from tandem.kube.connection import connect
from tandem.kube.errors import CredentialsError

GOOD = {
    "apiVersion": "v1",
    "kind": "Config",
    "current-context": "a",
    "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
    "contexts": [{"name": "a", "context": {"cluster": "c", "user": "u"}}],
    "users": [{"name": "u", "user": {"token": "t"}}],
}


@pytest.fixture(autouse=True)
def outside_of_a_pod(monkeypatch, tmp_path):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


async def refusal(path: Path | None) -> str:
    with pytest.raises(CredentialsError) as refused:
        async with connect(path):
            pass
    (problem,) = refused.value.problems
    assert problem.fix
    return str(problem)


def written(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "config"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


async def test_a_good_file_names_the_server(tmp_path):
    async with connect(written(tmp_path, GOOD)) as connection:
        assert connection.server == "https://127.0.0.1:1"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "this is no kubeconfig: it has no clusters and no contexts"),
        ("a: [", ":2:1: this kubeconfig is malformed YAML"),
        (b"\xff\x00", "this is no kubeconfig: it is not YAML"),
        ("[" * 2000, "this kubeconfig is malformed YAML"),
        ({"kind": "Pod"}, "this is no kubeconfig: it has no clusters and no contexts"),
        (
            {**GOOD, "current-context": ""},
            "this kubeconfig has no current-context. Run: kubectl config use-context NAME.",
        ),
        (
            {**GOOD, "current-context": "b"},
            "config: current-context: there is no such context (got 'b'). Known here: a.",
        ),
        ({**GOOD, "clusters": []}, "contexts[a].context.cluster: clusters has no entry of this name (got 'c')"),
        ({**GOOD, "users": []}, "contexts[a].context.user: users has no entry of this name (got 'u')"),
        ({**GOOD, "clusters": [{"name": "c", "cluster": {}}]}, "clusters[c].cluster.server: required, but missing"),
        (
            {**GOOD, "users": [{"name": "u", "user": {"client-certificate": "/nope", "client-key": "/nope"}}]},
            "no usable Kubernetes credentials",
        ),
    ],
)
async def test_a_broken_file_is_located(tmp_path, content, told):
    path = written(tmp_path, content)
    said = await refusal(path)
    assert said.startswith(str(path))
    assert told in said


async def test_a_file_that_does_not_exist(tmp_path):
    assert await refusal(tmp_path / "nope") == f"{tmp_path}/nope: this kubeconfig does not exist. Check the path."


async def test_a_directory(tmp_path):
    assert "this is a directory" in await refusal(tmp_path)


async def test_the_variable_names_files_of_which_one_must_exist(tmp_path, monkeypatch):
    path = written(tmp_path, GOOD)
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path}/nope:{path}")
    async with connect() as connection:
        assert connection.server == "https://127.0.0.1:1"
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path}/nope:{tmp_path}/none")
    assert "this kubeconfig does not exist" in await refusal(None)


async def test_without_any_file_it_says_how_to_name_one(tmp_path):
    assert "no cluster is named" in await refusal(None)
