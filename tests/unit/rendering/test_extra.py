"""Arguments that are passed on as they are: what cannot be, and what has a better place."""

from __future__ import annotations

import click
import pytest

from tandem.api.problems import Refused
from tandem.manifests import Cluster, build
from tandem.rendering.extra import flag_name
from tandem_serve.cli import command as server
from tests.unit.manifests.deployments import deployment


@pytest.fixture
def built(library):
    cluster = Cluster(library=library)

    def make(arguments, backend="vllm", **parameters):
        roles = {"agg": {"extraArgs": arguments, "parameters": parameters}}
        return build(deployment(backend=backend, roles=roles), cluster=cluster)

    return make


def refusals(built, *arguments, **about):
    with pytest.raises(Refused) as refused:
        built(list(arguments), **about)
    return [(problem.path, problem.reason, problem.fix) for problem in refused.value.problems]


KNOWN = "Known: --dtype, --log-format, --log-level, --quantization, --stuck-seconds, --tool-call-format."


@pytest.mark.parametrize("argument", ["--max-num-seqs", "--max-num-seqs=8", "--max_num_seqs=8"])
def test_a_flag_of_a_parameter_with_a_value_is_refused_for_the_status_would_tell_another(built, argument):
    (found,) = refusals(built, argument, maxBatchSize=4)

    assert found == (
        "spec.roles.agg.extraArgs[0]",
        "maxBatchSize is 4 already, by user spec.roles.agg.parameters.maxBatchSize",
        "Give maxBatchSize in parameters instead.",
    )


def test_a_value_by_a_rule_counts_too(built):
    (found,) = refusals(built, "--max-num-seqs", "8", backend="torch")

    assert found[1].startswith("maxBatchSize is 16 already, by rule rules/torch.rule:")


def test_a_flag_that_stands_for_one_value_is_told_with_it(built):
    (found,) = refusals(built, "--enforce-eager", disableCudaGraph=False)

    assert found[2] == "Give disableCudaGraph: true in parameters instead."


def test_a_flag_of_a_parameter_without_a_value_is_passed_on_with_a_warning(built):
    result = built(["--enforce-eager"])

    (warning,) = [text for text in result.warnings if "extraArgs" in text]
    assert warning == (
        "spec.roles.agg.extraArgs[0]: --enforce-eager is that of a parameter: "
        "give disableCudaGraph: true in parameters, for rules and status"
    )


def test_a_reserved_flag_of_a_parameter_leads_to_that(built):
    (found,) = refusals(built, "--max_batch_size", "8", backend="trtllm", maxBatchSize=4)

    assert found[2] == "Give maxBatchSize in parameters instead."


@pytest.mark.parametrize(
    ("argument", "fix"),
    [
        ("--dtyp=auto", "Did you mean --dtype?"),
        ("--bogus", KNOWN),
        ("-x", KNOWN),
    ],
)
def test_an_argument_that_the_bundled_server_has_not_is_refused(built, argument, fix):
    assert refusals(built, argument, backend="torch") == [
        ("spec.roles.agg.extraArgs[0]", "the server has no such argument", fix)
    ]


def test_all_mistakes_in_arguments_are_told_in_one_round(built):
    found = refusals(built, "--port=1", "--bogus", "--max-num-seqs=8", backend="torch")

    assert [path for path, _, _ in found] == [f"spec.roles.agg.extraArgs[{index}]" for index in range(3)]


def test_the_table_of_the_bundled_server_names_all_its_arguments(library):
    table = library.table("torch", None)
    mapped = {entry.flag for entry in table.entries.values()} | {
        argument for entry in table.entries.values() for case in (entry.cases or {}).values() for argument in case
    }
    options = [each for each in server.params if isinstance(each, click.Option) and not each.hidden]

    named = table.reserved["agg"] | table.reserved["disagg"] | table.passed | (mapped - {None})
    assert {name for option in options for name in option.opts} - {"--version"} == named


@pytest.mark.parametrize("backend", ["vllm", "sglang", "trtllm"])
def test_engines_get_arguments_that_we_do_not_know(built, backend):
    assert built(["--of-tomorrow", "1"], backend=backend).objects


def test_values_are_no_flags():
    assert [flag_name(text) for text in ("8", "auto", "-")] == [None, None, None]
