"""The operator on a control plane alone: 100 and 500 deployments at once, then one at a time, beside a bare client.

The bare client makes the same writes (the resource, its objects in two waves, one status) with plain aiohttp and no
watch, no cache and no thought: what is left is what the API server takes. It runs before and after the operator, as a
machine's speed changes by the minute; the operator is held against the mean of the two. Every round has a control
plane of its own and begins when nobody writes: Kubernetes' controllers need minutes for what was asked in seconds.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import ssl
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tandem.api.load import parse_resource
from tandem.kube.resources import BY_KIND, CHILD_KINDS, DEPLOYMENT, MODEL_DEPLOYMENT, Resource
from tandem.manifests import Cluster, build
from tandem.rendering.library import load_library
from tests.cluster.binaries import Binaries
from tests.cluster.control_plane import ControlPlane, running_control_plane
from tests.integration.controller.process import OperatorProcess

CRDS = Path(__file__).parents[2] / "crds"
WRITERS = 16
IDLE_SECONDS = 60
QUIET_SECONDS = 8
QUIET_TIMEOUT = 420
SINGLES = 50
WARM_UP = 30
USER = "operator-under-test"
OWN_WRITES = {"create", "patch", "update", "delete"}
ALL_WRITES = OWN_WRITES | {"deletecollection"}


class Api:
    """A plain HTTP client with the administrator's certificate."""

    def __init__(self, plane: ControlPlane) -> None:
        config = yaml.safe_load(plane.kubeconfig.read_text())
        self.server = config["clusters"][0]["cluster"]["server"]
        self._user = config["users"][0]["user"]
        self._authority = base64.b64decode(config["clusters"][0]["cluster"]["certificate-authority-data"]).decode()

    async def __aenter__(self) -> Api:
        context = ssl.create_default_context(cadata=self._authority)
        with tempfile.NamedTemporaryFile() as pem:
            for field in ("client-certificate-data", "client-key-data"):
                pem.write(base64.b64decode(self._user[field]) + b"\n")
            pem.flush()
            context.load_cert_chain(pem.name)
        self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64, ssl=context))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()

    async def send(self, method: str, path: str, body: Any, content_type: str = "application/json") -> Any:
        """One request; raises for anything but success."""
        headers = {"Content-Type": content_type}
        async with self.session.request(method, self.server + path, data=json.dumps(body), headers=headers) as answer:
            document = await answer.json()
            if answer.status >= 300:
                raise RuntimeError(f"{method} {path}: {document.get('message')}")
            return document

    async def create(self, obj: Any) -> Any:
        """POST."""
        return await self.send("POST", BY_KIND[obj["kind"]].path(obj["metadata"]["namespace"]), obj)

    async def merge(self, obj: Any, patch: Any, subresource: str = "") -> Any:
        """A merge patch."""
        meta = obj["metadata"]
        path = BY_KIND[obj["kind"]].path(meta["namespace"], meta["name"], subresource)
        return await self.send("PATCH", path, patch, "application/merge-patch+json")

    async def apply(self, obj: Any) -> Any:
        """Server-side apply."""
        meta = obj["metadata"]
        path = f"{BY_KIND[obj['kind']].path(meta['namespace'], meta['name'])}?fieldManager=bare&force=true"
        return await self.send("PATCH", path, obj, "application/apply-patch+yaml")


def deployment(name: str, namespace: str) -> dict[str, Any]:
    """A disaggregated deployment without workers: pods would only measure the scheduler."""
    return {
        "apiVersion": "tandem.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "model": {"pvc": {"claimName": "models", "path": "qwen"}},
            "mode": "disagg",
            "parameters": {"maxSeqLen": 4096},
            "roles": {"prefill": {"replicas": 0}, "decode": {"replicas": 0}},
            "limits": {"maxNewTokens": 512},
        },
    }


def objects_of(resource: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """What a deployment is made of."""
    return build(parse_resource(resource), cluster=Cluster(library=load_library())).objects


async def gather_limited(work: list[Any], limit: int) -> None:
    """Runs coroutines, `limit` at a time."""
    gate = asyncio.Semaphore(limit)

    async def one(item: Any) -> None:
        async with gate:
            await item

    await asyncio.gather(*(one(item) for item in work))


async def bare(api: Api, count: int, namespace: str) -> dict[str, Any]:
    """The same writes without an operator."""
    cluster = Cluster(library=load_library())

    async def one(number: int) -> int:
        made = await api.create(deployment(f"d{number}", namespace))
        objects = build(parse_resource(made), cluster=cluster).objects
        await asyncio.gather(*(api.apply(obj) for obj in objects if obj["kind"] != "Deployment"))
        await asyncio.gather(*(api.apply(obj) for obj in objects if obj["kind"] == "Deployment"))
        await api.merge(made, {"status": {"observedGeneration": 1, "conditions": []}}, "status")
        return len(objects)

    children = 0

    async def counted(number: int) -> None:
        nonlocal children
        made = await one(number)
        children += made

    began, cpu = time.perf_counter(), time.process_time()
    await gather_limited([counted(number) for number in range(count)], WRITERS)
    return {
        "seconds": round(time.perf_counter() - began, 2),
        "client_cpu_s": round(time.process_time() - cpu, 2),
        "children": children,
    }


class Audit:
    """Finished requests since this was made. Each line is read once: the log grows by tens of megabytes a phase."""

    def __init__(self, plane: ControlPlane) -> None:
        self._log = plane.audit_log
        self._offset = plane.audit_offset()
        self.entries: list[dict[str, Any]] = []

    def new(self) -> list[dict[str, Any]]:
        """What has come since the last call; it is added to `entries`."""
        with self._log.open("rb") as log:
            log.seek(self._offset)
            text = log.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        found = [entry for entry in map(json.loads, whole.splitlines()) if entry["stage"] == "ResponseComplete"]
        self.entries += found
        return found


async def quiet(plane: ControlPlane) -> float:
    """Returns when nobody has written anything but Leases and Events for a while, with the seconds that it took."""
    began = time.perf_counter()
    audit, calm_since = Audit(plane), began
    while time.perf_counter() - calm_since < QUIET_SECONDS:
        if time.perf_counter() - began > QUIET_TIMEOUT:
            raise RuntimeError(f"somebody still writes after {QUIET_TIMEOUT} s")
        await asyncio.sleep(0.5)
        if any(entry["verb"] in ALL_WRITES and _resource(entry) not in ("leases", "events") for entry in audit.new()):
            calm_since = time.perf_counter()
    return time.perf_counter() - began


def _resource(entry: dict[str, Any]) -> str:
    return str(entry.get("objectRef", {}).get("resource", ""))


def seconds_of(entry: dict[str, Any], field: str = "stageTimestamp") -> float:
    """A timestamp of the audit log."""
    return datetime.fromisoformat(entry[field]).timestamp()


def own_writes(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Writes of the operator but Lease renewals."""
    return [
        entry
        for entry in entries
        if entry["user"]["username"] == USER
        and entry["verb"] in OWN_WRITES
        and entry["objectRef"].get("resource") != "leases"
    ]


async def many(plane: ControlPlane, api: Api, operator: OperatorProcess, count: int, namespace: str) -> dict[str, Any]:
    """`count` deployments at once, then a minute at rest."""
    per_deployment = len(
        build(parse_resource(deployment("d", namespace)), cluster=Cluster(library=load_library())).objects
    )
    audit = Audit(plane)
    cpu_before, _ = operator.usage()
    began = time.perf_counter()
    await gather_limited([api.create(deployment(f"d{n}", namespace)) for n in range(count)], WRITERS)
    created_s = time.perf_counter() - began
    missing = per_deployment * count
    while missing := missing - len(_created(audit.new())):
        if time.perf_counter() - began > 300:
            raise RuntimeError(f"{missing} of {per_deployment * count} children are missing\n{operator.log_tail()}")
        await asyncio.sleep(0.5)
    first = min(
        seconds_of(e, "requestReceivedTimestamp")
        for e in audit.entries
        if e["verb"] == "create" and e["objectRef"].get("resource") == MODEL_DEPLOYMENT.plural
    )
    last = max(seconds_of(e) for e in _created(audit.entries))
    await asyncio.sleep(QUIET_SECONDS)
    cpu_after, rss = operator.usage()
    audit.new()
    writes = Counter(_what(entry) for entry in own_writes(audit.entries))
    # Other controllers go on for minutes: pods, their failing to be scheduled, and what the operator says of it.
    settled_s = await quiet(plane)
    idle, (idle_cpu, _) = Audit(plane), operator.usage()
    await asyncio.sleep(IDLE_SECONDS)
    return {
        "deployments": count,
        "children_per_deployment": per_deployment,
        "seconds_until_all_children": round(last - first, 2),
        "of_it_creating_the_resources": round(created_s, 2),
        "writes_per_deployment": round(sum(writes.values()) / count, 2),
        "writes": dict(writes.most_common()),
        "operator_cpu_s": round(cpu_after - cpu_before, 2),
        "rss_mb": round(rss, 1),
        "rss_peak_mb": round(operator.peak_mb(), 1),
        "seconds_until_nobody_writes": round(settled_s, 1),
        "idle_writes": len(own_writes(idle.new())),
        "idle_cpu_percent": round((operator.usage()[0] - idle_cpu) / IDLE_SECONDS * 100, 3),
    }


def _what(entry: dict[str, Any]) -> str:
    target = entry["objectRef"]
    return " ".join(part for part in (entry["verb"], target["resource"], target.get("subresource")) if part)


def _created(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    children = {resource.plural for resource in CHILD_KINDS}
    return [
        entry
        for entry in own_writes(entries)
        if entry["verb"] == "patch"
        and entry["objectRef"]["resource"] in children
        and entry.get("responseStatus", {}).get("code") == 201
    ]


class Arrivals:
    """Watches of all kinds of children: when something arrives that answers a question."""

    def __init__(self, api: Api, namespace: str) -> None:
        self._api = api
        self._namespace = namespace
        self._waiting: list[tuple[Any, asyncio.Future[float]]] = []

    async def __aenter__(self) -> Arrivals:
        ready = [asyncio.Event() for _ in CHILD_KINDS]
        self._tasks = [
            asyncio.create_task(self._follow(kind, event)) for kind, event in zip(CHILD_KINDS, ready, strict=True)
        ]
        await asyncio.gather(*(event.wait() for event in ready))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def when(self, answers: Any) -> asyncio.Future[float]:
        """Resolves to the time at which an event (type, object) `answers`."""
        future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting.append((answers, future))
        return future

    async def _follow(self, kind: Resource, ready: asyncio.Event) -> None:
        async with self._api.session.get(self._api.server + kind.path(self._namespace) + "?limit=1") as answer:
            version = (await answer.json())["metadata"]["resourceVersion"]
        url = f"{self._api.server}{kind.path(self._namespace)}?watch=true&resourceVersion={version}"
        async with self._api.session.get(url, timeout=aiohttp.ClientTimeout(total=None)) as answer:
            ready.set()
            async for line in answer.content:
                event = json.loads(line)
                obj = {"kind": kind.kind, **event["object"]}
                for pair in [pair for pair in self._waiting if pair[0](event["type"], obj)]:
                    pair[1].set_result(time.perf_counter())
                    self._waiting.remove(pair)


async def singles(api: Api, namespace: str) -> dict[str, Any]:
    """One after the other at rest: create, edit, and a deleted child."""
    times: dict[str, list[float]] = {"create_to_first_child": [], "create_to_all_children": []}
    times |= {"edit_to_child_changed": [], "worker_edit_to_deployment_changed": [], "child_deleted_to_back": []}
    async with Arrivals(api, namespace) as arrivals:
        for number in range(SINGLES):
            await _single(api, arrivals, f"one{number}", namespace, times)
    return {
        name: {
            "median_ms": round(statistics.median(values) * 1000, 1),
            "p99_ms": round(sorted(values)[min(len(values) - 1, int(len(values) * 0.99))] * 1000, 1),
        }
        for name, values in times.items()
    }


async def _single(api: Api, arrivals: Arrivals, name: str, namespace: str, times: dict[str, list[float]]) -> None:
    wanted = deployment(name, namespace)
    expected = len(objects_of(wanted))
    seen: set[tuple[str, str]] = set()

    def mine(kind: str, obj: Any) -> bool:
        return kind == "ADDED" and obj["metadata"].get("labels", {}).get("tandem.dev/deployment") == name

    def last(kind: str, obj: Any) -> bool:
        if mine(kind, obj):
            seen.add((obj["kind"], obj["metadata"]["name"]))
        return len(seen) == expected

    first, complete = arrivals.when(mine), arrivals.when(last)
    began = time.perf_counter()
    made = await api.create(wanted)
    times["create_to_first_child"].append(await first - began)
    times["create_to_all_children"].append(await complete - began)
    await asyncio.sleep(0.6)

    def changed(which: str) -> Any:
        def answers(kind: str, obj: Any) -> bool:
            return (
                kind == "MODIFIED"
                and obj["kind"] == DEPLOYMENT.kind
                and obj["metadata"]["name"].startswith(f"{name}-{which}")
                and obj["metadata"]["generation"] == 2
            )

        return answers

    router = arrivals.when(changed("router"))
    began = time.perf_counter()
    await api.merge(made, {"spec": {"router": {"policy": "roundRobin"}}})
    times["edit_to_child_changed"].append(await router - began)
    await asyncio.sleep(0.4)
    worker = arrivals.when(changed("decode"))
    began = time.perf_counter()
    await api.merge(made, {"spec": {"roles": {"decode": {"podTemplate": {"metadata": {"labels": {"x": "y"}}}}}}})
    times["worker_edit_to_deployment_changed"].append(await worker - began)
    await asyncio.sleep(0.4)
    back = arrivals.when(
        lambda kind, obj: kind == "ADDED" and (obj["kind"], obj["metadata"]["name"]) == ("Service", name)
    )
    began = time.perf_counter()
    await api.send("DELETE", BY_KIND["Service"].path(namespace, name), {})
    times["child_deleted_to_back"].append(await back - began)
    await asyncio.sleep(0.4)


async def _bare_round(plane: ControlPlane, count: int) -> dict[str, Any]:
    async with Api(plane) as api:
        await _warm_up(plane, api)
        plane.kubectl("create", "namespace", "measured")
        return await bare(api, count, "measured")


async def _operator_round(plane: ControlPlane, count: int, log: Path, *, one_at_a_time: bool) -> dict[str, Any]:
    async with Api(plane) as api:
        await _warm_up(plane, api)
        plane.kubectl("create", "namespace", "measured")
        kubeconfig = plane.kubeconfig_for(USER, ["system:masters"])
        operator = OperatorProcess(kubeconfig, log, settings={"log_level": "warning"}).start()
        try:
            result = await many(plane, api, operator, count, "measured")
            if one_at_a_time:
                plane.kubectl("create", "namespace", "single")
                result["one_at_a_time"] = await singles(api, "single")
        finally:
            operator.stop()
    return result


async def _warm_up(plane: ControlPlane, api: Api) -> None:
    plane.kubectl("create", "namespace", "warm-up")
    await bare(api, WARM_UP, "warm-up")
    await asyncio.to_thread(plane.kubectl, "delete", "namespace", "warm-up", "--wait=true", "--timeout=300s")
    await quiet(plane)


@contextlib.contextmanager
def fresh_plane() -> Iterator[ControlPlane]:
    """A new control plane with the CRDs. Emptying a used one takes longer: its controllers may ask 20 times per s."""
    with running_control_plane(Binaries.from_environment()) as plane:
        plane.kubectl("apply", "--server-side", "--filename", str(CRDS))
        plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "--filename", str(CRDS))
        yield plane


def measure(count: int, log: Path, *, one_at_a_time: bool) -> dict[str, Any]:
    """Bare client, operator, bare client, each on a control plane of its own."""

    def bare_round() -> dict[str, Any]:
        with fresh_plane() as plane:
            return _told("bare client", count, asyncio.run(_bare_round(plane, count)))

    before = bare_round()
    with fresh_plane() as plane:
        measured = asyncio.run(_operator_round(plane, count, log, one_at_a_time=one_at_a_time))
    _told("operator", count, measured)
    after = bare_round()
    bare_s = statistics.mean((before["seconds"], after["seconds"]))
    measured["times_the_bare_client"] = round(measured["seconds_until_all_children"] / bare_s, 2)
    return {f"bare_{count}": [before, after], f"operator_{count}": measured}


def _told(who: str, count: int, result: dict[str, Any]) -> dict[str, Any]:
    print(f"{who}, {count}: {json.dumps(result)}", file=sys.stderr, flush=True)
    return result


def main() -> None:
    """Prints the figures as one line of JSON. Arguments: the numbers of deployments (default 100 500)."""
    counts = [int(text) for text in sys.argv[1:]] or [100, 500]
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as work:
        for count in counts:
            result |= measure(count, Path(work) / "operator.log", one_at_a_time=count == counts[0])
    print(json.dumps(result))


if __name__ == "__main__":
    main()
