"""The unified engine parameters: one name per meaning, whatever the backend calls it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.alias_generators import to_camel

from tandem.api import patterns
from tandem.api.base import ApiModel

Count = Annotated[int, Field(ge=1, le=1_048_576)]
Tokens = Annotated[int, Field(ge=1, le=134_217_728)]
ParallelSize = Annotated[int, Field(ge=1, le=4096)]
Word = Annotated[str, Field(min_length=1, max_length=64, pattern=patterns.WORD.regex)]
KvCacheDtype = Literal["auto", "float16", "bfloat16", "float32", "fp8", "fp8_e4m3", "fp8_e5m2", "int8"]
# What people call some of them.
SHORT_NAMES: Mapping[str, str] = {
    "tp": "tensor_parallel_size",
    "pp": "pipeline_parallel_size",
    "dp": "data_parallel_size",
    "moe_tp": "moe_tensor_parallel_size",
    "moe_ep": "moe_expert_parallel_size",
    "bs": "max_batch_size",
}


class EngineParameters(ApiModel):
    """Engine parameters by their unified names; one that a backend cannot honour is refused."""

    not_fields: ClassVar = {
        **{short.replace("_", ""): f"Write {to_camel(name)}." for short, name in SHORT_NAMES.items()},
        "dtype": "Give it in extraArgs: [--dtype, bfloat16].",
    }

    tensor_parallel_size: ParallelSize | None = Field(None, description="GPUs that share each layer of one worker.")
    pipeline_parallel_size: ParallelSize | None = Field(
        None, description="Stages that one worker's layers are cut into."
    )
    data_parallel_size: ParallelSize | None = Field(
        None, description="Copies of the attention layers inside one worker."
    )
    enable_attention_dp: bool | None = Field(None, description="Data parallel attention for mixture-of-experts models.")
    enable_expert_parallel: bool | None = Field(
        None, description="Spread experts over GPUs instead of cutting each one."
    )
    moe_expert_parallel_size: ParallelSize | None = Field(None, description="GPUs that experts are spread over.")
    moe_tensor_parallel_size: ParallelSize | None = Field(None, description="GPUs that share each expert.")

    kv_cache_dtype: KvCacheDtype | None = Field(
        None, description="Number format of the KV cache; auto follows the model."
    )
    kv_cache_free_gpu_memory_fraction: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None,
        description="Share of GPU memory for weights and KV cache (vLLM) or of what weights leave free (TensorRT-LLM).",
    )
    kv_cache_max_tokens: Tokens | None = Field(None, description="Size of the KV cache in tokens, over all sequences.")
    tokens_per_block: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None, description="Tokens in one KV cache block."
    )
    disable_prefix_cache: bool | None = Field(None, description="Do not reuse the KV cache of equal prompt beginnings.")

    disable_cuda_graph: bool | None = Field(None, description="Run without CUDA graphs: starts faster, decodes slower.")
    cuda_graph_batch_sizes: Annotated[tuple[Count, ...], Field(min_length=1, max_length=512)] | None = Field(
        None, description="Batch sizes to record CUDA graphs for."
    )
    cuda_graph_enable_padding: bool | None = Field(None, description="Pad a batch to the next recorded CUDA graph.")
    cuda_graph_max_batch_size: Count | None = Field(None, description="Largest batch to record a CUDA graph for.")

    max_batch_size: Count | None = Field(None, description="Sequences that run at the same time in one worker.")
    enable_chunked_prefill: bool | None = Field(
        None, description="Cut long prompts so that running streams do not wait."
    )
    max_prefill_tokens: Tokens | None = Field(None, description="Prompt tokens that one iteration computes at most.")
    max_num_tokens: Tokens | None = Field(None, description="Tokens that one iteration computes at most.")
    max_seq_len: Tokens | None = Field(None, description="Longest sequence, prompt and answer together, in tokens.")

    moe_backend: Word | None = Field(None, description="Kernels for mixture-of-experts layers.")
    moe_all2all_backend: Word | None = Field(None, description="Transport between experts on different GPUs.")
    kv_transfer_backend: Word | None = Field(None, description="Transport of the KV cache from prefill to decode.")
    disaggregation_bootstrap_port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        None, description="Port on which prefill and decode workers find each other."
    )
    attention_backend: Word | None = Field(None, description="Attention kernels.")
    elastic_ep_backend: Word | None = Field(None, description="Elastic expert parallelism.")
    speculative_decoding_type: Word | None = Field(None, description="Method of speculative decoding.")

    disable_overlap_scheduler: bool | None = Field(None, description="Schedule and compute one after the other.")
    moe_load_balancer: Word | None = Field(None, description="Balancer of load between experts.")
    skip_tokenizer_init: bool | None = Field(None, description="Take and give token ids only.")
    trust_remote_code: bool | None = Field(None, description="Run Python code that comes with the model.")
