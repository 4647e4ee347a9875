"""What a ModelBlueprint's status says of the text that its spec names."""

import json

import pytest

from tandem.api.problems import Refused
from tandem.blueprint.text import read_text
from tandem.controller.blueprint_status import facts_of as status_of
from tandem.controller.blueprint_status import kept
from tests.unit.blueprint.configs import DEEPSEEK_V3, GOLDEN, LLAMA4, NEMOTRON_NANO, gemma3


def facts_of(document, budget, previous):
    return status_of(read_text(json.dumps(document), "spec.from.inline"), "spec.from.inline", budget, previous)


def test_facts_and_a_summary():
    facts, (parsed,) = facts_of(DEEPSEEK_V3, {}, {})

    assert facts["totalParams"] == 671_026_419_200
    assert facts["activeParams"] == 37_552_297_472
    assert facts["kv"] == {"kind": "latent", "bytesPerToken": 70_272}
    assert facts["maxSeqLen"] == 163_840
    assert facts["weightBytes"]["bfloat16"] == 2 * 671_026_404_352 + 4 * 14_848
    assert (parsed.type, parsed.status) == ("Parsed", "True")
    assert "671,026,419,200 parameters, 37,552,297,472 per token" in parsed.message


def test_parts_that_are_not_counted_are_named():
    assert facts_of(LLAMA4, {}, {})[1][0].message.endswith("its other parts (vision) are not counted")
    assert "not counted" not in facts_of(gemma3(2560, 34, 8, 4, 10240), {}, {})[1][0].message


@pytest.mark.parametrize(
    ("document", "kind"),
    [(GOLDEN[0].config(), "heads"), (gemma3(2560, 34, 8, 4, 10240), "windows"), (NEMOTRON_NANO, "hybrid")],
    ids=["heads", "windows", "hybrid"],
)
def test_the_kind_of_cache(document, kind):
    assert facts_of(document, {}, {})[0]["kv"]["kind"] == kind


def test_s3_04_a_model_above_its_budget_says_so_with_numbers():
    _, (_, within) = facts_of(GOLDEN[0].config(), {"maxParams": 10**9}, {})

    assert (within.type, within.status, within.reason) == ("WithinBudget", "False", "OverBudget")
    assert "the model has 8030261248 parameters (got 1000000000)" in within.message


def test_a_model_within_its_budget():
    _, (_, within) = facts_of(GOLDEN[0].config(), {"maxParams": 10**10, "maxContext": 131072}, {})

    assert (within.type, within.status) == ("WithinBudget", "True")


def test_an_unknown_architecture_says_what_to_do():
    with pytest.raises(Refused) as refused:
        facts_of({"model_type": "mine"}, {}, {})

    assert str(refused.value).startswith("spec.from.inline: model_type: ")
    assert "declare what you know" in str(refused.value)


def test_declared_numbers_are_facts():
    declared = {"schema_version": 1, "total_params": 5, "weight_bytes": 10, "max_seq_len": 99}
    facts, (parsed,) = facts_of(declared, {}, {})

    assert (facts["totalParams"], facts["maxSeqLen"], parsed.status) == (5, 99, "True")
    assert "kv" not in facts


def test_content_that_changes_is_told_and_facts_stay():
    first, _ = facts_of(GOLDEN[0].config(), {}, {})
    facts, (parsed,) = facts_of(GOLDEN[1].config(), {}, first)

    assert facts == first == kept({**first, "conditions": []})
    assert (parsed.status, parsed.reason) == ("False", "ContentChanged")
    assert first["digest"][:12] in parsed.message
