"""The whole way from a file to a deployment that answers on this machine, and back to nothing."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from tandem.api.deployment import ModelDeployment
from tandem.api.problems import Problem, Refused, refuse
from tandem.local.client import until_router_knows
from tandem.local.environment import key_fix
from tandem.local.machine import free_port, port_is_free, this_machine
from tandem.local.plan import make_plan
from tandem.local.policy import RestartPolicy
from tandem.local.rundir import owned_directory
from tandem.local.spec import LOOPBACK, LocalPlan
from tandem.local.supervisor import Observer, Supervisor, UnitFailed
from tandem.manifests import build
from tandem.manifests.cluster import Cluster
from tandem.manifests.names import HTTP_PORT

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalOptions:
    """What the user says beside the deployment itself.

    `cluster` is what the deployment is built for. `port` None: 8000, which must be free; 0: a free one. `volumes` are
    directories by claim name, `secrets` values by (Secret, key).
    """

    cluster: Cluster
    port: int | None = None
    volumes: Mapping[str, Path] = field(default_factory=dict)
    secrets: Mapping[tuple[str, str], str] = field(default_factory=dict)


@contextmanager
def run_directory() -> Iterator[Path]:
    """A directory for files, logs and scratch space, removed at the end; of a unit that failed the logs stay."""
    kept = None
    with owned_directory() as directory:
        try:
            yield directory
        except UnitFailed:
            kept = logs_of(directory)
            raise
        finally:
            for entry in directory.iterdir():
                if entry != kept:
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            if kept is None:
                directory.rmdir()


def plan_deployment(deployment: ModelDeployment, options: LocalOptions, *, directory: Path) -> LocalPlan:
    """What will run; raises `Refused` with everything that is missing, before anything has started."""
    problems = [
        *_volume_problems(options.volumes),
        *_model_problems(deployment, options.volumes),
        *_key_problems(deployment, options.secrets),
    ]
    if problems:
        raise Refused(problems)
    built = build(deployment, cluster=options.cluster)
    if built.unknown_fields:
        raise Refused(built.unknown_fields)  # here is no API server to judge them
    machine = this_machine(
        directory=directory,
        port=_address_port(options.port),
        volumes=options.volumes,
        secrets=options.secrets,
    )
    try:
        return make_plan(built.objects, machine=machine)
    except Refused as refused:
        raise Refused(dict.fromkeys(_in_spec(problem, deployment) for problem in refused.problems)) from None


@asynccontextmanager
async def running(
    plan: LocalPlan, *, directory: Path, observer: Observer, policy: RestartPolicy | None = None
) -> AsyncIterator[Supervisor]:
    """The deployment, up and known to its router; leaving it ends every process. Raises `UnitFailed`."""
    async with Supervisor(plan, logs=logs_of(directory), observer=observer, policy=policy) as supervisor:
        await supervisor.until_ready()
        async with aiohttp.ClientSession() as session:
            await watched(supervisor, until_router_knows(session, address(plan), workers=len(plan.workers)))
        yield supervisor


def logs_of(directory: Path) -> Path:
    """Where a run writes the output of its processes."""
    return directory / "logs"


def address(plan: LocalPlan) -> str:
    """The base URL for clients."""
    return f"http://{LOOPBACK}:{plan.port}"


async def watched(supervisor: Supervisor, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`; raises `UnitFailed` as soon as a unit is given up before that."""
    doing = asyncio.ensure_future(work)
    failing = asyncio.ensure_future(supervisor.until_failed())
    try:
        await asyncio.wait((doing, failing), return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            failing.result()
        return doing.result()
    finally:
        for task in (doing, failing):
            task.cancel()
        await asyncio.gather(doing, failing, return_exceptions=True)


def _address_port(asked: int | None) -> int:
    if asked == 0:
        return free_port()
    port = HTTP_PORT if asked is None else asked
    if not port_is_free(port):
        raise refuse("--port", port, "another process listens on this port", "End it, or give another one with --port.")
    return port


def _in_spec(problem: Problem, deployment: ModelDeployment) -> Problem:
    """The problem at the field of the deployment that it comes from, when that is the model's claim."""
    source = deployment.spec.model.pvc
    of_claim = problem.path.endswith(".persistentVolumeClaim.claimName")
    if source is None or not of_claim or problem.value != repr(source.claim_name):
        return problem
    return Problem("spec.model.pvc.claimName", problem.value, problem.reason, problem.fix)


def api_key(deployment: ModelDeployment, secrets: Mapping[tuple[str, str], str]) -> str | None:
    """One of the keys that clients of the deployment need; None when they need none, or none is known."""
    access = deployment.spec.access
    if access is None or access.api_keys_secret_ref is None:
        return None
    reference = access.api_keys_secret_ref
    return next(iter(secrets.get((reference.name, reference.key), "").split()), None)


def _key_problems(deployment: ModelDeployment, secrets: Mapping[tuple[str, str], str]) -> Iterator[Problem]:
    access = deployment.spec.access
    reference = access.api_keys_secret_ref if access is not None else None
    if reference is not None and api_key(deployment, secrets) is None:
        shown, fix = f"{reference.name}/{reference.key}", key_fix(reference.name, reference.key)
        yield Problem("spec.access.apiKeysSecretRef", shown, "there are no API keys here", fix)


def _volume_problems(volumes: Mapping[str, Path]) -> Iterator[Problem]:
    for claim, directory in volumes.items():
        if not directory.is_dir():
            reason = "there is no such directory"
            yield Problem(f"--volume {claim}", repr(str(directory)), reason, "Give the directory that holds the model.")


def _model_problems(deployment: ModelDeployment, volumes: Mapping[str, Path]) -> Iterator[Problem]:
    """What is wrong with a model on a volume; a volume that is not given or not there is told elsewhere."""
    source = deployment.spec.model.pvc
    if source is None or not (volume := volumes.get(source.claim_name)) or not volume.is_dir():
        return
    model = volume / source.path
    if not model.is_dir():
        reason = f"the volume has no such directory (looked for {model})"
        yield Problem("spec.model.pvc.path", repr(source.path), reason, "Correct the path or the --volume.")
    elif not (model / "config.json").is_file():
        lacking = "has no config.json" if any(model.iterdir()) else "is empty"
        reason = f"{model} {lacking}, so it is not a model"
        yield Problem("spec.model.pvc.path", repr(source.path), reason, "Give a directory in Hugging Face format.")
