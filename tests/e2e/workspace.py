"""A namespace with the demo's model on a claim and a client pod: what a user of a cluster has before Tandem comes."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.passages import passages, prompt_of, rest_of
from tests.cluster.kind import KindCluster
from tests.cluster.machine import run
from tests.cluster.node import NodeCluster
from tests.e2e.release import OPERATOR_IMAGE, make_namespace

Cluster = NodeCluster | KindCluster
Object = dict[str, Any]

CLAIM = "models"
MODEL_PATH = "demo"
CLIENT = "client"
SCRIPT = Path(__file__).with_name("in_pod.py")
SMALL = {"requests": {"cpu": "50m", "memory": "64Mi"}}
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


@dataclass(frozen=True)
class Answer:
    """What came back over HTTP."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.text)

    def streamed_chat(self) -> str:
        """The text of a streamed chat answer. Raises ValueError when the stream did not end as it should."""
        events = [line.removeprefix("data: ") for line in self.text.splitlines() if line.startswith("data: ")]
        if not events or events[-1] != "[DONE]":
            raise ValueError(f"the stream was cut: {self.text[-500:]}")
        choices = [choice for event in events[:-1] for choice in json.loads(event)["choices"]]
        return "".join(choice["delta"].get("content") or "" for choice in choices)


@dataclass(frozen=True)
class Workspace:
    """A namespace in which a test works."""

    cluster: Cluster
    namespace: str

    def prepare(self, volume: Path) -> None:
        """Makes the namespace (restricted), a claim for the volume's directory, and the client pod."""
        make_namespace(self.cluster, self.namespace)
        for item in _volume(self.namespace, _on_node(self.cluster, volume)):
            self.apply(item)
        self._kubectl("wait", "--for=jsonpath={.status.phase}=Bound", f"pvc/{CLAIM}", "--timeout=30s")
        self._kubectl("create", "configmap", CLIENT, f"--from-file={SCRIPT}")
        self.apply(_client_pod())
        self._kubectl("wait", "--for=condition=Ready", f"pod/{CLIENT}", "--timeout=60s")

    def apply(self, item: Object) -> None:
        """Server-side apply as a user, whose fields stay the user's."""
        self._kubectl("apply", "--server-side", "--field-manager=user", "--filename=-", input=json.dumps(item))

    def get(self, kind: str, name: str) -> Object:
        """One object."""
        return dict(self.cluster.get(kind, name, "--namespace", self.namespace))

    def list(self, kinds: str, selector: str = "") -> list[Object]:
        """Objects of one kind or several (comma-separated)."""
        return list(self.cluster.get(kinds, "--namespace", self.namespace, f"--selector={selector}")["items"])

    def pods(self, deployment: str, role: str = "") -> list[Object]:
        """A deployment's pods that are not being deleted, by name; of one role, or all."""
        selector = f"tandem.dev/deployment={deployment}" + (f",tandem.dev/role={role}" if role else "")
        found = [pod for pod in self.list("pods", selector) if "deletionTimestamp" not in pod["metadata"]]
        return sorted(found, key=lambda pod: str(pod["metadata"]["name"]))

    def delete(self, *names: str) -> None:
        """Deletes ModelDeployments and waits until their pods are gone."""
        self._kubectl("delete", "modeldeployments", *names, "--wait=false")
        selector = f"tandem.dev/deployment in ({','.join(names)})"
        self.wait_until(lambda: not self.list("pods", selector), f"the pods of {', '.join(names)} are gone", 180)

    def scale(self, name: str, replicas: int) -> None:
        """`kubectl scale`."""
        self._kubectl("scale", f"modeldeployment/{name}", f"--replicas={replicas}")

    def label(self, kind: str, name: str, label: str) -> None:
        """Changes one label of an object."""
        self._kubectl("label", kind, name, label, "--overwrite")

    def kill(self, pod: Object) -> None:
        """Ends a pod at once, as the loss of its machine would."""
        self._kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force", "--wait=false")

    def revision(self, name: str) -> str:
        """The revision that a deployment's spec asks for."""
        return str(self.get("modeldeployment", name)["status"]["revision"])

    def root_cause(self, name: str) -> Object:
        """What a deployment's status says is wrong; empty when it says nothing."""
        return dict(self.get("modeldeployment", name).get("status", {}).get("rootCause") or {})

    def wait_ready(self, name: str, timeout: float = 120) -> Object:
        """Waits until Ready holds for the spec as it is now; returns the ModelDeployment."""

        def ready() -> bool:
            found = self.get("modeldeployment", name)
            condition = condition_of(found, "Ready")
            return bool(
                condition.get("status") == "True"
                and condition.get("observedGeneration") == found["metadata"]["generation"]
            )

        self.wait_until(ready, f"ModelDeployment {name} is Ready", timeout)
        return self.get("modeldeployment", name)

    def wait_settled(self, name: str, timeout: float = 120) -> Object:
        """Waits until it is Ready, nothing progresses, and its pods are ready and none of an older state."""

        def settled() -> bool:
            found = self.get("modeldeployment", name)
            if condition_of(found, "Progressing").get("status") == "True":
                return False
            wanted = sum(role["desired"] for role in found["status"]["roles"].values())
            workers = [
                pod for pod in self.list("pods", f"tandem.dev/deployment={name}") if "tandem.dev/role" in labels(pod)
            ]
            # The status lags behind a pod that was killed a moment ago.
            ready = [pod for pod in workers if condition_of(pod, "Ready").get("status") == "True"]
            return len(workers) == len(ready) == wanted

        self.wait_ready(name, timeout)
        self.wait_until(settled, f"the rollout of {name} ends", timeout)
        return self.wait_ready(name, timeout)

    def wait_until(self, holds: Callable[[], bool], what: str, timeout: float = 60) -> None:
        """Polls until `holds`; the AssertionError tells the state of the namespace."""
        deadline = time.monotonic() + timeout
        while not holds():
            assert time.monotonic() < deadline, f"not within {timeout:.0f} s: {what}\n{self.describe()}"
            time.sleep(0.5)

    def describe(self) -> str:
        """The namespace's state, for the message of a test that failed."""
        wide = self._kubectl("get", "pods,modeldeployments,events", "--output=wide", check=False).stdout
        status = self._kubectl("get", "modeldeployments", "--output=jsonpath={.items[*].status}", check=False).stdout
        return f"{wide}\n{status[-6000:]}"

    def post(self, name: str, path: str, *bodies: Object, key: str = "") -> list[Answer]:
        """Posts to the deployment's address from the client pod, one after the other, perhaps with an API key."""
        return self._answers("post", self._url(name, path), *map(json.dumps, bodies), key=key)

    def assert_recites(self, name: str, texts: Sequence[str] = ()) -> None:
        """Passages (by default the first one) come back word for word from their beginnings."""
        texts = texts or passages()[:1]
        bodies = [completion(name, prompt_of(text), max_tokens=160) for text in texts]
        answers = self.post(name, "/v1/completions", *bodies)
        for text, answer in zip(texts, answers, strict=True):
            assert answer.status == 200, f"{answer.text}\n{self.describe()}"
            assert answer.json["choices"][0]["text"] == rest_of(text)

    def metrics(self, pod: Object) -> dict[str, float]:
        """A worker's metrics: `name{labels}` → value."""
        (answer,) = self._answers("get", f"http://{pod['status']['podIP']}:8000/metrics")
        samples = [line.rsplit(" ", 1) for line in answer.text.splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, value in samples}

    @contextmanager
    def traffic(self, name: str, *, rate: float = 5) -> Iterator[Object]:
        """Posts at a constant rate from the client pod while the context lasts; at its end the result is filled in."""
        body = json.dumps(completion(name, prompt_of(passages()[0]), max_tokens=8))
        stop = f"/tmp/stop-{time.monotonic_ns()}"
        url = self._url(name, "/v1/completions")
        command = ["python", f"/scripts/{SCRIPT.name}", "traffic", url, body, str(rate), stop]
        result: Object = {}
        process = subprocess.Popen(
            [str(self.cluster.bin("kubectl")), *self._options(), "exec", CLIENT, "--", *command],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self.wait_until(lambda: self._has_file(f"{stop}.flows"), "the first requests were answered", 30)
            yield result
        finally:
            self._kubectl("exec", CLIENT, "--", "touch", stop)
            output, _ = process.communicate(timeout=150)
        result |= json.loads(output)

    def _has_file(self, path: str) -> bool:
        return self._kubectl("exec", CLIENT, "--", "test", "-e", path, check=False).returncode == 0

    def _url(self, name: str, path: str) -> str:
        return f"http://{name}.{self.namespace}:8000{path}"

    def _answers(self, *arguments: str, key: str = "") -> list[Answer]:
        program = ("env", f"API_KEY={key}", "python", f"/scripts/{SCRIPT.name}")
        done = self._kubectl("exec", CLIENT, "--", *program, *arguments)
        return [Answer(**answer) for answer in json.loads(done.stdout)]

    def _options(self) -> tuple[str, ...]:
        return (f"--kubeconfig={self.cluster.kubeconfig}", f"--namespace={self.namespace}")

    def _kubectl(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.cluster.kubectl(f"--namespace={self.namespace}", *arguments, **options)


def model_deployment(name: str, *, mode: str = "agg", **spec: Any) -> Object:
    """A ModelDeployment of the demo's model with small requests; `spec` is laid over it."""
    names = ("agg",) if mode == "agg" else ("prefill", "decode")
    return {
        "apiVersion": "tandem.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": {
            "model": {"pvc": {"claimName": CLAIM, "path": MODEL_PATH}},
            "mode": mode,
            "roles": {role: {"resources": SMALL} for role in names},
            "router": {"resources": SMALL},
            **spec,
        },
    }


def completion(model: str, prompt: str, *, max_tokens: int) -> Object:
    """The body of a greedy completion."""
    return {"model": model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0}


def condition_of(item: Object, kind: str) -> Object:
    """A condition of an object's status, or an empty one."""
    conditions = item.get("status", {}).get("conditions") or []
    return next((dict(condition) for condition in conditions if condition["type"] == kind), {})


def labels(item: Object) -> Mapping[str, str]:
    """An object's labels."""
    return dict(item["metadata"].get("labels") or {})


def uids(items: list[Object]) -> dict[str, str]:
    """Name → uid."""
    return {item["metadata"]["name"]: item["metadata"]["uid"] for item in items}


def _on_node(cluster: Cluster, directory: Path) -> str:
    """Where the node sees a directory of this computer."""
    if isinstance(cluster, KindCluster):
        run(["docker", "cp", str(directory), f"{cluster.node_name}:/models"])
        return "/models"
    return str(directory)


def _volume(namespace: str, path: str) -> tuple[Object, Object]:
    shared = {"accessModes": ["ReadOnlyMany"], "storageClassName": ""}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"models-{namespace}"},
        "spec": {
            **shared,
            "capacity": {"storage": "1Gi"},
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": path, "type": "Directory"},
            "claimRef": {"namespace": namespace, "name": CLAIM},
        },
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": CLAIM, "namespace": namespace},
        "spec": {**shared, "resources": {"requests": {"storage": "1Gi"}}, "volumeName": f"models-{namespace}"},
    }
    return volume, claim


def _client_pod() -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": CLIENT},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": CLIENT,
                    "image": OPERATOR_IMAGE,
                    "imagePullPolicy": "Never",
                    "command": ["python", "-c", "import signal; signal.pause()"],
                    "resources": SMALL,
                    "securityContext": RESTRICTED,
                    "volumeMounts": [
                        {"name": "tmp", "mountPath": "/tmp"},
                        {"name": "scripts", "mountPath": "/scripts"},
                    ],
                }
            ],
            "volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "scripts", "configMap": {"name": CLIENT}}],
        },
    }
