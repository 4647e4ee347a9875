"""Grammars that an answer must follow, token by token: compiled by llguidance, and the state of one sequence in one.

A state is asked which tokens are impossible now, and told which one was chosen. No torch here.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray

from tandem_serve.engine import grammar_trial

MAX_SOURCE_CHARS = 500_000
"""A longer grammar is refused; what a shorter one may cost is tried out first (`grammar_trial`)."""
_AT_ONCE = 2
_KEPT = 32


_UNSATISFIABLE = "no text can satisfy it"
# Wherever JSON allows white space, as much as people write: a model that likes it could go on with it for ever.
JSON_SPACE = r"( |\n {0,24})?"


def schema_source(schema: Mapping[str, Any]) -> str:
    """The grammar of JSON values that satisfy a JSON schema."""
    return LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides={"whitespace_pattern": JSON_SPACE})


def lark_source(text: str) -> str:
    """The grammar that is written in llguidance's form of Lark."""
    return LLMatcher.grammar_from_lark(text)


class GrammarError(Exception):
    """The grammar cannot be compiled, or cannot be followed any further."""


class GrammarState:
    """Where one sequence stands in its grammar."""

    def __init__(self, matcher: LLMatcher, *, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._mask = b""
        self._look()

    @property
    def complete(self) -> bool:
        """Whether nothing may follow any more."""
        return bool(self._matcher.is_stopped())

    def forbidden(self, ends: Collection[int] = ()) -> NDArray[np.bool_]:
        """For each token whether it is impossible now; also those of `ends`, unless nothing else is possible."""
        packed = np.invert(np.frombuffer(self._mask, dtype=np.uint8))
        forbidden = np.unpackbits(packed, count=self._vocab_size, bitorder="little").view(np.bool_)
        if ends:
            without = forbidden.copy()
            without[list(ends)] = True
            forbidden = forbidden if without.all() else without
        return forbidden

    def accept(self, token: int) -> None:
        """Goes on by a token. Raises `GrammarError` when it is impossible, or when the step takes too much work."""
        self._matcher.consume_token(token)
        self._look()

    def copy(self) -> GrammarState:
        """Another sequence at the same place."""
        return GrammarState(self._matcher.deep_copy(), vocab_size=self._vocab_size)

    def _look(self) -> None:
        if not self._matcher.is_stopped():
            self._mask = self._matcher.compute_bitmask()
        if self._matcher.is_error():
            raise GrammarError(_in_words(self._matcher.get_error()))
        if self._matcher.is_stopped() and not self._matcher.is_accepting():
            raise GrammarError(_UNSATISFIABLE)


class Grammar:
    """A compiled grammar."""

    def __init__(self, first: GrammarState) -> None:
        self._first = first
        self._lock = threading.Lock()

    def start(self) -> GrammarState:
        """The state of a sequence that has no token yet."""
        with self._lock:
            return self._first.copy()


class GrammarCompiler:
    """Compiles for one tokenizer, and keeps the latest. May be used from any thread.

    `check` says what is wrong with a grammar, before work is spent on it that could not be ended.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        vocab_size: int,
        eos_ids: Collection[int],
        check: Callable[[str], str] = grammar_trial.check,
    ) -> None:
        self._backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        self._vocab_size = vocab_size
        self._eos_ids = sorted(eos_ids)
        self._lock = threading.Lock()
        self._tokens: LLTokenizer | None = None
        self._check = check
        self._few = asyncio.Semaphore(_AT_ONCE)
        self._kept: OrderedDict[str, Grammar] = OrderedDict()

    @property
    def usable(self) -> bool:
        """Whether the tokenizer is of the kind that can be constrained (a `tokenizer.json`)."""
        return self._backend is not None

    async def prepare(self, source: str) -> Grammar:
        """`compile` away from the event loop, few at a time."""
        async with self._few:
            return await asyncio.to_thread(self.compile, source)

    def compile(self, source: str) -> Grammar:
        """Compiles a grammar as llguidance writes them (Lark, or JSON around a schema). Raises `GrammarError`."""
        if len(source) > MAX_SOURCE_CHARS:
            raise GrammarError(f"it has {len(source)} characters, and {MAX_SOURCE_CHARS} is the most")
        with self._lock:
            kept = self._kept.get(source)
            if kept is not None:
                self._kept.move_to_end(source)
                return kept
        if problem := self._check(source):
            raise GrammarError(_in_words(problem))
        grammar = self._compiled(source)
        with self._lock:
            self._kept[source] = grammar
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return grammar

    def _compiled(self, source: str) -> Grammar:
        matcher = LLMatcher(self._tokenizer(), source, log_level=0, limits=grammar_trial.limits())
        if matcher.is_error():
            raise GrammarError(_in_words(matcher.get_error()))
        return Grammar(GrammarState(matcher, vocab_size=self._vocab_size))

    def _tokenizer(self) -> LLTokenizer:
        """Made with the first grammar: it takes a second for a large vocabulary."""
        with self._lock:
            if self._tokens is None:
                size = max(self._vocab_size, self._backend.get_vocab_size(with_added_tokens=True))
                self._tokens = LLTokenizer(self._backend.to_str(), n_vocab=size, eos_token=self._eos_ids or None)
            return self._tokens


def _in_words(text: str) -> str:
    """What the library says, without its inner state."""
    line = " ".join(text.partition("<non-verbose/>")[0].partition("<backtrace>")[0].split())
    if line.startswith("panic"):
        return "it is too large"
    return _UNSATISFIABLE if line.startswith("NoExtension") else line[:500]
