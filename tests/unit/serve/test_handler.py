"""The model for scripts in the same process."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from tandem_serve.engine.progress import LoadProgress
from tandem_serve.handler import HandlerRegistry, ModelHandler, get_config, get_model_handler
from tests.unit.serve import tiny

PROMPT = "the quick brown"


def progress() -> LoadProgress:
    return LoadProgress(logging.getLogger("test"))


@pytest.fixture(scope="module")
def handler(llama_dir: Path) -> ModelHandler:
    generation = {"MAX_NEW_TOKENS": 100_000, "MAX_PROMPT_TOKENS": 50}
    handler = ModelHandler(tiny.settings(llama_dir, generation=generation), progress())
    handler.load_model()
    return handler


def test_s1_12_requests_at_the_same_time_cause_one_load(llama_dir: Path) -> None:
    registry, settings = HandlerRegistry(), tiny.settings(llama_dir)
    found: list[ModelHandler] = []
    threads = [threading.Thread(target=lambda: found.append(registry.get(settings, progress()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(map(id, found))) == 1
    assert found[0].loads == 1
    assert found[0].is_loaded()


def test_s1_12_the_process_has_one_handler_and_one_config(llama_dir: Path, tmp_path: Path) -> None:
    settings = tiny.settings(llama_dir)
    assert get_model_handler(settings, progress()) is get_model_handler(settings, progress())
    path = tmp_path / "config.yml"
    path.write_text("GENERATION: {MAX_NEW_TOKENS: 7}")
    assert get_config(path) is get_config(path)
    assert get_config(path).max_new_tokens == 7


def test_s1_13_generate_before_load_raises_and_cleanup_frees(llama_dir: Path) -> None:
    handler = ModelHandler(tiny.settings(llama_dir), progress())
    assert not handler.is_loaded()
    for call in (lambda: handler.generate(PROMPT), handler.get_model_info):
        with pytest.raises(RuntimeError, match="no model is loaded"):
            call()
    handler.load_model()
    assert handler.is_loaded()
    info = handler.get_model_info()
    assert info == {"model_name": "tiny", "device": "cpu", "model_type": "llama", "vocab_size": 320}
    assert handler.generate(PROMPT, max_new_tokens=5, seed=1) == handler.generate(PROMPT, max_new_tokens=5, seed=1)
    handler.cleanup()
    assert not handler.is_loaded()


def test_s1_05_a_direct_call_for_10_000_tokens_gets_512(handler: ModelHandler, monkeypatch: pytest.MonkeyPatch) -> None:
    core = handler._core
    assert core is not None
    monkeypatch.setattr(core.engine, "_eos_ids", frozenset())
    before = core.engine.stats.generated_tokens
    assert handler.generate(PROMPT, max_new_tokens=10_000)
    assert core.engine.stats.generated_tokens - before == 512


def test_s1_10_a_prompt_that_is_too_long_is_refused(handler: ModelHandler) -> None:
    with pytest.raises(ValueError, match="1 to 50 are possible"):
        handler.generate(tiny.TEXT * 10)
