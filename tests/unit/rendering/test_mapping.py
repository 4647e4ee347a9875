"""Mapping tables: every parameter has an answer, on every backend and version."""

import re

import pytest

from tandem.data import data_dir
from tandem.rendering.mapping import PARAMETER_NAMES, Target, Unsupported

# Parameter, a value, and what it becomes on torch, vLLM, SGLang and TensorRT-LLM (None: refused).
TABLE = [
    ("tensor_parallel_size", 1, "", "--tensor-parallel-size 1", "--tp-size 1", "tensor_parallel_size=1"),
    ("tensor_parallel_size", 4, None, "--tensor-parallel-size 4", "--tp-size 4", "tensor_parallel_size=4"),
    ("pipeline_parallel_size", 2, None, "--pipeline-parallel-size 2", "--pp-size 2", "pipeline_parallel_size=2"),
    ("data_parallel_size", 1, "", "--data-parallel-size 1", "--dp-size 1", ""),
    ("data_parallel_size", 2, None, "--data-parallel-size 2", "--dp-size 2", None),
    ("enable_attention_dp", True, None, None, "--enable-dp-attention", "enable_attention_dp=true"),
    ("enable_attention_dp", False, "", None, "", "enable_attention_dp=false"),
    ("enable_expert_parallel", True, None, "--enable-expert-parallel", None, None),
    ("enable_expert_parallel", False, "", "--no-enable-expert-parallel", "", ""),
    ("moe_expert_parallel_size", 2, None, None, "--ep-size 2", "moe_expert_parallel_size=2"),
    ("moe_tensor_parallel_size", 2, None, None, None, "moe_tensor_parallel_size=2"),
    ("kv_cache_dtype", "auto", "", "--kv-cache-dtype auto", "--kv-cache-dtype auto", "kv_cache_config.dtype=auto"),
    ("kv_cache_dtype", "fp8", None, "--kv-cache-dtype fp8", "--kv-cache-dtype fp8_e5m2", "kv_cache_config.dtype=fp8"),
    (
        "kv_cache_dtype",
        "fp8_e4m3",
        None,
        "--kv-cache-dtype fp8_e4m3",
        "--kv-cache-dtype fp8_e4m3",
        "kv_cache_config.dtype=fp8",
    ),
    ("kv_cache_dtype", "fp8_e5m2", None, "--kv-cache-dtype fp8_e5m2", "--kv-cache-dtype fp8_e5m2", None),
    ("kv_cache_dtype", "bfloat16", None, "--kv-cache-dtype bfloat16", "--kv-cache-dtype bfloat16", None),
    ("kv_cache_dtype", "float16", None, "--kv-cache-dtype float16", None, None),
    ("kv_cache_dtype", "int8", None, "--kv-cache-dtype int8_per_token_head", None, None),
    ("kv_cache_dtype", "float32", None, None, None, None),
    (
        "kv_cache_free_gpu_memory_fraction",
        0.9,
        None,
        "--gpu-memory-utilization 0.9",
        "--mem-fraction-static 0.9",
        "kv_cache_config.free_gpu_memory_fraction=0.9",
    ),
    (
        "kv_cache_max_tokens",
        65536,
        "--kv-cache-tokens 65536",
        None,
        "--max-total-tokens 65536",
        "kv_cache_config.max_tokens=65536",
    ),
    ("tokens_per_block", 16, "", "--block-size 16", "--page-size 16", "kv_cache_config.tokens_per_block=16"),
    ("tokens_per_block", 32, None, "--block-size 32", "--page-size 32", "kv_cache_config.tokens_per_block=32"),
    (
        "disable_prefix_cache",
        True,
        "--disable-prefix-cache",
        "--no-enable-prefix-caching",
        "--disable-radix-cache",
        "kv_cache_config.enable_block_reuse=false",
    ),
    ("disable_prefix_cache", False, "", "--enable-prefix-caching", "", "kv_cache_config.enable_block_reuse=true"),
    (
        "disable_cuda_graph",
        True,
        "--disable-cuda-graphs",
        "--enforce-eager",
        "--cuda-graph-backend-decode disabled --cuda-graph-backend-prefill disabled",
        "cuda_graph_config=null",
    ),
    ("disable_cuda_graph", False, "", "--no-enforce-eager", "", ""),
    (
        "cuda_graph_batch_sizes",
        (1, 2, 8),
        None,
        "--cudagraph-capture-sizes 1 2 8",
        "--cuda-graph-bs-decode 1 2 8",
        "cuda_graph_config.batch_sizes=1,2,8",
    ),
    ("cuda_graph_enable_padding", True, None, "", "", "cuda_graph_config.enable_padding=true"),
    (
        "cuda_graph_enable_padding",
        False,
        None,
        None,
        "--disable-cuda-graph-padding",
        "cuda_graph_config.enable_padding=false",
    ),
    (
        "cuda_graph_max_batch_size",
        64,
        None,
        "--max-cudagraph-capture-size 64",
        "--cuda-graph-max-bs-decode 64",
        "cuda_graph_config.max_batch_size=64",
    ),
    ("max_batch_size", 16, "--max-num-seqs 16", "--max-num-seqs 16", "--max-running-requests 16", "max_batch_size=16"),
    ("enable_chunked_prefill", True, "", "--enable-chunked-prefill", "", "enable_chunked_prefill=true"),
    (
        "enable_chunked_prefill",
        False,
        None,
        "--no-enable-chunked-prefill",
        "--chunked-prefill-size -1",
        "enable_chunked_prefill=false",
    ),
    ("max_prefill_tokens", 100, None, None, "--max-prefill-tokens 100", None),
    (
        "max_num_tokens",
        2048,
        "--max-num-batched-tokens 2048",
        "--max-num-batched-tokens 2048",
        "--chunked-prefill-size 2048",
        "max_num_tokens=2048",
    ),
    (
        "max_seq_len",
        4096,
        "--max-model-len 4096",
        "--max-model-len 4096",
        "--context-length 4096",
        "max_seq_len=4096 cache_transceiver_config.max_tokens_in_buffer=4096",
    ),
    ("moe_backend", "triton", None, "--moe-backend triton", "--moe-runner-backend triton", "moe_config.backend=TRITON"),
    ("moe_backend", "nonsense", None, None, None, None),
    ("moe_all2all_backend", "deepep_low_latency", None, "--all2all-backend deepep_low_latency", None, None),
    ("moe_all2all_backend", "deepep", None, None, "--moe-a2a-backend deepep", None),
    ("kv_transfer_backend", "http", "", None, None, None),
    (
        "kv_transfer_backend",
        "nixl",
        None,
        "",
        "--disaggregation-transfer-backend nixl",
        "cache_transceiver_config.backend=NIXL",
    ),
    (
        "kv_transfer_backend",
        "mooncake",
        None,
        None,
        "--disaggregation-transfer-backend mooncake",
        "cache_transceiver_config.backend=MOONCAKE",
    ),
    (
        "disaggregation_bootstrap_port",
        5700,
        None,
        "VLLM_NIXL_SIDE_CHANNEL_PORT=5700",
        "--disaggregation-bootstrap-port 5700",
        None,
    ),
    ("attention_backend", "FLASHINFER", None, "--attention-backend FLASHINFER", None, "attn_backend=FLASHINFER"),
    ("attention_backend", "flashinfer", None, None, "--attention-backend flashinfer", "attn_backend=FLASHINFER"),
    ("elastic_ep_backend", "mooncake", None, None, "--elastic-ep-backend mooncake", None),
    ("speculative_decoding_type", "ngram", None, None, "--speculative-algorithm NGRAM", None),
    ("speculative_decoding_type", "mtp", None, None, None, "speculative_config.decoding_type=MTP"),
    (
        "disable_overlap_scheduler",
        True,
        "",
        "--no-async-scheduling",
        "--disable-overlap-schedule",
        "disable_overlap_scheduler=true",
    ),
    ("disable_overlap_scheduler", False, None, "--async-scheduling", "", "disable_overlap_scheduler=false"),
    ("moe_load_balancer", "eplb", None, None, "--enable-eplb", None),
    ("skip_tokenizer_init", True, None, None, None, None),
    ("skip_tokenizer_init", False, "", "", "", ""),
    (
        "trust_remote_code",
        True,
        "--trust-remote-code",
        "--trust-remote-code",
        "--trust-remote-code",
        "trust_remote_code=true",
    ),
    ("trust_remote_code", False, "", "--no-trust-remote-code", "", "trust_remote_code=false"),
]
BACKENDS = ("torch", "vllm", "sglang", "trtllm")
SHIPPED = [
    ("torch", "1"),
    *(("vllm", version) for version in ("0.32.0", "0.33.0")),
    *(("sglang", version) for version in ("0.5.22", "0.5.23")),
    *(("trtllm", version) for version in ("1.2.1", "1.3.0rc27")),
]


def shown(target):
    return None if isinstance(target, Unsupported) else " ".join(target.shown)


@pytest.mark.parametrize(("name", "value", "expected"), [(name, value, expected) for name, value, *expected in TABLE])
@pytest.mark.parametrize(("backend", "version"), SHIPPED)
def test_s0_10_each_parameter_becomes_its_flag_or_is_unsupported(library, backend, version, name, value, expected):
    target = library.table(backend, version).entries[name].target(value, "disagg")

    assert shown(target) == expected[BACKENDS.index(backend)]


def test_every_shipped_table_is_tried(library):
    assert {(backend, version) for backend, tables in library.tables.items() for version in tables} == set(SHIPPED)


@pytest.mark.parametrize(
    ("backend", "arguments", "settings"),
    [
        ("vllm", ("--no-enable-prefix-caching",), ()),
        ("sglang", ("--disable-radix-cache",), ()),
        ("trtllm", (), (("kv_cache_config.enable_block_reuse", False),)),
    ],
)
def test_s0_11_a_switch_is_a_flag_or_a_nested_setting(library, backend, arguments, settings):
    target = library.table(backend, None).entries["disable_prefix_cache"].target(True, "agg")

    assert isinstance(target, Target)
    assert (target.arguments, target.settings) == (arguments, settings)


def test_s0_11_null_switches_a_group_of_settings_off(library):
    target = library.table("trtllm", None).entries["disable_cuda_graph"].target(True, "agg")

    assert isinstance(target, Target)
    assert target.settings == (("cuda_graph_config", None),)


def test_s0_11_a_setting_of_disaggregation_is_left_out_in_mode_agg(library):
    target = library.table("trtllm", None).entries["max_seq_len"].target(4096, "agg")

    assert isinstance(target, Target)
    assert target.settings == (("max_seq_len", 4096),)


def test_versions_differ_where_the_engines_do(library):
    old, new = (library.table("trtllm", version).entries["moe_backend"] for version in ("1.2.1", "1.3.0rc27"))

    assert isinstance(old.target("marlin", "agg"), Unsupported)
    assert shown(new.target("marlin", "agg")) == "moe_config.backend=MARLIN"
    assert shown(old.target("wideep", "agg")) == "moe_config.backend=WIDEEP"
    assert isinstance(new.target("wideep", "agg"), Unsupported)
    assert (shown(old.target("auto", "agg")), shown(new.target("auto", "agg"))) == ("", "moe_config.backend=AUTO")


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


@pytest.mark.parametrize(
    ("name", "value", "text"), [("kv_cache_dtype", "fp8", "needs no scales"), ("max_num_tokens", 100, "come on top")]
)
def test_approximations_of_sglang_are_told(library, name, value, text):
    target = library.table("sglang", None).entries[name].target(value, "agg")

    assert isinstance(target, Target)
    assert text in target.note


def test_s0_1_data_directories_hold_no_python():
    found = [entry.name for name in ("templates", "rules") for entry in _walk(data_dir(name))]

    assert found
    assert not [name for name in found if not re.search(r"\.(yaml|j2|rule)$", name)]


def _walk(directory):
    for entry in directory.iterdir():
        yield from _walk(entry) if entry.is_dir() else [entry]
