"""From a ModelDeployment to tokens, in both modes, on real pods under the restricted Pod Security Standard."""

from __future__ import annotations

import pytest

from demo.passages import passages, prompt_of, rest_of
from tests.e2e.workspace import SMALL, Workspace, condition_of, model_deployment, uids

pytestmark = pytest.mark.e2e

AGG, PAIR = "story", "pair"
LIMITS = {"maxNewTokens": 200}
# The number format is what prefill and decode have to agree on: naming it makes a new revision of the same text.
EXACT = {"resources": SMALL, "extraArgs": ["--dtype", "float32"]}


@pytest.fixture(scope="module")
def aggregated(workspace: Workspace) -> str:
    workspace.apply(model_deployment(AGG))
    workspace.wait_ready(AGG)
    return AGG


@pytest.fixture(scope="module")
def disaggregated(workspace: Workspace, aggregated: str) -> str:
    workspace.apply(model_deployment(PAIR, mode="disagg"))
    workspace.wait_ready(PAIR)
    return PAIR


def test_aggregated_deployment_recites_word_for_word(workspace: Workspace, aggregated: str) -> None:
    workspace.assert_recites(aggregated, passages())


def test_kv_is_transferred_and_not_computed_again(workspace: Workspace, disaggregated: str) -> None:
    # Before anything else is asked: what decode has from earlier prompts is not fetched again.
    (prefill,), (decode,) = (workspace.pods(disaggregated, role) for role in ("prefill", "decode"))
    before = workspace.metrics(prefill), workspace.metrics(decode)
    workspace.assert_recites(disaggregated, passages()[1:2])
    after = workspace.metrics(prefill), workspace.metrics(decode)

    def grown(worker: int, name: str) -> float:
        return after[worker].get(name, 0.0) - before[worker].get(name, 0.0)

    sent = grown(0, 'tandem_kv_transfer_bytes_total{direction="sent"}')
    received = grown(1, 'tandem_kv_transfer_bytes_total{direction="received"}')
    computed = grown(1, 'tandem_prompt_tokens_total{source="computed"}')
    transferred = grown(1, 'tandem_prompt_tokens_total{source="transferred"}')
    assert sent == received > 0
    assert transferred > 10
    assert computed <= 1
    assert grown(1, "tandem_local_prefill_fallbacks_total") == 0


def test_disaggregated_deployment_recites_word_for_word(workspace: Workspace, disaggregated: str) -> None:
    workspace.assert_recites(disaggregated, passages())


def test_streaming_chat_comes_through_the_service(workspace: Workspace, disaggregated: str) -> None:
    text = passages()[0]
    body = {
        "model": disaggregated,
        "messages": [{"role": "user", "content": prompt_of(text)}],
        "max_tokens": 160,
        "temperature": 0,
        "stream": True,
    }
    (answer,) = workspace.post(disaggregated, "/v1/chat/completions", body)
    assert answer.status == 200, answer.text
    assert answer.streamed_chat() == rest_of(text)


def test_status_tells_address_and_counts(workspace: Workspace, disaggregated: str) -> None:
    found = workspace.get("modeldeployment", disaggregated)["status"]
    assert found["endpoint"] == f"http://{disaggregated}.{workspace.namespace}.svc.cluster.local:8000"
    assert {name: (role["desired"], role["ready"]) for name, role in found["roles"].items()} == {
        "prefill": (1, 1),
        "decode": (1, 1),
    }
    assert "rootCause" not in found


def test_namespace_enforces_the_restricted_standard(workspace: Workspace, disaggregated: str) -> None:
    found = workspace.cluster.get("namespace", workspace.namespace)["metadata"]["labels"]
    assert found["pod-security.kubernetes.io/enforce"] == "restricted"
    roles = {pod["metadata"]["labels"].get("tandem.dev/role", "router") for pod in workspace.pods(disaggregated)}
    assert roles == {"prefill", "decode", "router"}


def test_scaling_by_kubectl_changes_the_generating_role_alone(workspace: Workspace, disaggregated: str) -> None:
    before = uids(workspace.pods(disaggregated))
    workspace.scale(disaggregated, 2)
    workspace.wait_settled(disaggregated)
    assert len(workspace.pods(disaggregated, "decode")) == 2
    assert before.items() <= uids(workspace.pods(disaggregated)).items()
    workspace.scale(disaggregated, 1)
    workspace.wait_settled(disaggregated)
    assert len(workspace.pods(disaggregated, "decode")) == 1
    workspace.assert_recites(disaggregated)


def test_killed_worker_is_replaced_and_serves_again(workspace: Workspace, disaggregated: str) -> None:
    (decode,) = workspace.pods(disaggregated, "decode")
    workspace.kill(decode)
    workspace.wait_until(
        lambda: (
            decode["metadata"]["uid"] not in uids(workspace.pods(disaggregated, "decode")).values()
            and len(workspace.pods(disaggregated, "decode")) == 1
        ),
        "another decode pod is there",
    )
    workspace.wait_settled(disaggregated)
    workspace.assert_recites(disaggregated)


def test_rolling_edit_under_constant_traffic_fails_no_request(workspace: Workspace, aggregated: str) -> None:
    before, revision = uids(workspace.pods(aggregated, "agg")), workspace.revision(aggregated)
    with workspace.traffic(aggregated) as result:
        workspace.apply(model_deployment(aggregated, limits=LIMITS))
        workspace.wait_settled(aggregated)
    assert result["failures"] == []
    assert result["sent"] > 25
    assert not before.items() & uids(workspace.pods(aggregated, "agg")).items()
    assert workspace.revision(aggregated) == revision


def test_new_revision_under_constant_traffic_fails_no_request(workspace: Workspace, disaggregated: str) -> None:
    before, revision = uids(workspace.pods(disaggregated)), workspace.revision(disaggregated)
    with workspace.traffic(disaggregated) as result:
        workspace.apply(model_deployment(disaggregated, mode="disagg", roles={"prefill": EXACT, "decode": EXACT}))
        workspace.wait_settled(disaggregated)
    assert result["failures"] == []
    assert result["sent"] > 25
    left = before.items() & uids(workspace.pods(disaggregated)).items()
    assert {"router" in name for name, _ in left} == {True}
    assert workspace.revision(disaggregated) != revision


def test_router_roll_under_constant_traffic_fails_no_request(workspace: Workspace, aggregated: str) -> None:
    # A router rolls in a few seconds: more requests than elsewhere fall into them.
    routers = [pod for pod in uids(workspace.pods(aggregated)).items() if "router" in pod[0]]
    with workspace.traffic(aggregated, rate=10) as result:
        router = {"resources": SMALL, "policy": "roundRobin"}
        workspace.apply(model_deployment(aggregated, limits=LIMITS, router=router))
        workspace.wait_settled(aggregated)
        workspace.wait_until(
            lambda: not set(routers) & set(uids(workspace.pods(aggregated)).items()), "the router is another one"
        )
    assert result["failures"] == []
    assert result["sent"] > 25


def test_switch_to_disaggregated_mode_leaves_nothing_of_the_old(workspace: Workspace, aggregated: str) -> None:
    workspace.apply(model_deployment(aggregated, mode="disagg"))
    workspace.wait_settled(aggregated)
    assert workspace.pods(aggregated, "agg") == []
    assert condition_of(workspace.get("modeldeployment", aggregated), "AggReady") == {}
    workspace.assert_recites(aggregated)
