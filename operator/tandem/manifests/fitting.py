"""What a model needs of the workers of a deployment: defaults that follow from it, and whether it fits. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

from pydantic.alias_generators import to_camel

from tandem.api.deployment import ModelDeployment, RoleName
from tandem.api.problems import Problem, refuse
from tandem.api.quantity import quantity
from tandem.blueprint.ask import load_of, served
from tandem.blueprint.derive import Derived, bounded, derive
from tandem.blueprint.fits import CPU_RESERVE, Change, Room, Verdict, changes, judge, shown
from tandem.blueprint.gpus import GPUS
from tandem.blueprint.memory import Load
from tandem.blueprint.model import Blueprint
from tandem.blueprint.split import ONE, Split, split_of
from tandem.manifests.resources import is_accelerator, resource_lists
from tandem.rendering.extra import given_flags
from tandem.rendering.values import ParameterValue

GPU_MEMORY_LABEL = "nvidia.com/gpu.memory"  # MiB
GPU_PRODUCT_LABEL = "nvidia.com/gpu.product"
_MIB = 2**20
_USABLE = 0.9
_FORMATS = frozenset(("--dtype", "--quantization"))
# Defaults leave some of a pod's memory free: what is predicted is near the truth, and above the limit is the end.
_LEFT_FREE = 0.1


class GpuLimit(NamedTuple):
    """How many GPUs a pod may have, by which resource."""

    gpus: int
    resource: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleFit:
    """The verdict on one worker of a role: what is asked of it, how it is shared, and single changes that would do."""

    role: RoleName
    load: Load
    split: Split
    gpu: bool
    verdict: Verdict
    changes: tuple[Change, ...] = ()
    limit: GpuLimit | None = None

    @property
    def where(self) -> str:
        """What it runs on."""
        if not self.gpu:
            return "the CPU"
        return "1 GPU" if self.split.gpus == 1 else f"{self.split.gpus} GPUs, the fullest of which"

    @property
    def has_room(self) -> bool:
        """Whether the memory suffices, whatever else is wrong."""
        return self.verdict.needed <= self.verdict.available

    @property
    def told(self) -> str:
        """What is asked, and the verdict with its numbers."""
        copies = f"{self.load.copies} copies × " if self.load.copies > 1 else ""
        batch, tokens = self.load.batch // self.load.copies, self.load.cache_tokens
        asked = f"{copies}batch {batch} × {self.load.length} tokens"
        cache = "" if tokens is None else f" in a KV cache of {tokens} tokens"
        named = (replace(each, path=_as_written(each.path)) for each in self.verdict.problems)
        return f"{self.role}: {asked}{cache} on {self.where}: {replace(self.verdict, problems=tuple(named))}"

    @property
    def ways(self) -> tuple[str, ...]:
        """The changes, for people; without a GPU also the memory that would do."""
        ways = tuple(f"{self._way(each)} (needs {shown(each.needed)})" for each in self.changes)
        if self.gpu or self.verdict.fits or self.verdict.problems:
            return ways
        return (*ways, f"resources.limits.memory: {-(-self.verdict.needed // 2**30)}Gi")

    def _way(self, change: Change) -> str:
        if change.parameter == "weights":
            return f"a checkpoint in {str(change.value).upper()}"
        limit, way = self.limit, f"{to_camel(change.parameter)}: {change.value}"
        if change.parameter != "tensor_parallel_size" or limit is None or int(change.value) <= limit.gpus:
            return way
        return f"{way} and {limit.resource}: {change.value}"

    @property
    def problem(self) -> Problem | None:
        """Why the role is not rolled out; None when it fits."""
        if self.verdict.fits:
            return None
        ways = "Correct that" if self.has_room else "Use a smaller model or more memory"
        ways = f"Use {' or '.join(self.ways)}" if self.ways else ways
        return Problem(f"spec.roles.{self.role}", "", self.told, f"{ways}, or set spec.overrideFits: true.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unjudged:
    """A role whose memory nobody knows, and why."""

    role: RoleName
    why: Problem

    @property
    def problem(self) -> None:
        """Nothing is known to be wrong."""
        return None


def as_served(deployment: ModelDeployment, role: RoleName, blueprint: Blueprint, *, gpu: bool) -> Blueprint:
    """The blueprint in the number formats that a role computes in, as its `extraArgs` have them."""
    given = {name: values for name, *values in given_flags(deployment.role(role).extra_args or (), _FORMATS)}
    dtype, quantization = (next(iter(given.get(name, ())), None) for name in ("--dtype", "--quantization"))
    return served(blueprint, deployment.spec.backend, gpu=gpu, dtype=dtype, quantization=quantization)


def derived(
    deployment: ModelDeployment,
    role: RoleName,
    parameters: Sequence[ParameterValue],
    blueprint: Blueprint,
    *,
    gpu_memory: Mapping[str, int],
    gpus: int,
) -> Derived:
    """Defaults of a role for what nobody gave; `parameters` are those in effect without them, of all roles."""
    given = _given(role, parameters, with_derived=False)
    room = room_of(deployment, role, given, gpu_memory)
    known = room if isinstance(room, Room) else None
    if known is not None and not known.gpu:
        known = replace(known, usable=known.usable - _LEFT_FREE)
    limit = gpu_limit(deployment, role)
    sla = deployment.spec.sla
    typical = (sla.isl or 0) + (sla.osl or 0) if sla else 0
    found = derive(
        as_served(deployment, role, blueprint, gpu=uses_gpu(deployment, role) if known is None else known.gpu),
        deployment.spec.backend,
        given,
        known,
        gpus=limit.gpus if limit else gpus,
        whole=limit is not None,
        typical=typical or None,
        waits=_waits(role, parameters),
    )
    tokens = {"kv_cache_max_tokens": found.load.batch * found.load.length}
    sized = "max_batch_size" in given and not _waits(role, parameters)
    if known is None or not found.fits or deployment.spec.backend != "torch" or sized:
        return found
    # The bundled server would take what is free for as many sequences as may run: its cache is what was judged.
    return replace(found, parameters={**({} if tokens.keys() & given.keys() else tokens), **found.parameters})


def judge_roles(
    deployment: ModelDeployment,
    parameters: Sequence[ParameterValue],
    blueprint: Blueprint,
    *,
    gpu_memory: Mapping[str, int],
    gpus: int,
    settled: bool = False,
) -> tuple[RoleFit | Unjudged, ...]:
    """The verdict on each role with the parameters in effect. `gpu_memory` are the bytes of a role's GPUs, as far as
    they are known beside the spec; `gpus` are the most that a worker may take on one node. `settled`: nothing follows
    from the memory any more, as workers have these parameters already."""
    found: list[RoleFit | Unjudged] = []
    for role in deployment.role_names():
        given = _given(role, parameters, with_derived=True)
        room = room_of(deployment, role, given, gpu_memory)
        if isinstance(room, Problem):
            found.append(Unjudged(role=role, why=room))
            continue
        model = as_served(deployment, role, blueprint, gpu=room.gpu)
        if not settled and any(value.role == role and value.source == "blueprint" for value in parameters):
            defaults = derived(deployment, role, parameters, blueprint, gpu_memory=gpu_memory, gpus=gpus)
            load, split = defaults.load, defaults.split
        else:
            split = split_of(deployment.spec.backend, given) if room.gpu else ONE
            load = load_of(deployment.spec.backend, given, model, split)
            load = bounded(model, load, split, room) if _waits(role, parameters) else load
        verdict, limit = judge(model, load, split, room), gpu_limit(deployment, role)
        possible: tuple[Change, ...] = ()
        if not verdict.fits:
            engine = deployment.spec.backend != "torch"
            shared = _shared(deployment.spec.backend, given, model, room, waits=_waits(role, parameters))
            possible = changes(model, load, split, room, fp8=engine, shareable=engine, shared=shared)
        verdict = verdict if limit is None or not room.gpu else _with_gpus(verdict, limit, min(split.gpus, gpus))
        found.append(
            RoleFit(role=role, load=load, split=split, gpu=room.gpu, verdict=verdict, changes=possible, limit=limit)
        )
    return tuple(found)


def room_of(
    deployment: ModelDeployment, role: RoleName, given: Mapping[str, object], gpu_memory: Mapping[str, int]
) -> Room | Problem:
    """What one worker of a role may use: of each GPU, or of its memory limit; or why that is not known."""
    size = gpu_memory.get(role)
    if size is None and uses_gpu(deployment, role):
        size = memory_of_labels(_selector(deployment, role))
        if size is None:
            reason = "the memory of the role's GPUs is not known"
            fix = f"Name them in its nodeSelector, as {GPU_PRODUCT_LABEL}, or label the nodes with {GPU_MEMORY_LABEL}."
            return Problem(f"spec.roles.{role}.podTemplate.spec.nodeSelector", "", reason, fix)
    if size is not None:
        share = given.get("kv_cache_free_gpu_memory_fraction")
        # TensorRT-LLM's fraction is of what the weights leave free, and so bounds nothing here.
        own = isinstance(share, float) and deployment.spec.backend != "trtllm"
        return Room(memory=size, usable=float(str(share)) if own else _USABLE)
    path = f"spec.roles.{role}.resources.limits.memory"
    limit = resource_lists(deployment.role(role).resources).get("limits", {}).get("memory")
    if limit is None:
        return Problem(path, "", "there is no memory limit to judge against", "Set it.")
    return Room(memory=memory_bytes(path, limit), usable=1.0, reserve=CPU_RESERVE, gpu=False)


def memory_bytes(path: str, text: object) -> int:
    """An amount of memory; raises `Refused`."""
    size = quantity(text)
    if size is None or not 1 <= size < 2**63:
        raise refuse(path, text, "this is no amount of memory", "Write 80Gi.")
    return int(size)


def uses_gpu(deployment: ModelDeployment, role: RoleName) -> bool:
    """Whether the role's workers run on GPUs: as its resources say, else as its backend does."""
    amounts = [
        amount
        for resources in resource_lists(deployment.role(role).resources).values()
        for name, amount in resources.items()
        if is_accelerator(name)
    ]
    return any(amount != "0" for amount in amounts) if amounts else deployment.spec.backend != "torch"


def gpu_limit(deployment: ModelDeployment, role: RoleName) -> GpuLimit | None:
    """The GPUs that the user gives a pod of a worker; None where nobody says."""
    limits = resource_lists(deployment.role(role).resources).get("limits", {})
    found = [
        GpuLimit(int(amount), name) for name, amount in limits.items() if is_accelerator(name) and amount.isdigit()
    ]
    most = max(found, default=None)
    return most if most and most.gpus else None


def _shared(
    backend: str, given: Mapping[str, object], model: Blueprint, room: Room, *, waits: bool
) -> Callable[[int], tuple[Load, Split]]:
    """Load and split for another tensor parallel size."""

    def shared(size: int) -> tuple[Load, Split]:
        values = {**given, "tensor_parallel_size": size}
        split = split_of(backend, values)
        load = load_of(backend, values, model, split)
        return (bounded(model, load, split, room) if waits else load), split

    return shared


def _with_gpus(verdict: Verdict, limit: GpuLimit, needed: int) -> Verdict:
    """What needs more GPUs than its pod is given cannot start."""
    if needed <= limit.gpus:
        return verdict
    path, reason = f"resources.limits[{limit.resource}]", f"the parallel sizes need {needed} GPUs"
    problem = Problem(path, str(limit.gpus), reason, f"Leave it out to get {needed}.")
    return replace(verdict, fits=False, problems=(*verdict.problems, problem))


def gpu_memory_of(deployment: ModelDeployment, nodes: Sequence[Mapping[str, str]]) -> dict[str, int]:
    """Bytes of a role's smallest GPU, by role, among the nodes (by their labels) that its nodeSelector allows."""
    found: dict[str, int] = {}
    for role in deployment.role_names():
        if uses_gpu(deployment, role):
            selector = _selector(deployment, role).items()
            sizes = [memory_of_labels(labels) for labels in nodes if selector <= labels.items()]
            if known := [size for size in sizes if size is not None]:
                found[role] = min(known)
    return found


def memory_of_labels(labels: Mapping[str, str]) -> int | None:
    """Bytes of a node's GPUs by its labels (or a node selector); None where they do not say."""
    size = labels.get(GPU_MEMORY_LABEL, "")
    if size.isdigit() and 0 < int(size) < 2**40:
        return int(size) * _MIB
    product = labels.get(GPU_PRODUCT_LABEL, "").upper()
    words = re.split(r"[^A-Z0-9]+", product)
    # NVIDIA-H100-80GB-HBM3, Tesla-T4, NVIDIA-GeForce-RTX-4090
    named = [name for name in GPUS if _family(name) in (*words, *map("".join, pairwise(words)))]
    exact = [name for name in named if name.rpartition("-")[2].upper() in words]
    chosen = exact or named
    return GPUS[chosen[0]] if len(chosen) == 1 else None


def _as_written(path: str) -> str:
    """A parameter as in YAML."""
    return to_camel(path) if path.replace("_", "").isalpha() else path


def _family(name: str) -> str:
    return name.partition("-")[0].upper()


def _selector(deployment: ModelDeployment, role: RoleName) -> Mapping[str, str]:
    spec = (deployment.role(role).pod_template or {}).get("spec")
    found = spec.get("nodeSelector") if isinstance(spec, dict) else None
    if not isinstance(found, dict):
        return {}
    return {key: value for key, value in found.items() if isinstance(key, str) and isinstance(value, str)}


def _given(role: str, parameters: Iterable[ParameterValue], *, with_derived: bool) -> dict[str, object]:
    """What is asked of a role."""
    return {
        value.name: value.value
        for value in parameters
        if value.role == role and (with_derived or value.source != "blueprint")
    }


def _waits(role: str, parameters: Iterable[ParameterValue]) -> bool:
    """Whether the batch size is no wish of the user, but how many sequences may run if there is room for them."""
    sources = (value.source for value in parameters if (value.role, value.name) == (role, "max_batch_size"))
    return any(source in ("rule", "default") for source in sources)
