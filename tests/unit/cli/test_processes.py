"""How the long-running commands turn options into settings; the processes themselves are tested where they live."""

from pathlib import Path

import pytest

from tandem.cli import operator, router
from tandem.cli.app import run
from tandem.gateway import server
from tandem.gateway.settings import RouterSettings

ROUTER = ["router", "--deployment", "d", "--backend", "torch", "--mode", "disagg", "--served-model-name", "m"]


@pytest.fixture
def given(monkeypatch):
    """Stands in for the two processes and keeps what they were started with."""
    kept: list[object] = []
    monkeypatch.setattr(server, "run", kept.append)
    monkeypatch.setattr(operator, "run", kept.append)
    return kept


def test_every_setting_of_the_router_is_an_option_with_its_default(given):
    assert run([*ROUTER, "--namespace", "ml"]) == 0
    assert given == [
        RouterSettings(deployment="d", backend="torch", mode="disagg", served_model_name="m", namespace="ml")
    ]
    named = {option.name for option in router.command.params}
    assert named >= set(RouterSettings.__dataclass_fields__)


def test_options_of_the_router_reach_it(given):
    assert (
        run([*ROUTER, "--endpoints-file", "/e.json", "--port", "0", "--policy", "roundRobin", "--drain-seconds", "0"])
        == 0
    )
    (settings,) = given
    assert (settings.endpoints_file, settings.port, settings.policy) == (Path("/e.json"), 0, "roundRobin")
    assert settings.drain_seconds == 0


def test_a_router_that_cannot_work_is_refused(given, capsys):
    assert run(ROUTER) == 1
    assert "exactly one of --namespace and --endpoints-file" in capsys.readouterr().err
    assert given == []


def test_the_operator_gets_what_the_chart_passes(given):
    arguments = [
        *("--watch-namespace=a", "--watch-namespace=b", "--leader-election", "--lease-namespace=system"),
        *("--lease-name=tandem", "--cluster-domain=corp.local", "--router-image=r:1", "--worker-image=torch=w:1"),
        *("--worker-image=vllm=v:1", "--health-port=8080", "--log-level=debug", "--gpus-per-node=4"),
    ]
    assert run(["operator", *arguments]) == 0
    (settings,) = given
    assert settings.namespaces == ("a", "b")
    assert (settings.leader_election.namespace, settings.leader_election.name) == ("system", "tandem")
    assert (settings.router_image, settings.images) == ("r:1", {"torch": "w:1", "vllm": "v:1"})
    assert (settings.cluster_domain, settings.health_port, settings.log_level) == ("corp.local", 8080, "debug")
    assert settings.gpus_per_node == 4


def test_by_default_the_operator_works_in_all_namespaces_without_election(given):
    assert run(["operator"]) == 0
    (settings,) = given
    assert settings.namespaces is None
    assert settings.leader_election is None


def test_the_lease_is_in_the_pods_namespace_unless_told_otherwise(given, monkeypatch, capsys):
    monkeypatch.delenv("POD_NAMESPACE", raising=False)
    assert run(["operator", "--leader-election"]) == 1
    assert "--lease-namespace" in capsys.readouterr().err
    monkeypatch.setenv("POD_NAMESPACE", "system")
    assert run(["operator", "--leader-election"]) == 0
    assert given[0].leader_election.namespace == "system"
