"""`run_<n>.sh`: starts the workers of machine n, and on the first machine the frontend. Pure.

Every value is quoted for the shell, so it arrives as it was written. What a pod learns from the cluster is a variable:
POD_IP is the machine's own address, NODE_<n>_IP that of machine n.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from tandem.api.deployment import ModelDeployment, RoleName
from tandem.generator.engine import shell_value, shell_word
from tandem.generator.inputs import Inputs
from tandem.generator.placement import GPUS_PER_NODE, Node, Place, Pool, place
from tandem.generator.ports import Ports
from tandem.generator.translate import blueprint_of
from tandem.manifests.backends import BACKENDS
from tandem.manifests.request import rendering_request
from tandem.rendering.library import Library
from tandem.rendering.parameters import Given
from tandem.rendering.pipeline import ModelFacts, Rendering, render
from tandem.rendering.values import EnvRef, RoleRendering

# Stands for the directory of a role's files; no argument that a user writes can hold it.
_FILES = "\x00files\x00"
_MEETING = "disaggregation_bootstrap_port"
_ENGINE_ARGUMENTS = "extra_engine_args.yaml"
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
        nodes = place(tuple(self._pools()), gpus_per_node=gpus_per_node(self.inputs))
        processes = {node.index: tuple(self._processes(node)) for node in nodes}
        return {f"run_{node.index}.sh": self._script(node, nodes, processes) for node in nodes}

    def _pools(self) -> Iterator[Pool]:
        backend = BACKENDS[self.deployment.spec.backend]
        for name, role in zip(self.deployment.role_names(), self.rendering.roles, strict=True):
            yield Pool(name, self.deployment.replicas(name), backend.gpus(role))

    def _processes(self, node: Node) -> Iterator[_Process]:
        """The workers of a machine with the ports that are theirs there."""
        ports = Ports()
        ports.take(self.inputs.number("ServiceConfig.port"), key="ServiceConfig.port")
        for worker in node.places:
            yield self._process(worker, node, ports)

    def _process(self, worker: Place, node: Node, ports: Ports) -> _Process:
        inputs = self.inputs
        port = ports.take(inputs.number("ServiceConfig.port") + 1, key="ServiceConfig.port")
        request = rendering_request(self.deployment, self.facts, blueprint_of(self.inputs))
        role = next(found for found in request.roles if found.name == worker.role)
        given, extra = dict(role.given), role.extra_arguments
        meeting = self._meeting_ports(worker.role)
        if meeting is not None:
            key, first = self._first_meeting_port(given, meeting)
            given[_MEETING] = Given(ports.take(first, key=key, count=len(meeting)), "user", key)
        if inputs.get("DynConfig.enable_router") and inputs.get("ServiceConfig.dyn_vllm_kv_event_port") is not None:
            key = "ServiceConfig.dyn_vllm_kv_event_port"
            extra = (*extra, *_kv_events(ports.take(inputs.number(key), key=key)))
        request = replace(
            request,
            roles=(replace(role, given=given, extra_arguments=extra),),
            names={**request.names, "port": port, "config_dir": _FILES},
        )
        met_at = given[_MEETING].value if meeting is not None and self.deployment.spec.backend == "sglang" else None
        return _Process(worker, node.index, port, render(request, self.library).roles[0], met_at)

    def _meeting_ports(self, role: str) -> range | None:
        """Where a worker of the role is met by its peers, as a pod has it."""
        rendered = next(found for found in self.rendering.roles if found.role == role)
        backend = BACKENDS[self.deployment.spec.backend]
        return next(iter(backend.ports(rendered, self.deployment.spec.mode).values()), None)

    def _first_meeting_port(self, given: Mapping[str, Given], meeting: range) -> tuple[str, int]:
        if _MEETING in given:
            return given[_MEETING].path, meeting.start
        key = "ServiceConfig.vllm_nixl_side_channel_port"
        return key, meeting.start if self.inputs.get(key) is None else self.inputs.number(key)

    def _script(self, node: Node, nodes: tuple[Node, ...], processes: Mapping[int, tuple[_Process, ...]]) -> str:
        counts = " and ".join(f"{count} {role}" for role, count in node.counts().items()) or "no"
        frontend = node.has_frontend and self.inputs.get("ServiceConfig.include_frontend") is True
        title = f"Machine {node.index} of {len(nodes)}: {counts} workers{', frontend' if frontend else ''}."
        needed = [other.index for other in nodes] if frontend else [node.index]
        lines = [_HEAD.format(title=title), *self._addresses(node, needed, alone=len(nodes) == 1)]
        lines += self._role_files(node)
        for process in processes[node.index]:
            lines += ["", f"# {process.name}", self._start(process)]
        if frontend:
            everyone = [process for found in processes.values() for process in found]
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
        values = BACKENDS[self.deployment.spec.backend].env(self.deployment.spec.mode).values()
        return found | ({"POD_IP"} if any("$(POD_IP)" in value for value in values) else set())

    def _role_files(self, node: Node) -> Iterator[str]:
        roles = [role for role in self.rendering.roles if role.files and role.role in node.counts()]
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
            **BACKENDS[self.deployment.spec.backend].env(self.deployment.spec.mode),
            **rendered.environment,
        }
        if process.worker.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, process.worker.gpus))
        settings = [f"{name}={shell_value(value)}" for name, value in sorted(environment.items())]
        words = [_word(item, process.worker.role) for item in rendered.command]
        program = len(self.rendering.table.command)
        return _continued([*(("env", *settings) if settings else ()), *words[:program]], words[program:])

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
    """A worker on a machine, its port there, its command line, and the port that a request has to name."""

    worker: Place
    node: int
    port: int
    rendered: RoleRendering
    met_at: object = None

    @property
    def name(self) -> str:
        return f"{self.worker.role}-{self.worker.index}"

    def endpoint(self) -> str:
        """What the frontend is told of it; the revision is the same for all workers of a script."""
        fixed: dict[str, object] = {"name": self.name, "port": self.port, "role": self.worker.role}
        fixed |= {"revision": "1", "ready": True}
        if self.met_at is not None:
            fixed["bootstrap_port"] = self.met_at
        return f'  {{"address": "$NODE_{self.node}_IP", {json.dumps(fixed)[1:]}'


def gpus_per_node(inputs: Inputs) -> int:
    """GPUs of one machine."""
    key = "NodeConfig.num_gpus_per_node"
    return GPUS_PER_NODE if inputs.get(key) is None else inputs.number(key)


def file_name(role: RoleName | str, name: str) -> str:
    """The artifact that holds a file of a role: `prefill_config.yaml` for TensorRT-LLM's."""
    return f"{role}_{'config.yaml' if name == _ENGINE_ARGUMENTS else name}"


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
