"""The environment of a container: order, references, and what is missing told with its place."""

import pytest

from tandem.api.load import validate_model
from tandem.api.problems import Problem
from tandem.local.environment import PodFacts, Sources, container_environment
from tandem.local.template import Container

FACTS = PodFacts(
    name="demo-0",
    namespace="ml",
    node="here",
    account="demo-worker",
    labels={"team": "blue"},
    annotations={"note": "n"},
)
SOURCES = Sources(
    config_maps={"settings": {"A": "1", "B": "2"}}, secrets={("hf", "token"): "s3cret", ("hf", "user"): "zoe"}
)


def read(container) -> Container:
    return validate_model(Container, container)


def resolve(container) -> tuple[dict[str, str], list[Problem]]:
    problems: list[Problem] = []
    found = container_environment(
        read({"name": "server", **container}), facts=FACTS, sources=SOURCES, where="C", problems=problems
    )
    return found, problems


def field(path: str) -> dict:
    return {"name": "X", "valueFrom": {"fieldRef": {"fieldPath": path}}}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "demo-0"),
        ("metadata.namespace", "ml"),
        ("metadata.labels['team']", "blue"),
        ("metadata.labels['absent']", ""),
        ("metadata.annotations['note']", "n"),
        ("status.podIP", "127.0.0.1"),
        ("status.hostIP", "127.0.0.1"),
        ("spec.nodeName", "here"),
        ("spec.serviceAccountName", "demo-worker"),
    ],
)
def test_a_pod_knows_its_fields(path, value):
    assert resolve({"env": [field(path)]}) == ({"X": value}, [])


def test_variables_are_expanded_from_those_before_them_only():
    env = [
        {"name": "LATE", "value": "$(EARLY)"},
        {"name": "EARLY", "value": "e"},
        {"name": "THEN", "value": "$(EARLY)-$$(EARLY)"},
        {"name": "EMPTY"},
    ]
    assert resolve({"env": env})[0] == {"LATE": "$(EARLY)", "EARLY": "e", "THEN": "e-$(EARLY)", "EMPTY": ""}


def test_env_wins_over_env_from_and_prefixes_are_kept():
    container = {
        "envFrom": [{"prefix": "P_", "configMapRef": {"name": "settings"}}, {"secretRef": {"name": "hf"}}],
        "env": [{"name": "P_A", "value": "mine"}],
    }
    assert resolve(container) == ({"P_A": "mine", "P_B": "2", "token": "s3cret", "user": "zoe"}, [])


def test_references_to_config_maps_and_secrets_are_resolved():
    env = [
        {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "A"}}},
        {"name": "T", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "token"}}},
    ]
    assert resolve({"env": env}) == ({"A": "1", "T": "s3cret"}, [])


def test_what_is_optional_and_missing_is_left_out():
    env = [{"name": "T", "valueFrom": {"secretKeyRef": {"name": "no", "key": "k", "optional": True}}}]
    container = {"env": env, "envFrom": [{"configMapRef": {"name": "no", "optional": True}}]}
    assert resolve(container) == ({}, [])


@pytest.mark.parametrize(
    ("entry", "path", "fix"),
    [
        (
            {"name": "T", "valueFrom": {"secretKeyRef": {"name": "api", "key": "the.key"}}},
            "C.env[0].valueFrom.secretKeyRef",
            "--secret api/the.key=API_THE_KEY",
        ),
        (
            {"name": "T", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "Z"}}},
            "C.env[0].valueFrom.configMapKeyRef",
            "ConfigMaps",
        ),
        (field("status.qosClass"), "C.env[0].valueFrom.fieldRef", "status.podIP"),
        (
            {"name": "T", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
            "C.env[0].valueFrom.resourceFieldRef",
            "plain value",
        ),
    ],
)
def test_what_cannot_be_resolved_is_told_with_its_place_and_a_way_out(entry, path, fix):
    _, problems = resolve({"env": [entry]})
    assert [problem.path for problem in problems] == [path]
    assert fix in problems[0].fix


def test_an_unknown_secret_as_a_whole_is_told_too():
    _, problems = resolve({"envFrom": [{"secretRef": {"name": "api"}}]})
    assert [problem.path for problem in problems] == ["C.envFrom[0].secretRef"]
    assert "--secret api/KEY=VARIABLE" in problems[0].fix
