"""`run_<n>.sh`: starts the workers of machine n, and on the first machine the frontend. Pure.

A worker that takes several machines is one process on each; they meet at the first of these, which is also where it is
reached. All of them have the same ports.

Every value is quoted for the shell, so it arrives as it was written. What a pod learns from the cluster is a variable:
POD_IP is the machine's own address, NODE_<n>_IP that of machine n.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from tandem.api.deployment import ModelDeployment, RoleName
from tandem.api.problems import refuse
from tandem.generator.engine import shell_value, shell_word
from tandem.generator.inputs import Inputs
from tandem.generator.placement import Node, Place, Pool, place
from tandem.generator.ports import Ports, take_on_all
from tandem.generator.translate import blueprint_of
from tandem.manifests.backends import BACKENDS
from tandem.manifests.backends.base import BackendPods, Part
from tandem.manifests.cluster import GPUS_PER_NODE
from tandem.manifests.placement import spread
from tandem.manifests.request import rendering_request
from tandem.rendering.library import Library
from tandem.rendering.parameters import Given
from tandem.rendering.pipeline import ModelFacts, Rendering, render
from tandem.rendering.values import EnvRef, RoleRendering

# Stands for the directory of a role's files; no argument that a user writes can hold it.
_FILES = "\x00files\x00"
_MEETING = "disaggregation_bootstrap_port"
_ENGINE_ARGUMENTS = "extra_engine_args.yaml"
# Where the processes of a worker meet, engines take further ports right above: SGLang 7 and one for each copy.
_PORTS_WHERE_THEY_MEET = 32
_HEAD = """\
#!/bin/bash
# {title}
# Written by `tandem generator`; needs bash 4.3 or newer, and the programs that it starts.
set -euo pipefail
scratch=$(mktemp -d)
pids=()
finish() {{
    trap - EXIT INT TERM
    [ "${{#pids[@]}}" -eq 0 ] || kill -- "${{pids[@]}}" 2>/dev/null || true
    wait
    rm -rf -- "$scratch"
}}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
start() {{
    "$@" &
    pids+=("$!")
}}
"""
_TAIL = """
# The first process that ends, ends all.
wait -n
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scripts:
    """What the scripts are made of. `rendering` is that of the pods; `facts` name the model as machines see it."""

    inputs: Inputs
    deployment: ModelDeployment
    facts: ModelFacts
    library: Library
    rendering: Rendering

    def texts(self) -> dict[str, str]:
        """File name and text of every script."""
        per_node = gpus_per_node(self.inputs)
        nodes = place(tuple(self._pools(per_node)), gpus_per_node=per_node)
        processes = self._processes(nodes)
        return {f"run_{node.index}.sh": self._script(node, nodes, processes) for node in nodes}

    @property
    def _backend(self) -> BackendPods:
        return BACKENDS[self.deployment.spec.backend]

    def _pools(self, per_node: int) -> Iterator[Pool]:
        for name, role in zip(self.deployment.role_names(), self.rendering.roles, strict=True):
            placement = spread(role, self._backend, per_node)
            yield Pool(name, self.deployment.replicas(name), placement.gpus, placement.nodes)

    def _processes(self, nodes: tuple[Node, ...]) -> dict[int, list[_Process]]:
        """What runs on each machine, with the ports that are theirs there."""
        ports = [Ports() for _ in nodes]
        for each in ports:
            each.take(self.inputs.number("ServiceConfig.port"), key="ServiceConfig.port")
        parts: dict[str, list[Place]] = {}
        for part in sorted((part for node in nodes for part in node.places), key=self._order):
            parts.setdefault(part.name, []).append(part)
        found: dict[int, list[_Process]] = {node.index: [] for node in nodes}
        for worker in parts.values():
            process = self._process(worker[0], [ports[machine] for machine in worker[0].machines])
            for part, machine in zip(worker, worker[0].machines, strict=True):
                found[machine].append(replace(process, worker=part))
        return found

    def _order(self, part: Place) -> tuple[int, int, int]:
        """Workers in the order in which they were placed, the parts of each beginning with the leader."""
        return self.deployment.role_names().index(part.role), part.index, part.rank

    def _process(self, worker: Place, ports: list[Ports]) -> _Process:
        inputs = self.inputs
        port = take_on_all(ports, inputs.number("ServiceConfig.port") + 1, key="ServiceConfig.port")
        request = rendering_request(self.deployment, self.facts, blueprint_of(self.inputs))
        role = next(found for found in request.roles if found.name == worker.role)
        given, extra = dict(role.given), role.extra_arguments
        meeting = self._meeting_ports(worker.role)
        if meeting is not None:
            key, first = self._first_meeting_port(given, meeting)
            given[_MEETING] = Given(take_on_all(ports, first, key=key, count=len(meeting)), "user", key)
        if inputs.get("DynConfig.enable_router") and inputs.get("ServiceConfig.dyn_vllm_kv_event_port") is not None:
            key = "ServiceConfig.dyn_vllm_kv_event_port"
            extra = (*extra, *_kv_events(take_on_all(ports, inputs.number(key), key=key)))
        request = replace(
            request,
            roles=(replace(role, given=given, extra_arguments=extra),),
            names={**request.names, "port": port, "config_dir": _FILES},
        )
        met_at = given[_MEETING].value if meeting is not None and self.deployment.spec.backend == "sglang" else None
        together = None
        if len(ports) > 1:
            key, first = f"Workers.{worker.role}", self._backend.meeting_port
            together = take_on_all(ports, first, key=key, count=_PORTS_WHERE_THEY_MEET)
        rendered = render(request, self.library).roles[0]
        return _Process(worker, port, rendered, own=len(extra), met_at=met_at, together=together)

    def _meeting_ports(self, role: str) -> range | None:
        """Where a worker of the role is met by its peers, as a pod has it."""
        rendered = next(found for found in self.rendering.roles if found.role == role)
        return next(iter(self._backend.ports(rendered, self.deployment.spec.mode).values()), None)

    def _first_meeting_port(self, given: Mapping[str, Given], meeting: range) -> tuple[str, int]:
        if _MEETING in given:
            return given[_MEETING].path, meeting.start
        key = "ServiceConfig.vllm_nixl_side_channel_port"
        return key, meeting.start if self.inputs.get(key) is None else self.inputs.number(key)

    def _script(self, node: Node, nodes: tuple[Node, ...], processes: Mapping[int, list[_Process]]) -> str:
        frontend = node.has_frontend and self.inputs.get("ServiceConfig.include_frontend") is True
        title = f"Machine {node.index} of {len(nodes)}: {', '.join(_contents(node, frontend=frontend))}."
        leaders = {part.machines[0] for part in node.places}
        needed = [other.index for other in nodes] if frontend else sorted({node.index, *leaders})
        lines = [_HEAD.format(title=title), *self._addresses(node, needed, alone=len(nodes) == 1)]
        lines += self._role_files(node)
        for process in processes[node.index]:
            lines += ["", f"# {process.title}", self._start(process)]
        if frontend:
            everyone = [process for found in processes.values() for process in found if process.worker.rank == 0]
            lines += ["", "# frontend", *self._frontend(everyone)]
        return "\n".join(lines) + "\n" + _TAIL

    def _addresses(self, node: Node, needed: Iterable[int], *, alone: bool) -> Iterator[str]:
        if alone:
            yield "NODE_0_IP=${NODE_0_IP:-127.0.0.1}"
        else:
            for index in needed:
                yield f': "${{NODE_{index}_IP:?set it to the address of machine {index}}}"'
        if "POD_IP" in self._variables():
            yield f"POD_IP=$NODE_{node.index}_IP"

    def _variables(self) -> set[str]:
        """The variables that arguments and environment of workers refer to."""
        found = {item.name for role in self.rendering.roles for item in role.command if isinstance(item, EnvRef)}
        values = self._backend.env(self.deployment.spec.mode).values()
        return found | ({"POD_IP"} if any("$(POD_IP)" in value for value in values) else set())

    def _role_files(self, node: Node) -> Iterator[str]:
        here = {part.role for part in node.places}
        roles = [role for role in self.rendering.roles if role.files and role.role in here]
        if roles:
            yield ""
            yield 'here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)'
        for role in roles:
            yield f'mkdir -- "$scratch"/{role.role}'
            for name in role.files:
                source, target = shlex.quote(file_name(role.role, name)), shlex.quote(f"{role.role}/{name}")
                yield f'cp -- "$here"/{source} "$scratch"/{target}'

    def _start(self, process: _Process) -> str:
        rendered = process.rendered
        environment = {
            **self._backend.env(self.deployment.spec.mode),
            **rendered.environment,
        }
        if process.worker.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, process.worker.gpus))
        settings = [f"{name}={shell_value(value)}" for name, value in sorted(environment.items())]
        words = [_word(item, process.worker.role) for item in rendered.command]
        last = len(words) - process.own
        words[last:last] = map(shell_value, self._across(process))
        program = len(self.rendering.table.command)
        return _continued([*(("env", *settings) if settings else ()), *words[:program]], words[program:])

    def _across(self, process: _Process) -> tuple[str, ...]:
        """What makes a process a part of a worker of several machines."""
        worker = process.worker
        if process.together is None:
            return ()
        return self._backend.across_nodes(
            Part(
                nodes=str(len(worker.machines)),
                rank=str(worker.rank),
                address=f"$(NODE_{worker.machines[0]}_IP)",
                port=process.together,
                leads=worker.rank == 0,
            )
        )

    def _frontend(self, processes: list[_Process]) -> Iterator[str]:
        spec = self.deployment.spec
        yield 'cat > "$scratch"/endpoints.json <<END'
        rows = ",\n".join(process.endpoint() for process in processes)
        yield f'{{"endpoints": [\n{rows}\n]}}'
        yield "END"
        policy = spec.router.policy if spec.router else "leastLoaded"
        words = ["--deployment", self.deployment.metadata.name]
        words += ["--endpoints-file", "\x00endpoints\x00", "--backend", spec.backend, "--mode", spec.mode]
        words += ["--policy", policy, "--served-model-name", self.deployment.served_name]
        words += ["--host", self.inputs.text("ServiceConfig.head_node_ip")]
        words += ["--port", str(self.inputs.number("ServiceConfig.port"))]
        quoted = (shlex.quote(word) if "\x00" not in word else '"$scratch"/endpoints.json' for word in words)
        yield _continued(["tandem", "router"], list(quoted))


@dataclass(frozen=True, slots=True)
class _Process:
    """A worker on a machine, or its part there: its port, and its command line, of which the last `own` words are the
    user's. `met_at` is the port that a request has to name, `together` the one at which the parts meet."""

    worker: Place
    port: int
    rendered: RoleRendering
    own: int
    met_at: object = None
    together: int | None = None

    @property
    def title(self) -> str:
        rank, total = self.worker.rank, len(self.worker.machines)
        return self.worker.name if total == 1 else f"{self.worker.name}, part {rank} of {total}"

    def endpoint(self) -> str:
        """What the frontend is told of it; the revision is the same for all workers of a script."""
        fixed: dict[str, object] = {"name": self.worker.name, "port": self.port, "role": self.worker.role}
        fixed |= {"revision": "1", "ready": True}
        if self.met_at is not None:
            fixed["bootstrap_port"] = self.met_at
        return f'  {{"address": "$NODE_{self.worker.machines[0]}_IP", {json.dumps(fixed)[1:]}'


def gpus_per_node(inputs: Inputs) -> int:
    """GPUs of one machine; raises `Refused` for a number that no machine has."""
    key = "NodeConfig.num_gpus_per_node"
    if inputs.get(key) is None:
        return GPUS_PER_NODE
    found = inputs.number(key)
    if not 1 <= found <= 1024:
        raise refuse(key, found, "a machine has 1 to 1024 GPUs here", "Correct it.")
    return found


def file_name(role: RoleName | str, name: str) -> str:
    """The artifact that holds a file of a role: `prefill_config.yaml` for TensorRT-LLM's."""
    return f"{role}_{'config.yaml' if name == _ENGINE_ARGUMENTS else name}"


def _contents(node: Node, *, frontend: bool) -> Iterator[str]:
    """What a machine has, in words."""
    counts = " and ".join(f"{count} {role}" for role, count in node.counts().items())
    parts = [part.name for part in node.places if part.rank > 0]
    if counts or not parts:
        yield f"{counts or 'no'} workers"
    if parts:
        yield f"a part of {' and of '.join(parts)}"
    if frontend:
        yield "frontend"


def _kv_events(port: int) -> tuple[str, str]:
    settings = {"enable_kv_cache_events": True, "publisher": "zmq", "endpoint": f"tcp://*:{port}"}
    return "--kv-events-config", json.dumps(settings)


def _word(item: str | EnvRef, role: str) -> str:
    if isinstance(item, EnvRef) or _FILES not in item:
        return shell_word(item)
    before, _, after = item.partition(_FILES)
    quoted = [shlex.quote(part) if part else "" for part in (before, f"/{role}{after}")]
    return f'{quoted[0]}"$scratch"{quoted[1]}'


def _continued(program: list[str], words: list[str]) -> str:
    """`start PROGRAM WORDS`, each flag on a line of its own with its values."""
    lines = [" ".join(("start", *program))]
    for word in words:
        if word.startswith("-"):
            lines.append(word)
        else:
            lines[-1] += f" {word}"
    return " \\\n    ".join(lines)
