"""The guide to rules and templates: its examples run, its tables are what the code says."""

import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from pydantic.alias_generators import to_camel

from tandem.api.load import parse_resource
from tandem.cli.app import root
from tandem.manifests import Cluster, build
from tandem.rendering.library import load_library
from tandem.rendering.operations import FUNCTIONS
from tandem.rendering.rules import parse_rules
from tandem.rendering.values import as_text
from tandem.rendering.vocabulary import CONTEXT_NAMES
from tests.unit.rendering.test_rules_shipped import BENCHMARK_CHANGES

GUIDE = (Path(__file__).parents[3] / "docs" / "rules.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def cluster():
    return Cluster(library=load_library())


def block(name):
    """The code block of an example."""
    return re.search(rf"<!-- example: {name} -->\n```\w*\n(.*?)```", GUIDE, re.DOTALL)[1]


def table(name):
    """The rows of a table, without their backticks."""
    rows = re.search(rf"<!-- {name} -->\n\|.*\n\|[-|]+\n((?:\|.*\n)+)", GUIDE)[1]
    return [tuple(cell.strip() for cell in row.strip("|").split("|")) for row in rows.splitlines()]


def words(cell):
    return set(re.findall(r"`([^`]+)`", cell))


def deployment(**changes):
    document = yaml.safe_load(block("deployment"))
    return parse_resource({**document, "spec": {**document["spec"], **changes}})


def test_s0_37_the_worked_example_is_what_happens(cluster):
    found = {
        (item.role, to_camel(item.name), as_text(item.value), item.source, item.detail, " ".join(item.arguments))
        for item in build(deployment(), cluster=cluster).parameters
    }

    assert found == set(table("example: values"))


def test_the_trace_of_the_example_is_what_explain_prints(tmp_path):
    file = tmp_path / "deployment.yaml"
    file.write_text(block("deployment"))

    done = CliRunner().invoke(root, ["explain", "-f", str(file), "maxNumTokens"])

    assert done.exit_code == 0
    assert block("explain maxNumTokens") in done.output


def test_the_example_of_rules_is_a_rule_file():
    assert len(parse_rules(block("rules"), "guide").lines) == 4


def test_the_table_of_names_is_complete():
    assert set().union(*(words(row[0]) for row in table("names"))) == set(CONTEXT_NAMES)


def test_the_list_of_functions_is_complete():
    assert set(re.search(r"\| functions \| `([^`]+)`", GUIDE)[1].split()) == set(FUNCTIONS)


def test_s0_38_the_guide_names_what_the_benchmark_set_changes():
    assert {row[0]: words(row[1]) for row in table("benchmark")} == BENCHMARK_CHANGES


def test_s0_15_rules_of_ones_own_come_from_a_config_map(cluster):
    data = yaml.safe_load(block("rules of your own"))["data"]
    mine = Cluster(library=cluster.library, rules=data)

    built = build(deployment(rules={"configMapRef": {"name": "my-rules"}}), cluster=mine)

    assert [hit.location for hit in built.rule_trace] == ["ConfigMap my-rules/vllm.rule:1"]


@pytest.mark.parametrize(("length", "chunked"), [(None, False), (8192, False), (8193, True)])
def test_s0_41_the_example_of_a_template_renders_with_and_without_a_value(cluster, length, chunked):
    texts = {"cli_args.0.33.0.j2": block("template")}
    mine = Cluster(library=cluster.library, templates=texts)
    parameters = {} if length is None else {"maxSeqLen": length}

    built = build(deployment(parameters=parameters, templates={"configMapRef": {"name": "t"}}), cluster=mine)

    pods = [item["spec"]["template"]["spec"] for item in built.objects if item["kind"] == "Deployment"]
    arguments = [pod["containers"][0].get("args", []) for pod in pods]
    assert ("--enable-chunked-prefill" in arguments[0]) is chunked
