"""A last look before serving: the packed engine must give the model's own logits.

Two short random sequences go through the model's own attention one by one, and packed, in chunks, as the engine runs
them. A model that passes the other checks but does something the packed attention does not know is found here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from tandem_serve.engine import support
from tandem_serve.engine.attention import UnknownRuleError
from tandem_serve.engine.blocks import BLOCK_TOKENS, blocks_for
from tandem_serve.engine.kv_cache import KvLayout, KvMemory
from tandem_serve.engine.runner import ModelRunner
from tandem_serve.engine.scheduler import Chunk
from tandem_serve.engine.sequence import Sequence
from tandem_serve.engine.types import SamplingParams, SequenceRequest
from tandem_serve.problems import load_error

_LENGTHS = (11, 5)
# Of each sequence: start and count. The last step gives one token to both, which then attend together.
_STEPS: tuple[tuple[tuple[int, int] | None, ...], ...] = (((0, 4), None), ((4, 6), (0, 4)), ((10, 1), (4, 1)))
TOLERANCE = {torch.float32: 1e-3, torch.float16: 6e-2, torch.bfloat16: 5e-1}
"""How far logits may be from those of the model, in standard deviations.

Rounding in another order gave 0.11 in bfloat16 for a random model of 8 layers; unrelated logits differ by 5.
"""


def check(model: PreTrainedModel, layout: KvLayout, *, threads: Callable[[int], int] | None = None) -> ModelRunner:
    """Returns the runner when packed and own logits agree. Raises `StartError` when they do not."""
    vocabulary = model.config.get_text_config(decoder=True).vocab_size
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(0, vocabulary, (length,), generator=generator).tolist() for length in _LENGTHS]
    try:
        own = torch.stack([_own_logits(model, prompt) for prompt in prompts])
        runner = ModelRunner(model, threads=threads)
        packed = _packed_logits(runner, layout, prompts)
    except UnknownRuleError as error:
        raise _refused(model, str(error)) from error
    except Exception as error:
        raise _refused(model, f"the packed attention fails on it ({type(error).__name__}: {error})") from error
    expected = dict(enumerate(support.windows(model.config)))
    if runner.windows != expected:  # too long for the two short sequences to show
        reason = f"its layers attend within {runner.windows}, where its configuration says {expected}"
        raise _refused(model, reason)
    if own.isnan().any():
        raise _broken(layout)
    difference = apart(own, packed)
    if not difference <= TOLERANCE[layout.dtype]:
        raise _refused(model, f"its batched logits differ from its own by {difference:.2g} standard deviations")
    return runner


def apart(own: torch.Tensor, others: torch.Tensor) -> float:
    """How far logits are from the model's own, in standard deviations of those; infinite when some are no numbers."""
    far = float((own - others).abs().max() / own.std().clamp_min(1e-6))
    return math.inf if math.isnan(far) else far  # Python's max() passes over NaN


def _refused(model: PreTrainedModel, reason: str) -> Exception:
    fix = "serve it with backend vllm, or choose another architecture"
    return load_error("config.json: model_type", value=model.config.model_type, reason=reason, fix=fix)


def _broken(layout: KvLayout) -> Exception:
    """The model's own logits are no numbers, so there is nothing to compare with."""
    dtype = str(layout.dtype).removeprefix("torch.")
    reason = f"with them the model itself computes NaN in {dtype}: they hold NaN, or are too large for this number type"
    fix = "try another --dtype (bfloat16 or float32 where it was float16); else get or convert the weights again"
    return load_error("weights of the model", reason=reason, fix=fix)


@torch.inference_mode()
def _own_logits(model: PreTrainedModel, prompt: list[int]) -> torch.Tensor:
    ids = torch.tensor([prompt], device=model.device)
    logits: torch.Tensor = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits
    return logits[0, -1].float().cpu()


def sequence_of(prompt: list[int], *, first_block: int) -> Sequence:
    """A sequence to try the model with; its blocks stand side by side."""
    sampling = SamplingParams(max_tokens=1)
    sequence = Sequence(SequenceRequest(seq_id=0, request_id="self-check", prompt=tuple(prompt), sampling=sampling))
    sequence.blocks = list(range(first_block, first_block + blocks_for(len(prompt))))
    return sequence


def _packed_logits(runner: ModelRunner, layout: KvLayout, prompts: list[list[int]]) -> torch.Tensor:
    blocks = [blocks_for(length) for length in _LENGTHS]
    memory = KvMemory(layout, capacity_tokens=sum(_LENGTHS) + BLOCK_TOKENS * len(_LENGTHS))
    sequences = [sequence_of(prompt, first_block=sum(blocks[:number])) for number, prompt in enumerate(prompts)]
    logits = torch.empty(0)
    for step in _STEPS:
        chunks = zip(sequences, step, strict=True)
        plan = tuple(Chunk(sequence, *chunk, True) for sequence, chunk in chunks if chunk is not None)
        ends = itertools.accumulate(chunk.count for chunk in plan)
        logits = runner.forward(plan, [end - 1 for end in ends], memory)
    return logits.float().cpu()
