"""One server for all clients: a tiny random model whose chat template knows tools."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.errors import Unavailable
from tests.environments import python_with
from tests.integration.serve.processes import ServerProcess, ready, server
from tests.unit.serve import tiny

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
TEMPLATE = (
    "{% for t in tools or [] %}{{ t | tojson }} Write <tool_call>a call</tool_call>.{% endfor %}"
    "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}{% endfor %}"
    "assistant:"
)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tiny.save_llama(tmp_path_factory.mktemp("clients-model"), max_position_embeddings=4096)
    tiny.save_tokenizer(directory, chat_template=TEMPLATE)
    return directory


@pytest.fixture(scope="session")
def running(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    arguments = ("--model", str(model), "--served-model-name", "tiny", "--kv-cache-tokens", "32768")
    with server(tmp_path_factory.mktemp("clients-log"), *arguments) as one:
        yield ready(one)


@pytest.fixture(scope="session")
def url(running: ServerProcess) -> str:
    return f"http://127.0.0.1:{running.port}"


@pytest.fixture(scope="session")
def client_environment(cluster_progress: Callable[[str], None]) -> Path:
    """The interpreter of an environment with lm_eval and langchain-openai."""
    try:
        return python_with(REQUIREMENTS.read_text().splitlines(), cluster_progress)
    except Unavailable as error:
        pytest.skip(f"no environment for the clients: {error.reason}")
