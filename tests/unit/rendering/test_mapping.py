"""Mapping tables: every parameter has an answer, on every backend and version."""

import re

import pytest
import yaml

from tandem.api.problems import Refused
from tandem.data import data_dir
from tandem.rendering.library import load_library
from tandem.rendering.mapping import PARAMETER_NAMES, MappingError, Target, Unsupported, extend, parse_mapping

# Parameter, a value, and what it becomes on torch 1 and on vLLM 0.33.0 (None: refused).
TABLE = [
    ("tensor_parallel_size", 1, [], ["--tensor-parallel-size", "1"]),
    ("tensor_parallel_size", 4, None, ["--tensor-parallel-size", "4"]),
    ("pipeline_parallel_size", 2, None, ["--pipeline-parallel-size", "2"]),
    ("data_parallel_size", 2, None, ["--data-parallel-size", "2"]),
    ("enable_attention_dp", True, None, None),
    ("enable_expert_parallel", True, None, ["--enable-expert-parallel"]),
    ("enable_expert_parallel", False, [], ["--no-enable-expert-parallel"]),
    ("moe_expert_parallel_size", 2, None, None),
    ("moe_tensor_parallel_size", 2, None, None),
    ("kv_cache_dtype", "auto", [], ["--kv-cache-dtype", "auto"]),
    ("kv_cache_dtype", "fp8_e4m3", None, ["--kv-cache-dtype", "fp8_e4m3"]),
    ("kv_cache_dtype", "int8", None, ["--kv-cache-dtype", "int8_per_token_head"]),
    ("kv_cache_dtype", "float32", None, None),
    ("kv_cache_free_gpu_memory_fraction", 0.9, None, ["--gpu-memory-utilization", "0.9"]),
    ("kv_cache_max_tokens", 65536, ["--kv-cache-tokens", "65536"], None),
    ("tokens_per_block", 32, None, ["--block-size", "32"]),
    ("disable_prefix_cache", True, [], ["--no-enable-prefix-caching"]),
    ("disable_prefix_cache", False, None, ["--enable-prefix-caching"]),
    ("disable_cuda_graph", True, [], ["--enforce-eager"]),
    ("disable_cuda_graph", False, None, ["--no-enforce-eager"]),
    ("cuda_graph_batch_sizes", (1, 2, 8), None, ["--cudagraph-capture-sizes", "1", "2", "8"]),
    ("cuda_graph_enable_padding", True, None, []),
    ("cuda_graph_enable_padding", False, None, None),
    ("cuda_graph_max_batch_size", 64, None, ["--max-cudagraph-capture-size", "64"]),
    ("max_batch_size", 16, ["--max-num-seqs", "16"], ["--max-num-seqs", "16"]),
    ("enable_chunked_prefill", True, [], ["--enable-chunked-prefill"]),
    ("enable_chunked_prefill", False, None, ["--no-enable-chunked-prefill"]),
    ("max_prefill_tokens", 100, None, None),
    ("max_num_tokens", 2048, ["--max-num-batched-tokens", "2048"], ["--max-num-batched-tokens", "2048"]),
    ("max_seq_len", 4096, ["--max-model-len", "4096"], ["--max-model-len", "4096"]),
    ("moe_backend", "triton", None, ["--moe-backend", "triton"]),
    ("moe_backend", "nonsense", None, None),
    ("moe_all2all_backend", "deepep_low_latency", None, ["--all2all-backend", "deepep_low_latency"]),
    ("kv_transfer_backend", "http", [], None),
    ("kv_transfer_backend", "nixl", None, []),
    ("disaggregation_bootstrap_port", 5700, None, "VLLM_NIXL_SIDE_CHANNEL_PORT=5700"),
    ("attention_backend", "FLASHINFER", None, ["--attention-backend", "FLASHINFER"]),
    ("elastic_ep_backend", "x", None, None),
    ("speculative_decoding_type", "ngram", None, None),
    ("disable_overlap_scheduler", True, [], ["--no-async-scheduling"]),
    ("disable_overlap_scheduler", False, None, ["--async-scheduling"]),
    ("moe_load_balancer", "x", None, None),
    ("skip_tokenizer_init", True, None, None),
    ("skip_tokenizer_init", False, [], []),
    ("trust_remote_code", True, ["--trust-remote-code"], ["--trust-remote-code"]),
    ("trust_remote_code", False, [], ["--no-trust-remote-code"]),
]
SHIPPED = [("torch", "1"), ("vllm", "0.32.0"), ("vllm", "0.33.0")]


def shown(target):
    if isinstance(target, Unsupported):
        return None
    return "".join(f"{name}={value}" for name, value in target.environment) or list(target.arguments)


@pytest.mark.parametrize(("name", "value", "torch", "vllm"), TABLE)
def test_s0_10_each_parameter_becomes_its_flag_or_is_unsupported(library, name, value, torch, vllm):
    assert shown(library.table("torch", "1").entries[name].target(value, "disagg")) == torch
    for version in ("0.33.0", "0.32.0"):
        assert shown(library.table("vllm", version).entries[name].target(value, "disagg")) == vllm


def test_the_table_above_speaks_of_every_parameter():
    assert {name for name, *_ in TABLE} == set(PARAMETER_NAMES)


@pytest.mark.parametrize(("backend", "version"), SHIPPED)
def test_every_refusal_says_why_and_what_to_do(library, backend, version):
    for entry in library.table(backend, version).entries.values():
        assert len(entry.otherwise.reason) > 10
        assert entry.otherwise.fix.endswith(".")


@pytest.mark.parametrize("name", ["kv_transfer_backend", "disaggregation_bootstrap_port"])
def test_a_parameter_of_disaggregation_is_refused_in_mode_agg(library, name):
    target = library.table("vllm", None).entries[name].target("nixl", "agg")

    assert isinstance(target, Unsupported)
    assert "mode disagg only" in target.reason


def test_a_value_that_becomes_something_near_to_it_says_so(library):
    target = library.table("vllm", None).entries["kv_cache_dtype"].target("int8", "agg")

    assert isinstance(target, Target)
    assert target.note == "vLLM keeps a scale per token and head with it"


def test_s0_1_data_directories_hold_no_python():
    found = [entry.name for name in ("templates", "rules") for entry in _walk(data_dir(name))]

    assert found
    assert not [name for name in found if not re.search(r"\.(yaml|j2|rule)$", name)]


def _walk(directory):
    for entry in directory.iterdir():
        yield from _walk(entry) if entry.is_dir() else [entry]


def minimal(**changes):
    whole = {"backend": "b", "version": "1", "lineage": ["1"], "image": "i", "command": ["c"]}
    return whole | {"parameters": dict.fromkeys(PARAMETER_NAMES, "--flag")} | changes


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ([], "a mapping file has the keys"),
        (minimal(bogus=1), "a mapping file has the keys"),
        ({"backend": "b"}, "the keys version, image, command, parameters are missing"),
        (minimal(parameters={"max_batch_size": "--x"}), "says nothing about ['tensor_parallel_size'"),
        (minimal(parameters=minimal()["parameters"] | {"zebra": "--x"}), "knows ['zebra'], which do not exist"),
        (minimal(parameters=minimal()["parameters"] | {"moe_backend": {}}), "parameters.moe_backend: exactly one of"),
        (minimal(parameters=minimal()["parameters"] | {"moe_backend": {"flg": 1}}), "parameters.moe_backend: an entry"),
        (
            minimal(parameters=minimal()["parameters"] | {"moe_backend": {"flag": "--x", "env": "X"}}),
            "parameters.moe_backend: exactly one of",
        ),
    ],
)
def test_a_malformed_table_is_refused(document, reason):
    with pytest.raises(MappingError, match=re.escape(reason)):
        parse_mapping(document)


def test_a_table_takes_from_the_one_it_extends_what_it_does_not_say():
    old = minimal(version="1", parameters={"max_batch_size": "--a", "max_seq_len": "--b"})
    new = {"extends": "1", "version": "2", "parameters": {"max_seq_len": "--c"}}

    merged = extend("2", {"1": old, "2": new})

    assert merged["version"] == "2"
    assert merged["image"] == "i"
    assert merged["lineage"] == ["2", "1"]
    assert merged["parameters"] == {"max_batch_size": "--a", "max_seq_len": "--c"}


@pytest.mark.parametrize("documents", [{"2": {"extends": "1"}}, {"2": {"extends": "2"}}])
def test_a_table_that_extends_nothing_or_itself_is_refused(documents):
    with pytest.raises(MappingError, match="cannot be extended"):
        extend("2", documents)


@pytest.mark.parametrize(
    ("name", "text", "where", "reason"),
    [
        ("mapping.1.yaml", "a: [", "templates/b/mapping.1.yaml", "malformed mapping file"),
        ("mapping.1.yaml", "[]", "templates/b/mapping.1.yaml", "cannot be extended"),
        ("mapping.2.yaml", yaml.safe_dump(minimal(lineage=[])), "templates/b/mapping.2.yaml", "the file's name says"),
        ("mapping.1.yaml", yaml.safe_dump(minimal()), "templates/b", "exactly one mapping must say preferred"),
        ("cli_args.1.j2", "- {{", "templates/b/cli_args.1.j2:1", "malformed template"),
    ],
)
def test_a_broken_data_file_is_named(tmp_path, name, text, where, reason):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / name).write_text(text)

    with pytest.raises(Refused) as refused:
        load_library(templates_dir=tmp_path)

    assert str(refused.value).startswith(f"{where}: ")
    assert reason in str(refused.value)
