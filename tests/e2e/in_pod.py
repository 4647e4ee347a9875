"""Runs inside the client pod (`python in_pod.py COMMAND …`), beside nothing but the operator image's packages.

`get URL` and `post URL BODY…` print a list of {"status", "headers", "text"} as JSON. `traffic URL BODY RATE STOP` posts
at a constant rate over new connections until the file STOP exists, then prints {"sent", "failures", "slowest"}; it
makes the file STOP.flows when some answers are in.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp

TIMEOUT = aiohttp.ClientTimeout(total=120)
# A request that waits longer than this for its turn would hide that the service stands still.
MOST_AT_ONCE = 64
ENOUGH = 5


async def get(url: str) -> list[dict[str, Any]]:
    async with aiohttp.ClientSession(timeout=TIMEOUT) as session, session.get(url) as answer:
        return [await _read(answer)]


async def post(url: str, *bodies: str) -> list[dict[str, Any]]:
    """One request after the other, with the API key in the environment."""
    answers = []
    headers = {"Authorization": f"Bearer {os.environ['API_KEY']}"} if os.environ.get("API_KEY") else {}
    async with aiohttp.ClientSession(timeout=TIMEOUT, headers=headers) as session:
        for body in bodies:
            async with session.post(url, json=json.loads(body)) as answer:
                answers.append(await _read(answer))
    return answers


async def traffic(url: str, body: str, rate: str, stop: str) -> dict[str, Any]:
    """Each answer must be 200 and, as `body` asks greedily, word for word the first one."""
    document, period = json.loads(body), 1 / float(rate)
    failures: list[str] = []
    slowest, expected, answered = 0.0, "", 0

    async def one(session: aiohttp.ClientSession) -> None:
        nonlocal slowest, expected, answered
        started = time.monotonic()
        try:
            async with session.post(url, json=document) as answer:
                text = await answer.text()
            generated = json.loads(text)["choices"][0]["text"] if answer.status == 200 else None
            expected = expected or generated
            if generated is None:
                failures.append(f"{time.time():.1f} {answer.status} {text[:300]}")
            elif generated != expected:
                failures.append(f"{time.time():.1f} another text: {generated!r}")
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            failures.append(f"{time.time():.1f} {error!r}")
        slowest = max(slowest, time.monotonic() - started)
        answered += 1
        if answered == ENOUGH:
            Path(f"{stop}.flows").touch()  # noqa: ASYNC240 - a local file

    sent, tasks = 0, set()
    connector = aiohttp.TCPConnector(force_close=True, limit=MOST_AT_ONCE)
    async with aiohttp.ClientSession(timeout=TIMEOUT, connector=connector) as session:
        due = time.monotonic()
        while not Path(stop).exists():  # noqa: ASYNC240 - a local file
            if len(tasks) < MOST_AT_ONCE:
                task = asyncio.create_task(one(session))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                sent += 1
            due += period
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        await asyncio.gather(*tasks)
    return {"sent": sent, "failures": failures, "slowest": round(slowest, 2)}


async def _read(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    return {"status": answer.status, "headers": dict(answer.headers), "text": await answer.text()}


COMMANDS = {"get": get, "post": post, "traffic": traffic}

if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    print(json.dumps(asyncio.run(COMMANDS[command](*arguments))))
