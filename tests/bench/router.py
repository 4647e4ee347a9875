"""What the router adds to a request, on loopback: a bare worker asked directly, and the same worker through the router.

Worker, router and client are processes of their own. Direct and routed requests take turns, so that a busy machine
slows both. Prints one JSON object; milliseconds unless the name says otherwise.
"""

from __future__ import annotations

import asyncio
import json
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import psutil

REQUESTS = 1500
STREAMS = 200
EVENTS = 50
EVENT_SECONDS = 0.002
CLIENTS = 32
SECONDS = 4.0
BODY = {"model": "m", "prompt": "word " * 400, "max_tokens": 64}

WORKER = """
import asyncio, sys
from tests.bench.router import serve_worker
asyncio.run(serve_worker(int(sys.argv[1])))
"""
ROUTER = """
import sys
from pathlib import Path
from tandem.gateway.server import run
from tandem.gateway.settings import RouterSettings
run(RouterSettings(deployment="bench", served_model_name="m", backend="torch", mode=sys.argv[1], host="127.0.0.1",
                   port=int(sys.argv[2]), endpoints_file=Path(sys.argv[3]), drain_seconds=0))
"""


class BareWorker(asyncio.Protocol):
    """As little HTTP as will do: it must not be what is measured."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came."""
        self._transport = transport
        self._received = b""

    def data_received(self, data: bytes) -> None:
        """Answers each request that is complete."""
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:end].lower()
            length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
            if len(self._received) < end + 4 + length:
                return
            body = self._received[end + 4 : end + 4 + length]
            self._received = self._received[end + 4 + length :]
            self._answer(body)

    def _answer(self, body: bytes) -> None:
        if b'"do_remote_decode":true' in body:
            params = {
                "do_remote_prefill": True, "do_remote_decode": False, "remote_engine_id": "e", "remote_request_id": "r",
                "remote_host": "127.0.0.1", "remote_port": 1, "remote_num_tokens": 1, "remote_lease_seconds": 30,
                "remote_token": "t",
            }  # fmt: skip
            self._whole({"choices": [{"text": "x"}], "kv_transfer_params": params})
        elif b'"stream": true' in body:
            head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            self._transport.write(head)
            self._events(EVENTS)
        else:
            self._whole({"choices": [{"text": "word " * 64}], "usage": {"completion_tokens": 64}})

    def _whole(self, value: object) -> None:
        content = json.dumps(value).encode()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(content)
        self._transport.write(head + content)

    def _events(self, left: int) -> None:
        if not left:
            self._transport.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
            return
        self._transport.write(chunk(b'data: {"choices":[{"index":0,"text":" word","finish_reason":null}]}\n\n'))
        asyncio.get_running_loop().call_later(EVENT_SECONDS, self._events, left - 1)


def chunk(data: bytes) -> bytes:
    """`data` as one chunk of a chunked answer."""
    return b"%x\r\n%s\r\n" % (len(data), data)


async def serve_worker(port: int) -> None:
    """The worker process."""
    server = await asyncio.get_running_loop().create_server(BareWorker, "127.0.0.1", port)
    await server.serve_forever()


@asynccontextmanager
async def process(program: str, *arguments: str, port: int) -> AsyncIterator[psutil.Process]:
    """A process that listens on `port`; ended afterwards."""
    null = asyncio.subprocess.DEVNULL
    started = await asyncio.create_subprocess_exec(sys.executable, "-c", program, *arguments, stdout=null, stderr=null)
    try:
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                break
            except OSError:
                if started.returncode is not None:
                    raise
                await asyncio.sleep(0.05)
        yield psutil.Process(started.pid)
    finally:
        started.terminate()
        await started.wait()


async def ask(session: aiohttp.ClientSession, url: str, body: bytes) -> float:
    """Seconds that a request and its whole answer take."""
    began = time.perf_counter()
    async with session.post(url, data=body, headers={"Content-Type": "application/json"}) as response:
        response.raise_for_status()
        await response.read()
    return time.perf_counter() - began


async def first_event(session: aiohttp.ClientSession, url: str, body: bytes) -> float:
    """Seconds to a stream's first event; reads it to its end."""
    began = time.perf_counter()
    async with session.post(url, data=body, headers={"Content-Type": "application/json"}) as response:
        await response.content.readany()
        first = time.perf_counter() - began
        await response.read()
    return first


async def throughput(session: aiohttp.ClientSession, url: str, body: bytes) -> float:
    """Requests per second of `CLIENTS` clients that never pause."""
    done = 0
    end = time.perf_counter() + SECONDS

    async def client() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await ask(session, url, body)
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return done / (time.perf_counter() - began)


def at(values: Sequence[float], share: float) -> float:
    """A percentile in milliseconds."""
    return round(statistics.quantiles(values, n=100, method="inclusive")[round(share * 100) - 1] * 1000, 3)


class Times:
    """Pairs of a direct and a routed time, in seconds."""

    def __init__(self) -> None:
        self.direct: list[float] = []
        self.routed: list[float] = []

    def add(self, direct: float, routed: float) -> None:
        """One of each."""
        self.direct.append(direct)
        self.routed.append(routed)

    def added(self) -> dict[str, float]:
        """Percentiles of both in milliseconds, and what the router adds to each."""
        found = {}
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            direct, routed = at(self.direct, share), at(self.routed, share)
            found |= {f"direct_{name}": direct, f"routed_{name}": routed, f"added_{name}": round(routed - direct, 3)}
        return found


async def measure(worker: str, router: str, running: psutil.Process) -> dict[str, object]:
    """All measurements of one router."""
    whole = json.dumps(BODY).encode()
    stream = json.dumps({**BODY, "stream": True}).encode()
    path = "/v1/completions"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        for url in (worker, router):
            for _ in range(200):
                await ask(session, url + path, whole)
        whole_times = Times()
        for _ in range(REQUESTS):
            whole_times.add(await ask(session, worker + path, whole), await ask(session, router + path, whole))
        first_times = Times()
        for _ in range(STREAMS // 4):
            first_times.add(
                await first_event(session, worker + path, stream), await first_event(session, router + path, stream)
            )
        direct_rate = await throughput(session, worker + path, whole)
        spent = cpu_seconds(running)
        rate = await throughput(session, router + path, whole)
        per_request = (cpu_seconds(running) - spent) / (rate * SECONDS)
        spent = cpu_seconds(running)
        await asyncio.gather(*(first_event(session, router + path, stream) for _ in range(STREAMS)))
        per_stream = (cpu_seconds(running) - spent) / STREAMS
        return {
            "request": whole_times.added(),
            "first_event": first_times.added(),
            "requests_per_second": round(rate),
            "requests_per_second_direct": round(direct_rate),
            "router_cpu_ms_per_request": round(per_request * 1000, 3),
            "router_cpu_us_per_event": round(max(0.0, per_stream - per_request) / EVENTS * 1e6, 1),
            "router_rss_mb": round(running.memory_info().rss / 2**20, 1),
        }


def cpu_seconds(running: psutil.Process) -> float:
    """CPU time that a process has used."""
    times = running.cpu_times()
    return float(times.user + times.system)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


async def bench() -> dict[str, object]:
    """Both modes, one after the other."""
    results: dict[str, object] = {}
    worker_port = free_port()
    async with process(WORKER, str(worker_port), port=worker_port):
        for mode, roles in (("agg", ["agg"]), ("disagg", ["prefill", "decode"])):
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "endpoints.json"
                endpoints = [
                    {"name": role, "address": "127.0.0.1", "port": worker_port, "role": role, "revision": "r",
                     "ready": True} for role in roles
                ]  # fmt: skip
                file.write_text(json.dumps({"endpoints": endpoints}))
                port = free_port()
                async with process(ROUTER, mode, str(port), str(file), port=port) as running:
                    urls = f"http://127.0.0.1:{worker_port}", f"http://127.0.0.1:{port}"
                    results[mode] = await measure(*urls, running)
    return results


def main() -> None:
    """Prints the result as JSON."""
    print(json.dumps(asyncio.run(bench())))


if __name__ == "__main__":
    main()
