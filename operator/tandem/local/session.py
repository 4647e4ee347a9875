"""`tandem local up` from its arguments to its exit code."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import aiohttp
import click
from rich.console import Console

from tandem.api.deployment import ModelDeployment
from tandem.api.load import Loaded
from tandem.api.problems import Problem, Refused
from tandem.local.client import refused_handoff, stream_answer, until_handoff_refused
from tandem.local.display import Display, show_tail
from tandem.local.signals import run_until_signalled
from tandem.local.supervisor import Supervisor, UnitFailed
from tandem.local.up import LocalOptions, address, api_key, plan_deployment, run_directory, running, watched


@dataclass(frozen=True, slots=True)
class Question:
    """What `--once` asks; `max_tokens` None leaves the length to the server."""

    prompt: str
    max_tokens: int | None


def run_session(
    deployment: ModelDeployment, source: Loaded, *, options: LocalOptions, question: Question | None, verbose: bool
) -> int:
    """Runs the deployment until it is asked to stop; the exit code. Raises `Refused`, located in `source`."""
    return run_until_signalled(_session(deployment, source, options=options, question=question, verbose=verbose))


async def _session(
    deployment: ModelDeployment, source: Loaded, *, options: LocalOptions, question: Question | None, verbose: bool
) -> int:
    console = Console(stderr=True)
    try:
        with run_directory() as directory:
            with source.locating():
                plan = plan_deployment(deployment, options, directory=directory)
            with Display(plan, console, verbose=verbose) as display:
                async with running(plan, directory=directory, observer=display) as supervisor:
                    display.close()
                    if question is None:
                        await _serve(supervisor, model=deployment.served_name, display=display)
                    else:
                        key = api_key(deployment, options.secrets)
                        answering = _print_answer(address(plan), question, model=deployment.served_name, key=key)
                        await watched(supervisor, answering)
                        await _tell_if_refused(supervisor, display)
    except UnitFailed as failure:
        show_tail(console, failure.cause)
        raise refused_by(failure) from None
    return 0


async def _serve(supervisor: Supervisor, *, model: str, display: Display) -> None:
    display.say(f"{supervisor.plan.deployment} answers as model {model}; Ctrl-C ends it")
    click.echo(address(supervisor.plan))
    telling = asyncio.create_task(_tell_once_refused(supervisor, display))
    try:
        await supervisor.until_failed()
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)


async def _tell_once_refused(supervisor: Supervisor, display: Display) -> None:
    """Workers that do not fit together still answer right, so nothing else would show it."""
    if _hands_off(supervisor):
        async with aiohttp.ClientSession() as session:
            display.say(f"warning: {await until_handoff_refused(session, address(supervisor.plan))}")


async def _tell_if_refused(supervisor: Supervisor, display: Display) -> None:
    if _hands_off(supervisor):
        async with aiohttp.ClientSession() as session:
            told = await refused_handoff(session, address(supervisor.plan))
        if told is not None:
            display.say(f"warning: {told}")


def _hands_off(supervisor: Supervisor) -> bool:
    return any(pod.role == "decode" for pod in supervisor.plan.workers)


async def _print_answer(base_url: str, question: Question, *, model: str, key: str | None) -> None:
    async with aiohttp.ClientSession() as session:
        answer = stream_answer(
            session, base_url, model=model, prompt=question.prompt, max_tokens=question.max_tokens, api_key=key
        )
        async for chunk in answer:
            click.echo(chunk.text, nl=False)
    click.echo()


def refused_by(failure: UnitFailed) -> Refused:
    """A unit that was given up, as a located error."""
    cause = failure.cause
    reason = cause.reason if cause.attempts == 1 else f"{cause.reason}, {cause.attempts} times in a row"
    return Refused([Problem(cause.unit, "", reason, f"All it wrote is in {failure.log}.")])
