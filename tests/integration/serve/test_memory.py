"""How much memory a server takes while it loads and answers: its weights once, and what the imports take."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.serve.processes import ready, server
from tests.unit.serve import tiny

pytestmark = pytest.mark.integration

MB = 1_000_000
KV_TOKENS = 4096
SHAPE = {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 6,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
}
BESIDE = 100 * MB
"""What does not grow with the model: code that is first used while answering, tokenizer, HTTP, one step, one layer."""
IMPORTS = "import tandem_serve.server, tandem_serve.backend; print(open('/proc/self/status').read())"


def peak(status: str) -> int:
    """The most resident memory that a process ever had, in bytes, from its /proc/.../status."""
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_in_memory_once_also_while_they_load(dtype: str, tmp_path: Path) -> None:
    model = tiny.save_llama(tmp_path / "model", **SHAPE)
    saved = (model / "model.safetensors").stat().st_size
    size = {"float32": 4, "bfloat16": 2}[dtype]
    weights = saved * size // 4
    head_dim = SHAPE["hidden_size"] // SHAPE["num_attention_heads"]
    kv = KV_TOKENS * SHAPE["num_hidden_layers"] * 2 * SHAPE["num_key_value_heads"] * head_dim * size
    assert weights > BESIDE + 0.15 * (weights + kv), "a second copy would not be seen"
    imports = peak(subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True).stdout)
    with server(tmp_path, "--model", str(model), "--dtype", dtype, "--kv-cache-tokens", str(KV_TOKENS)) as one:
        ready(one)
        status, _ = one.request("/v1/completions", {"prompt": tiny.TEXT * 20, "max_tokens": 8, "temperature": 0})
        assert status == 200
        found = peak(Path(f"/proc/{one.process.pid}/status").read_text())
    print(f"weights {weights // MB} MB, kv {kv // MB} MB, imports {imports // MB} MB, peak {found // MB} MB")
    assert found - imports < 1.15 * (weights + kv) + BESIDE
