"""What a spec is rendered with, and what the condition Fits says of it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from tandem.blueprint.packed import pack, unpack
from tandem.blueprint.text import read_text
from tandem.controller.facts import Choice, Known, Pin, choose, pin_in, pinned_source, spec_hash
from tandem.controller.fits import judged
from tandem.controller.probes import finding_of
from tandem.manifests.build import build
from tests.unit.blueprint.configs import GOLDEN
from tests.unit.controller.samples import container, pod, unscheduled, waiting
from tests.unit.controller.world import World, model_deployment

ONE, OTHER = (read_text(json.dumps(each.config()), each.name) for each in GOLDEN[:2])
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
PACKED = pack(ONE)
KNOWN = Known(name="model", blueprint=ONE, packed=PACKED)
SOON = Known(name="model", reason="Probing", wait=3.0)
NEVER = Known(name="model", reason="Unschedulable", message="no node")


def choice(known, *, spec="b", pin=None, has_workers=True, observed=1):
    rendered = {"type": "Rendered", "status": "True", "observedGeneration": observed}
    status = {"conditions": [rendered], **({"blueprint": pin.as_status()} if pin else {})}
    return choose(
        known, spec=spec, status=status, generation=2, has_workers=has_workers, gpu_memory={"agg": 5}, recall=recall
    )


def recall(facts):
    return unpack(facts, "facts") if facts else None


def test_facts_that_are_there_are_used_and_pinned():
    found = choice(KNOWN)

    assert found.defaults is ONE
    assert found.pin == Pin(spec="b", name="model", digest=ONE.digest, facts=PACKED, gpu_memory={"agg": 5})
    assert found.is_new


def test_facts_that_may_come_are_waited_for():
    assert choice(SOON).wait == 3.0


def test_without_hope_it_is_rendered_without_facts():
    found = choice(NEVER)

    assert (found.wait, found.defaults, found.pin.digest, found.is_new) == (0, None, None, True)


def test_facts_that_come_late_only_judge():
    found = choice(KNOWN, pin=Pin(spec="b"))

    assert (found.defaults, found.late, found.is_new) == (None, ONE, False)


def test_another_spec_takes_what_is_known_by_then():
    assert choice(KNOWN, pin=Pin(spec="a")).defaults is ONE


def test_workers_that_an_older_operator_made_stay_as_they_are():
    assert choice(KNOWN, observed=2).late is ONE
    assert choice(KNOWN, observed=2, has_workers=False).defaults is ONE


def test_what_was_rendered_last_counts_before_the_status():
    known = {"spec": "b", "status": {}, "generation": 1, "has_workers": True, "gpu_memory": {}, "recall": recall}
    found = choose(KNOWN, **known, pinned=Pin(spec="b"))

    assert (found.defaults, found.late) == (None, ONE)


@pytest.mark.parametrize("known", [SOON, NEVER])
def test_facts_that_nobody_has_any_more_are_those_of_the_pin(known):
    pin = Pin(spec="b", digest=ONE.digest, facts=PACKED)

    assert choice(known, pin=pin) == Choice(pin=pin, defaults=ONE)


def test_a_pin_without_facts_as_older_operators_made_them_leaves_what_runs_and_gets_them():
    pin = Pin(spec="b", digest=ONE.digest)

    assert choice(NEVER, pin=pin).lost
    assert choice(KNOWN, pin=pin).pin.facts == PACKED


def test_the_same_files_read_by_a_later_version_roll_nothing():
    later = replace(KNOWN, blueprint=replace(ONE, max_seq_len=7), packed="other")
    pin = Pin(spec="b", digest=ONE.digest, facts=PACKED)

    found = choice(later, pin=pin)

    assert (found.defaults, found.pin.facts) == (ONE, PACKED)


def test_the_weights_of_a_named_blueprint_are_remembered_for_the_spec():
    source = {"pvc": {"claimName": "models", "path": "qwen"}}
    pin = choice(replace(KNOWN, source=source)).pin

    assert pinned_source(pin, "b") == source
    assert pinned_source(pin, "c") is None
    assert pinned_source(replace(pin, source="[" * 9000), "b") is None
    assert pinned_source(None, "b") is None


def test_a_model_that_was_read_anew_is_taken_as_it_is():
    found = choice(KNOWN, pin=Pin(spec="b", digest=OTHER.digest))

    assert (found.defaults, found.pin.digest, found.lost) == (ONE, ONE.digest, False)


def test_a_pin_is_read_as_it_was_written():
    pin = Pin(spec="b", name="model", digest="d", facts="f", source="{}", gpu_memory={"agg": 5})

    assert pin_in({"blueprint": pin.as_status()}) == pin
    assert pin_in({}) is None


def test_numbers_of_workers_are_no_other_spec():
    spec = {"model": {}, "roles": {"agg": {"replicas": 1, "parameters": {"maxSeqLen": 1}}}}
    scaled = {**spec, "replicas": 3, "overrideFits": True, "roles": {"agg": {**spec["roles"]["agg"], "replicas": 2}}}

    assert spec_hash(spec) == spec_hash(scaled)
    assert spec_hash(spec) != spec_hash({**spec, "backend": "vllm"})


@pytest.fixture(scope="module")
def misfit():
    limit = {"resources": {"limits": {"memory": "1Gi"}}}
    deployment = model_deployment(mode="agg", roles={"agg": limit})
    return build(deployment, blueprint=ONE, cluster=World().cluster).fits


def test_what_does_not_fit_holds_the_spec_back(misfit):
    found = judged(misfit, KNOWN, late=False, overridden=False)

    assert found.blocks
    assert (found.condition.status, found.condition.reason) == ("False", "DoesNotFit")
    assert "set spec.overrideFits: true" in found.condition.message


def test_an_override_lets_it_through(misfit):
    found = judged(misfit, KNOWN, late=False, overridden=True)

    assert not found.blocks
    assert found.condition.status == "False"


def test_what_was_known_too_late_holds_nothing_back(misfit):
    assert not judged(misfit, KNOWN, late=True, overridden=False).blocks


def test_what_is_not_known_is_told():
    found = judged((), NEVER, late=True, overridden=False)

    assert (found.condition.status, found.condition.reason, found.condition.message) == (
        "Unknown",
        "Unschedulable",
        "no node",
    )


def test_changed_content_is_told_beside_the_verdict(misfit):
    noted = replace(KNOWN, message="its content has changed")

    assert judged(misfit, noted, late=False, overridden=False).condition.message.endswith("its content has changed")


def ended(exit_code, *, reason="Error", message=""):
    terminated = {"exitCode": exit_code, "reason": reason, "message": message}
    return pod(phase="Failed", containerStatuses=[container(state={"terminated": terminated})])


@pytest.mark.parametrize(
    ("status", "stage", "reason"),
    [
        (ended(137, reason="OOMKilled"), "over", "ProbeFailed"),
        (ended(1, message=json.dumps({"refused": "no"})), "over", "Refused"),
        (ended(0, message=json.dumps({"facts": 5})), "over", "ProbeFailed"),
        (ended(0, message="[" * 4000), "over", "ProbeFailed"),
        (waiting("ErrImageNeverPull", "not present"), "stuck", "ErrImageNeverPull"),
    ],
)
def test_what_a_pod_tells(status, stage, reason):
    found = finding_of(status, NOW)

    assert (found.stage, found.reason, found.facts) == (stage, reason, "")


def test_a_pod_without_a_node_is_stuck():
    assert finding_of(unscheduled("0/1 nodes are available"), NOW).stage == "stuck"
