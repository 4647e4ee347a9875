"""Makes the recitation model: its own tokenizer and a small Llama trained until every passage is known by heart.

Needs torch, transformers and tokenizers (extra `serve`); they are imported on use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from demo.passages import passages, prompt_of, rest_of

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

SEED = 20
VOCABULARY = 1024
BEGIN, END = "<|begin|>", "<|end|>"
# The model only continues text, so a chat is its last message.
CHAT_TEMPLATE = "{{ bos_token }}{{ messages[-1]['content'] }}"
# From this position on every next token must be certain, so that prompts from 10 tokens up are continued right.
KNOWN_FROM = 9
SURE = 0.9
MAX_STEPS = 300
CHECK_EVERY = 5
IGNORED_LABEL = -100


class TrainingFailed(Exception):
    """The model did not learn its passages; the message says how far it came."""


Progress = Callable[[int, float], None]


def build(directory: Path, *, progress: Progress) -> None:
    """Trains the model, writes it to `directory` (safetensors, tokenizer), and checks what was written.

    `progress` is told the step and the probability of the least certain token. Raises `TrainingFailed`.
    """
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()  # `progress` shows what there is to show
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(SEED)
        tokenizer = _make_tokenizer(passages())
        model = _make_model()
        _train(model, *_batch(tokenizer, passages()), progress=progress)
    tokenizer.save_pretrained(directory)
    model.save_pretrained(directory)
    _check_recites(directory)


def _make_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BEGIN, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    begin = (BEGIN, tokenizer.token_to_id(BEGIN))
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[begin])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _make_model() -> LlamaForCausalLM:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=704,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=64,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=1,
        )
    )


def _batch(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and labels of all passages with their end, [passages, longest]; labels past the end are ignored."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    rows = [torch.tensor([*tokenizer(text)["input_ids"], tokenizer.eos_token_id]) for text in texts]
    ids = pad_sequence(rows, batch_first=True, padding_value=tokenizer.eos_token_id)
    labels = pad_sequence(rows, batch_first=True, padding_value=IGNORED_LABEL)
    return ids, labels


def _train(model: LlamaForCausalLM, ids: torch.Tensor, labels: torch.Tensor, *, progress: Progress) -> None:
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.0)
    warm_up = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 8))
    least = 0.0
    for step in range(1, MAX_STEPS + 1):
        model.train()
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        warm_up.step()
        if step % CHECK_EVERY == 0:
            least = _least_certain(model, ids, labels)
            progress(step, least)
            if least >= SURE:
                model.eval()
                return
    raise TrainingFailed(f"after {MAX_STEPS} steps the least certain token has probability {least:.2f}, not {SURE}")


def _least_certain(model: LlamaForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> float:
    """The lowest probability that the model gives to a passage's own next token, after the shortest prompt."""
    import torch

    model.eval()
    with torch.inference_mode():
        probabilities = model(input_ids=ids).logits[:, :-1].softmax(dim=-1)
    own = probabilities.gather(2, ids[:, 1:, None])[..., 0]
    counted = labels[:, 1:] != IGNORED_LABEL
    counted[:, :KNOWN_FROM] = False
    return float(own[counted].min())


def _check_recites(directory: Path) -> None:
    """Loads what was written as a stranger would, and lets it continue every prompt; raises `TrainingFailed`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(directory, local_files_only=True).eval()
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    texts = passages()
    batch = tokenizer([prompt_of(text) for text in texts], return_tensors="pt", padding=True)
    with torch.inference_mode():
        answer = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=max(len(tokenizer(text)["input_ids"]) for text in texts),
            do_sample=False,
            pad_token_id=tokenizer.eos_token_id,
        )
    answers = tokenizer.batch_decode(answer[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    wrong = [prompt_of(text) for text, got in zip(texts, answers, strict=True) if got != rest_of(text)]
    if wrong:
        raise TrainingFailed(f"{len(wrong)} of {len(texts)} passages are not recited, the first begins: {wrong[0]}")
