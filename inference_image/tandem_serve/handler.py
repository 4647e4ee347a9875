"""The model for scripts in the same process, without HTTP: load, generate, describe, free.

`ModelHandler` may be called from several threads; one generation runs at a time. `HandlerRegistry` gives every caller
the same handler, and `get_model_handler` the one of this process.
"""

from __future__ import annotations

import itertools
import threading
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from tandem_serve.backend import Core, build_core, load_options
from tandem_serve.config import ServeConfig, load_config
from tandem_serve.engine.loader import load
from tandem_serve.engine.progress import LoadProgress
from tandem_serve.engine.types import FinishReason, SamplingParams, SequenceRequest
from tandem_serve.http.schema import HARD_MAX_NEW_TOKENS
from tandem_serve.settings import Settings


class ModelHandler:
    """Loads a model on demand and generates with it in the caller's thread."""

    def __init__(self, settings: Settings, progress: LoadProgress) -> None:
        self._settings = settings
        self._progress = progress
        self._lock = threading.Lock()
        self._ids = itertools.count()
        self._core: Core | None = None
        self.loads = 0

    def load_model(self) -> None:
        """Loads the model unless it is loaded; callers at the same time cause one load. Raises `StartError`."""
        with self._lock:
            if self._core is None:
                self.loads += 1
                model = load(load_options(self._settings, Path(self._settings.model)), self._progress)
                self._core = build_core(self._settings, model)

    def is_loaded(self) -> bool:
        """Whether `generate` may be called."""
        return self._core is not None

    def generate(
        self,
        prompt: str,
        *,
        max_new_tokens: int | None = None,
        temperature: float = 0.7,
        top_p: float = 0.9,
        top_k: int = 50,
        seed: int | None = None,
    ) -> str:
        """The continuation of `prompt`: at most 512 tokens, and at most what the configuration allows.

        Raises RuntimeError when no model is loaded, ValueError for a prompt that does not fit, TimeoutError.
        """
        with self._lock:
            if self._core is None:
                raise RuntimeError("no model is loaded: call load_model() first")
            config, core = self._settings.config, self._core
            tokens = core.codec.encode(prompt)
            most = min(config.max_prompt_tokens, core.facts.max_model_len - 1)
            if not 0 < len(tokens) <= most:
                raise ValueError(f"the prompt has {len(tokens)} tokens; 1 to {most} are possible")
            asked = config.default_max_new_tokens if max_new_tokens is None else max_new_tokens
            room = core.facts.max_model_len - len(tokens)
            sampling = SamplingParams(
                max_tokens=min(asked, HARD_MAX_NEW_TOKENS, config.max_new_tokens, room),
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                seed=seed,
            )
            request = SequenceRequest(
                seq_id=next(self._ids),
                request_id="handler",
                prompt=tokens,
                sampling=sampling,
                deadline=time.monotonic() + config.generation_timeout,
            )
            return self._run(core, request)

    def _run(self, core: Core, request: SequenceRequest) -> str:
        core.engine.add(request)
        text = ""
        while core.engine.scheduler.busy:
            for update in core.engine.step()[0]:
                text += update.text
                if update.finish is not None and update.finish.reason is FinishReason.TIMEOUT:
                    raise TimeoutError(f"stopped after {self._settings.config.generation_timeout:g} s")
                if update.finish is not None and update.finish.reason is FinishReason.ERROR:
                    raise RuntimeError(update.finish.message)
        return text

    def get_model_info(self) -> dict[str, Any]:
        """Name, device, type and sizes. Raises RuntimeError when no model is loaded."""
        core = self._core
        if core is None:
            raise RuntimeError("no model is loaded: call load_model() first")
        facts = core.facts
        return {
            "model_name": self._settings.served_name,
            "device": facts.device,
            "model_type": facts.model_type,
            "vocab_size": facts.vocab_size,
        }

    def cleanup(self) -> None:
        """Frees the model; it can be loaded again."""
        with self._lock:
            self._core = None


class HandlerRegistry:
    """One handler per settings, made at the first request for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handlers: dict[str, ModelHandler] = {}

    def get(self, settings: Settings, progress: LoadProgress) -> ModelHandler:
        """The loaded handler of a model. Requests at the same time cause one load."""
        with self._lock:
            handler = self._handlers.setdefault(settings.model, ModelHandler(settings, progress))
        handler.load_model()
        return handler


@lru_cache(maxsize=1)
def _registry() -> HandlerRegistry:
    return HandlerRegistry()


def get_model_handler(settings: Settings, progress: LoadProgress) -> ModelHandler:
    """The loaded handler of this process for `settings.model`."""
    return _registry().get(settings, progress)


@lru_cache(maxsize=8)
def get_config(path: Path | None = None) -> ServeConfig:
    """The configuration of a file, read once. Environment variables are not read here."""
    return load_config(path, {})
