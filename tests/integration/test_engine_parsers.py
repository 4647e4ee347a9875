"""An engine's own parser takes what is rendered for its version: runs where vLLM or SGLang can be imported."""

from __future__ import annotations

import argparse
import importlib.metadata
from importlib.util import find_spec
from typing import Any

import pytest

from tandem.manifests import Cluster
from tandem.rendering.library import load_library
from tests.golden import CASES, built, deployment_of

pytestmark = pytest.mark.integration
# What LeaderWorkerSet and the kubelet put in.
VARIABLES = {"$(LWS_GROUP_SIZE)": "2", "$(LWS_WORKER_INDEX)": "1", "$(LWS_LEADER_ADDRESS)": "leader", "$$": "$"}


def vllm_parser() -> Any:
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    try:
        from vllm.entrypoints.common.cli_args import make_arg_parser
    except ModuleNotFoundError:  # until 0.32
        from vllm.entrypoints.launchers.cli_args import make_arg_parser
    return make_arg_parser(FlexibleArgumentParser(exit_on_error=False))


def sglang_parser() -> Any:
    from sglang.srt.server_args import ServerArgs

    parser = argparse.ArgumentParser(exit_on_error=False)
    ServerArgs.add_cli_args(parser)
    return parser


PARSERS = {"vllm": vllm_parser, "sglang": sglang_parser}


def arguments(build: Any) -> list[list[str]]:
    """The server's arguments in each pod template of the workers."""
    found = []
    for item in build.objects:
        spec = item.get("spec", {})
        groups = spec.get("leaderWorkerTemplate", {})
        templates = [spec.get("template"), groups.get("leaderTemplate"), groups.get("workerTemplate")]
        if "tandem.dev/role" in item["metadata"]["labels"]:
            found += [template["spec"]["containers"][0]["args"] for template in templates if template]
    return [[expanded(text) for text in each] for each in found]


def expanded(text: str) -> str:
    for name, value in VARIABLES.items():
        text = text.replace(name, value)
    return text


@pytest.mark.parametrize("backend", PARSERS)
def test_the_engines_own_parser_takes_every_golden_case(backend):
    if find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    version = importlib.metadata.version(backend).split("+")[0]
    library = load_library()
    if version not in library.tables[backend]:
        pytest.skip(f"{backend} {version} has no table")
    parser = PARSERS[backend]()
    cases = [case for case in CASES if deployment_of(case).spec.backend == backend]

    for case in cases:
        for given in arguments(built(case, Cluster(library=library))):
            parser.parse_args(given)

    assert cases
