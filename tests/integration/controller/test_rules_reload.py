"""Rules of a ConfigMap: read again while they are in use, and a broken text leaves alone what runs."""

from __future__ import annotations

import pytest

from tests.integration.controller.api import Api, Object, eventually
from tests.integration.controller.space import DISAGG, Space, condition

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("operator")]

# Texts are read again after 30 seconds.
RELOAD_SECONDS = 75


def config_map(namespace: str, text: str) -> Object:
    """A ConfigMap with the rules of the bundled server."""
    metadata = {"name": "mine", "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"torch.rule": text}}


def rewrite(api: Api, namespace: str, text: str) -> None:
    """Replaces the rules."""
    api.merge("ConfigMap", namespace, "mine", {"data": {"torch.rule": text}})


def generations(space: Space) -> dict[str, int]:
    """How often the spec of each Deployment changed."""
    return {
        name: item["metadata"]["generation"] for (kind, name), item in space.children().items() if kind == "Deployment"
    }


def arguments(space: Space, role: str) -> list[str]:
    """The arguments of a role's workers."""
    (workers,) = space.workers(role)
    return list(workers["spec"]["template"]["spec"]["containers"][0]["args"])


def test_s0_15_changed_rules_change_only_the_pods_whose_result_changed(api: Api, space: Space) -> None:
    api.create(config_map(space.namespace, "prefill max_batch_size = 1\ndecode max_batch_size = 5\n"))
    space.create(**DISAGG, rules={"configMapRef": {"name": "mine"}})
    space.wait_applied()
    before = generations(space)
    assert "5" in arguments(space, "decode")

    rewrite(api, space.namespace, "prefill max_batch_size = 1\ndecode max_bach_size = 6\n")
    status = space.wait_condition("Valid", "False", "InvalidSpec", timeout=RELOAD_SECONDS)

    message = condition({"status": status}, "Valid")["message"]
    assert "ConfigMap mine/torch.rule:2:8: there is no parameter of this name (got max_bach_size)" in message
    assert "Did you mean max_batch_size?" in message
    assert generations(space) == before

    rewrite(api, space.namespace, "# again\nprefill max_batch_size = 1\ndecode max_batch_size = 6\n")
    space.wait_condition("Valid", "True", timeout=RELOAD_SECONDS)
    eventually(lambda: arguments(space, "decode"), lambda args: "6" in args, why="not applied")

    changed = {name for name, generation in generations(space).items() if generation != before[name]}
    assert len(changed) == 1
    assert changed.pop().startswith("chat-decode-")
