"""The demo: a passage asked from a disaggregated deployment of local processes, and where its tokens came from."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from rich.console import Console

from demo.passages import prompt_of, rest_of
from tandem.api.load import load_deployment
from tandem.local.client import Counters, read_counters, stream_answer
from tandem.local.display import Display
from tandem.local.spec import LOOPBACK, LocalPlan
from tandem.local.supervisor import Supervisor
from tandem.local.up import LocalOptions, address, plan_deployment, run_directory, running, watched
from tandem.manifests import Cluster
from tandem.rendering.library import load_library

DEPLOYMENT_FILE = Path(__file__).parents[1] / "docs" / "examples" / "demo-disagg.yaml"
CLAIM = "models"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was answered, and how fast: seconds to the first and to the last token."""

    text: str
    prompt_tokens: int
    answer_tokens: int
    first_seconds: float
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Speed of decoding: tokens after the first one in the time after it."""
        return (self.answer_tokens - 1) / (self.seconds - self.first_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class HandOff:
    """What the workers counted for one request, summed over the workers of each role."""

    bytes_sent: int
    bytes_received: int
    tokens_received: int
    decode_computed: int
    fallbacks: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that the demo shows."""

    passage: str
    answer: Answer
    hand_off: HandOff

    @property
    def word_for_word(self) -> bool:
        """Whether the answer is the rest of the passage."""
        return self.answer.text == rest_of(self.passage)

    @property
    def handed_off(self) -> bool:
        """Whether the prompt's KV came from prefill, whole and undisturbed; decode computes the last token only."""
        moved = self.hand_off
        whole = moved.bytes_sent == moved.bytes_received > 0
        return whole and moved.decode_computed <= 1 and moved.fallbacks == 0


async def run_demo(
    model: Path, passage: str, *, console: Console, verbose: bool, show: Callable[[str], None]
) -> Outcome:
    """Starts the deployment on `model`, asks for `passage` and stops everything.

    Progress goes to `console`, the answer's text to `show` as it comes. Raises `Refused` and `UnitFailed`.
    """
    deployment = load_deployment(DEPLOYMENT_FILE)
    options = LocalOptions(cluster=Cluster(library=load_library()), port=0, volumes={CLAIM: model})
    with run_directory() as directory:
        plan = plan_deployment(deployment, options, directory=directory)
        with Display(plan, console, verbose=verbose) as display:
            async with running(plan, directory=directory, observer=display) as supervisor:
                display.close()
                asking = _ask(supervisor, passage, model=deployment.served_name, show=show)
                return await watched(supervisor, asking)


async def _ask(supervisor: Supervisor, passage: str, *, model: str, show: Callable[[str], None]) -> Outcome:
    async with aiohttp.ClientSession() as session:
        before = await _counted(session, supervisor.plan)
        base_url = address(supervisor.plan)
        answer = await _answer(session, base_url, model=model, prompt=prompt_of(passage), show=show)
        after = await _counted(session, supervisor.plan)
    counted = HandOff(**{name: round(after[name] - before[name]) for name in after})
    return Outcome(passage, answer, counted)


async def _answer(
    session: aiohttp.ClientSession, base_url: str, *, model: str, prompt: str, show: Callable[[str], None]
) -> Answer:
    texts: list[str] = []
    first = None
    tokens: tuple[int, int] | None = None
    began = time.monotonic()
    async for chunk in stream_answer(session, base_url, model=model, prompt=prompt, max_tokens=256):
        if chunk.text:
            first = first or time.monotonic()
            texts.append(chunk.text)
            show(chunk.text)
        if chunk.prompt_tokens is not None and chunk.answer_tokens is not None:
            tokens = chunk.prompt_tokens, chunk.answer_tokens
    ended = time.monotonic()
    show("\n")
    if first is None or tokens is None:
        raise RuntimeError("the stream ended without text or without usage")
    return Answer(
        text="".join(texts),
        prompt_tokens=tokens[0],
        answer_tokens=tokens[1],
        first_seconds=first - began,
        seconds=ended - began,
    )


async def _counted(session: aiohttp.ClientSession, plan: LocalPlan) -> dict[str, float]:
    """The figures of `HandOff` as the workers' counters have them now."""
    of_role: dict[str, list[Counters]] = {"prefill": [], "decode": []}
    for pod in plan.workers:
        of_role[pod.role].append(await read_counters(session, f"http://{LOOPBACK}:{pod.port}"))

    def total(role: str, name: str, **labels: str) -> float:
        return sum(counters.total(name, **labels) for counters in of_role[role])

    return {
        "bytes_sent": total("prefill", "tandem_kv_transfer_bytes_total", direction="sent"),
        "bytes_received": total("decode", "tandem_kv_transfer_bytes_total", direction="received"),
        "tokens_received": total("decode", "tandem_kv_transfer_tokens_total", direction="received"),
        "decode_computed": total("decode", "tandem_prompt_tokens_total", source="computed"),
        "fallbacks": total("decode", "tandem_local_prefill_fallbacks_total"),
    }
