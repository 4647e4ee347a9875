"""Names: readable, within their limits, never shared by two deployments."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.manifests import names

LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
DEPLOYMENT = st.from_regex(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)
MAKERS = [
    lambda name: names.workers_name(name, "prefill", "0123abcd"),
    lambda name: names.config_name(name, "decode", "0123abcd"),
    lambda name: names.role_name(name, "decode"),
    names.router_name,
    names.worker_account,
    names.service_name,
]


@pytest.mark.parametrize("make", MAKERS)
@settings(max_examples=25, deadline=None)
@given(name=DEPLOYMENT)
def test_every_name_is_a_dns_label(make, name):
    assert LABEL.fullmatch(make(name))


@pytest.mark.parametrize("make", MAKERS)
def test_long_names_that_differ_at_the_end_stay_different(make):
    assert make("x" * 62 + "a") != make("x" * 62 + "b")


def test_short_names_are_kept_as_they_are():
    assert names.workers_name("qwen", "prefill", "0123abcd") == "qwen-prefill-0123abcd"
    assert names.router_name("qwen") == "qwen-router"
    assert names.worker_account("qwen") == "qwen-worker"
    assert names.service_name("qwen") == "qwen"


def test_a_shortened_name_keeps_role_and_revision():
    name = names.workers_name("x" * 63, "prefill", "0123abcd")

    assert len(name) == 63
    assert name.endswith("-prefill-0123abcd")


def test_labels_of_a_role():
    assert names.role_labels("qwen", "agg", "0123abcd") == {
        "app.kubernetes.io/name": "tandem",
        "app.kubernetes.io/instance": "qwen",
        "app.kubernetes.io/component": "agg",
        "app.kubernetes.io/managed-by": "tandem",
        "tandem.dev/deployment": "qwen",
        "tandem.dev/role": "agg",
        "tandem.dev/revision": "0123abcd",
        "llm-d.ai/role": "both",
    }


def test_a_selector_as_text():
    assert names.selector_text(names.role_selector("qwen", "decode")) == (
        "tandem.dev/deployment=qwen,tandem.dev/role=decode"
    )
