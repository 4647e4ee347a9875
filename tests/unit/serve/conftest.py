"""Models are made and loaded once for all tests of the server."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tandem_serve.engine.loader import LoadedModel, LoadOptions, load
from tandem_serve.engine.progress import LoadProgress
from tests.unit.serve import tiny

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def llama_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def qwen2_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_qwen2(tmp_path_factory.mktemp("qwen2"))


def load_model(directory: Path) -> LoadedModel:
    return load(LoadOptions(directory=directory), LoadProgress(logging.getLogger("test")))


@pytest.fixture(scope="session")
def llama(llama_dir: Path) -> LoadedModel:
    return load_model(llama_dir)


@pytest.fixture(scope="session")
def endless(llama: LoadedModel) -> LoadedModel:
    """A model that never ends by itself."""
    return replace(llama, eos_ids=frozenset())


@pytest.fixture(scope="session")
def qwen2(qwen2_dir: Path) -> LoadedModel:
    return load_model(qwen2_dir)


@pytest.fixture(autouse=True)
def _loggers_as_before() -> Iterator[None]:
    """Undoes what a test's command line does to the loggers."""
    root, handlers = logging.getLogger(), logging.getLogger().handlers[:]
    yield
    root.handlers[:] = handlers
    root.setLevel(logging.WARNING)
    for ours in ("tandem_serve", "tandem_edge"):
        logging.getLogger(ours).setLevel(logging.NOTSET)
    logging.getLogger("uvicorn.access").propagate = True
    logging.captureWarnings(False)
    sys.excepthook, threading.excepthook = sys.__excepthook__, threading.__excepthook__
