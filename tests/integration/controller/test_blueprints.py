"""A ModelBlueprint on a real API server: facts in its status, from the spec or a ConfigMap, and what never changes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tandem.controller.conditions import find
from tandem.kube.resources import BY_KIND
from tests.integration.controller.api import Object, Refusal, eventually
from tests.integration.controller.space import Space
from tests.unit.blueprint.configs import DEEPSEEK_V3, GOLDEN

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("operator")]
RESOURCE = BY_KIND["ModelBlueprint"]
LLAMA = json.dumps(GOLDEN[0].config())


def create(space: Space, **spec: Any) -> None:
    metadata = {"name": "x", "namespace": space.namespace}
    space.api.create({"apiVersion": RESOURCE.api_version, "kind": RESOURCE.kind, "metadata": metadata, "spec": spec})


def status(space: Space) -> Object:
    return dict(space.api.get(RESOURCE.kind, space.namespace, "x").get("status") or {})


def parsed(space: Space, reason: str) -> Object:
    """The status once `Parsed` has that reason."""
    return eventually(
        lambda: status(space),
        lambda found: (find(found.get("conditions"), "Parsed") or {}).get("reason") == reason,
        why=f"Parsed is not {reason}",
    )


def config_map(text: str, space: Space) -> Object:
    metadata = {"name": "facts", "namespace": space.namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"config.json": text}}


def test_facts_of_an_inline_configuration(space: Space) -> None:
    create(space, **{"from": {"inline": json.dumps(DEEPSEEK_V3)}, "budget": {"maxParams": 10**12}})

    found = parsed(space, "Parsed")

    assert found["totalParams"] == 671_026_419_200
    assert found["kv"] == {"kind": "latent", "bytesPerToken": 70_272}
    assert find(found["conditions"], "WithinBudget")["status"] == "True"
    assert found["observedGeneration"] == 1


def test_an_unknown_architecture_says_what_is_missing(space: Space) -> None:
    create(space, **{"from": {"inline": '{"model_type": "mine"}'}})

    message = find(parsed(space, "Refused")["conditions"], "Parsed")["message"]

    assert message.startswith("spec.from.inline: model_type: ")
    assert "weight_bytes" in message


def test_a_config_map_is_read_when_it_comes_and_its_change_is_told(space: Space) -> None:
    create(space, **{"from": {"configMapRef": {"name": "facts"}}})
    missing = find(parsed(space, "Refused")["conditions"], "Parsed")["message"]
    assert "there is no such ConfigMap" in missing

    space.api.create(config_map(LLAMA, space))
    first = parsed(space, "Parsed")
    assert first["totalParams"] == 8_030_261_248

    changed = json.dumps(GOLDEN[1].config())
    space.api.merge("ConfigMap", space.namespace, "facts", {"data": {"config.json": changed}})
    found = parsed(space, "ContentChanged")
    assert (found["totalParams"], found["digest"]) == (first["totalParams"], first["digest"])

    space.api.merge("ConfigMap", space.namespace, "facts", {"data": {"config.json": LLAMA}})
    assert parsed(space, "Parsed")["digest"] == first["digest"]


def test_s3_02_a_blueprint_never_changes(space: Space) -> None:
    create(space, **{"from": {"inline": LLAMA}})
    parsed(space, "Parsed")

    with pytest.raises(Refusal) as refused:
        space.api.merge(RESOURCE.kind, space.namespace, "x", {"spec": {"from": {"inline": "{}"}}})

    assert "a blueprint is immutable" in str(refused.value)


def test_s3_06_a_design_becomes_facts(space: Space) -> None:
    create(space, design={"hardware": "datacenter_gpu", "context": "8k"})

    found = parsed(space, "Designed")

    assert found["maxSeqLen"] == 8192
    assert found["totalParams"] == found["activeParams"] > 10**10
