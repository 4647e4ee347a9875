"""API keys of a deployment on real pods: a Secret's keys open, others not, and a change comes without a restart."""

from __future__ import annotations

import pytest

from tests.e2e.workspace import Object, Workspace, completion, model_deployment, uids

pytestmark = pytest.mark.e2e

NAME, SECRET = "guarded", "clients"
# The kubelet looks for changes of a mounted Secret once a minute, and may read from a cache of that age.
SYNC_SECONDS = 240


def secret(*keys: str) -> Object:
    data = {"api-keys": "\n".join(keys)}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "stringData": data}


def ask(workspace: Workspace, key: str) -> int:
    (answer,) = workspace.post(NAME, "/v1/completions", completion(NAME, "x", max_tokens=1), key=key)
    return answer.status


def test_s1_30_keys_of_a_secret_open_and_are_exchanged_without_a_restart(workspace: Workspace) -> None:
    workspace.apply(secret("sk-one", "sk-two"))
    workspace.apply(model_deployment(NAME, access={"apiKeysSecretRef": {"name": SECRET}}))
    workspace.wait_ready(NAME)
    assert [ask(workspace, key) for key in ("sk-one", "sk-two", "sk-three", "")] == [200, 200, 401, 401]
    before = uids(workspace.pods(NAME))

    workspace.apply(secret("sk-three"))

    workspace.wait_until(lambda: ask(workspace, "sk-three") == 200, "the new key opens", SYNC_SECONDS)
    assert ask(workspace, "sk-one") == 401
    assert uids(workspace.pods(NAME)) == before
    workspace.delete(NAME)
