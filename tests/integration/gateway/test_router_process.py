"""The router as its own process: an endpoints file, a signal, an exit status."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from datetime import datetime, timedelta
from pathlib import Path

import aiohttp

from tandem.gateway.fleet import Role
from tests.unit.gateway import workers
from tests.unit.gateway.workers import DONE, event, stream

PROGRAM = """
import sys
from pathlib import Path
from tandem.gateway.server import run
from tandem.gateway.settings import RouterSettings
run(RouterSettings(deployment="d", served_model_name="m", backend="torch", mode="agg", host="127.0.0.1", port=0,
                   endpoints_file=Path(sys.argv[1]), drain_seconds=0.3, grace_seconds=10, file_poll_seconds=0.02))
assert "kubernetes" not in sys.modules and "torch" not in sys.modules and "kopf" not in sys.modules
"""


def write(path: Path, *entries: dict) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({"endpoints": entries}))
    fresh.replace(path)


async def test_a_process_serves_follows_its_file_drains_and_exits_with_0(tmp_path, start_worker):
    worker = await start_worker("w-0", Role.AGG)
    release = asyncio.Event()

    async def slow(worker, seen):
        async with stream(seen) as response:
            await response.write(event("one"))
            await release.wait()
            await response.write(event("two") + DONE)
            return response

    path = tmp_path / "endpoints.json"
    write(path)
    entry = {"name": "w-0", "address": "127.0.0.1", "port": worker.port, "role": "agg", "revision": "r", "ready": True}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, str(path), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        started = json.loads(await asyncio.wait_for(process.stderr.readline(), 20))
        assert started["message"].startswith("the router of d listens on 127.0.0.1:")
        url = "http://" + started["message"].rpartition(" ")[2]
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as client:
            async with client.post(url + "/v1/completions", json={"prompt": "x"}) as response:
                assert response.status == 503
            write(path, entry)
            await becomes(client, url + "/v1/models", 200)
            worker.handler = slow
            async with client.post(url + "/v1/completions", json={"prompt": "x", "stream": True}) as response:
                assert await response.content.readuntil(b"\n\n") == event("one")
                process.send_signal(signal.SIGTERM)
                await becomes(client, url + "/readyz", 503)
                release.set()
                assert workers.text_of(await response.content.read()) == "two"
        out, err = await asyncio.wait_for(process.communicate(), 10)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()
    lines = [json.loads(line) for line in out.splitlines()]
    assert {line["message"] for line in lines} == {"request"}
    assert (lines[0]["outcome"], lines[-1]["outcome"]) == ("no_worker_ready", "ok")
    told = [json.loads(line) for line in err.splitlines()]
    assert [line["level"] for line in told] == ["info", "info"]
    for line in (*lines, *told):
        assert list(line)[:4] == ["time", "level", "logger", "message"]
        assert datetime.fromisoformat(line["time"]).utcoffset() == timedelta(0)


async def becomes(client: aiohttp.ClientSession, url: str, status: int) -> None:
    async with asyncio.timeout(20):
        while True:
            async with client.get(url) as response:
                if response.status == status:
                    return
            await asyncio.sleep(0.01)
