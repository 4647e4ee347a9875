"""Text to tokens and back for the HTTP side; safe to use from any thread."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import jinja2

from tandem_serve.engine.detokenizer import Decode

_PROBES = ("", "Hello, world", "  two  spaces\n\ttab", "naïve 日本 🙂 <s>[INST] x</s>")


# A template is a program: one that comes with a request could run for ever, or fill the memory. The other parameters
# say what becomes of the text.
RESERVED = frozenset(
    {
        *("self", "conversation", "messages", "tools", "documents", "chat_template", "add_generation_prompt"),
        *("continue_final_message", "tokenize", "sanitize_control_tokens", "padding", "truncation", "max_length"),
        *("return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"),
    }
)


class TemplateError(Exception):
    """The chat template is missing or refuses the messages."""


class TextTooLongError(Exception):
    """What the chat template made of a request has so many characters that it is not tokenized."""

    def __init__(self, chars: int) -> None:
        super().__init__(f"{chars} characters")
        self.chars = chars


class TextCodec:
    """The model's tokenizer, behind what the server needs of it."""

    def __init__(self, tokenizer: Any, *, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        self._lock = threading.Lock()
        self._direct = self._backend is not None and self._encodes_alike()
        self.vocab_size = vocab_size

    @property
    def bos_id(self) -> int | None:
        """The token that starts a text, if the model has one."""
        token: int | None = self._tokenizer.bos_token_id
        return token

    @property
    def has_chat_template(self) -> bool:
        """Whether messages can be rendered."""
        return bool(self._tokenizer.chat_template)

    def encode(self, text: str, *, special: bool = True) -> tuple[int, ...]:
        """Tokens of a text, with the tokenizer's special tokens around it when `special`."""
        if self._direct:
            return self._ids(text, special=special)
        with self._lock:  # transformers' wrapper sets options on the shared tokenizer
            return tuple(self._tokenizer.encode(text, add_special_tokens=special))

    def _encodes_alike(self) -> bool:
        """Whether the tokenizer under transformers' wrapper, which threads may share, gives the same tokens."""
        self._backend.no_truncation()
        self._backend.no_padding()
        return all(
            self._ids(text, special=special) == tuple(self._tokenizer.encode(text, add_special_tokens=special))
            for text in _PROBES
            for special in (True, False)
        )

    @cached_property
    def info(self) -> dict[str, Any]:
        """What clients ask of a tokenizer, under the names of tokenizer_config.json."""
        tokens = {name: getattr(self._tokenizer, name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
        template = str(self._tokenizer.get_chat_template()) if self.has_chat_template else None
        return {"tokenizer_class": type(self._tokenizer).__name__, **tokens, "chat_template": template}

    @cached_property
    def template_for_tools(self) -> str:
        """The chat template that renders messages with tools; empty when there is none that speaks of them."""
        text = str(self._tokenizer.get_chat_template(tools=[])) if self.has_chat_template else ""
        words = jinja2.Environment(autoescape=True).lex(text)
        return text if any(kind == "name" and word == "tools" for _, kind, word in words) else ""

    def special_token(self, text: str) -> int | None:
        """The special token that is written so, if there is one."""
        return next((token for token, spelling in self._special.items() if spelling == text), None)

    def is_special(self, token: int) -> bool:
        """Whether it is left out of texts unless asked for."""
        return token in self._special

    @cached_property
    def _special(self) -> dict[int, str]:
        return {token: one.content for token, one in self._tokenizer.added_tokens_decoder.items() if one.special}

    def _ids(self, text: str, *, special: bool) -> tuple[int, ...]:
        """The batch function leaves the interpreter to others while it works, and does not note where tokens stand."""
        return tuple(self._backend.encode_batch_fast([text], add_special_tokens=special)[0].ids)

    def encode_chat(
        self,
        messages: list[dict[str, Any]],
        template: Mapping[str, Any],
        *,
        tools: list[dict[str, Any]] | None = None,
        most_chars: int,
    ) -> tuple[int, ...]:
        """Tokens of a conversation up to where the assistant's answer begins; `template` has further variables.

        The template runs in transformers' immutable Jinja sandbox. Raises `TemplateError`, and `TextTooLongError` when
        it makes more than `most_chars` of it.
        """
        if not self.has_chat_template:
            raise TemplateError("this model has no chat template; use /v1/completions")
        try:
            text = self._tokenizer.apply_chat_template(
                messages, tools=tools, tokenize=False, add_generation_prompt=True, **template
            )
            tokens = self.encode(text, special=False) if len(text) <= most_chars else None
        except Exception as error:
            raise TemplateError(f"the chat template refuses these messages: {error}") from error
        if tokens is None:
            raise TextTooLongError(len(text))
        return tokens

    def decoder(self, *, skip_special: bool = True) -> Decode:
        """A function from tokens to text, as direct as the tokenizer allows."""
        if self._backend is not None:
            backend = self._backend
            return lambda ids: backend.decode(ids, skip_special_tokens=skip_special)
        tokenizer = self._tokenizer
        return lambda ids: tokenizer.decode(ids, skip_special_tokens=skip_special, clean_up_tokenization_spaces=False)

    def decode(self, ids: list[int] | tuple[int, ...], *, skip_special: bool = False) -> str:
        """Text of tokens."""
        return self.decoder(skip_special=skip_special)(list(ids))

    def token_text(self, token: int) -> str:
        """One token by itself, special tokens included."""
        return self.decode((token,))

    def token_strings(self, ids: tuple[int, ...]) -> list[str]:
        """The vocabulary's own spelling of tokens."""
        return list(self._tokenizer.convert_ids_to_tokens(list(ids)))
