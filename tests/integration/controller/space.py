"""A namespace in which a test plays the user of the operator."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tandem.controller.conditions import find
from tandem.kube.resources import CHILD_KINDS
from tests.integration.controller.api import Api, Object, eventually

AGG: Object = {"mode": "agg", "roles": {"agg": {"replicas": 2}}}
DISAGG: Object = {"mode": "disagg", "roles": {"prefill": {"replicas": 1}, "decode": {"replicas": 2}}}
MODEL: Object = {"hub": {"repo": "example/small"}}
OTHER_MODEL: Object = {"hub": {"repo": "example/other"}}
KINDS = tuple(resource.kind for resource in CHILD_KINDS)


def model_deployment(name: str, namespace: str, **spec: Any) -> Object:
    """A ModelDeployment as a user writes it."""
    return {
        "apiVersion": "tandem.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"model": MODEL, **spec},
    }


@dataclass(frozen=True)
class Space:
    """What a user does and sees in one namespace."""

    api: Api
    namespace: str

    def create(self, name: str = "chat", **spec: Any) -> Object:
        """Creates a deployment."""
        return self.api.create(model_deployment(name, self.namespace, **spec))

    def edit(self, name: str = "chat", **spec: Any) -> Object:
        """Merges into its spec."""
        return self.api.merge("ModelDeployment", self.namespace, name, {"spec": spec})

    def get(self, name: str = "chat") -> Object:
        """The deployment."""
        return self.api.get("ModelDeployment", self.namespace, name)

    def status(self, name: str = "chat") -> Object:
        """Its status."""
        return dict(self.get(name).get("status") or {})

    def children(self, name: str = "chat") -> dict[tuple[str, str], Object]:
        """Everything that it owns, by kind and name."""
        found = {}
        for kind in KINDS:
            for item in self.api.list(kind, self.namespace, f"tandem.dev/deployment={name}"):
                found[kind, item["metadata"]["name"]] = item
        return found

    def child(self, kind: str, name: str) -> Object | None:
        """One object of it."""
        return self.api.find(kind, self.namespace, name)

    def workers(self, role: str, name: str = "chat") -> list[Object]:
        """The Deployments of a role, of all revisions, oldest first."""
        selector = f"tandem.dev/deployment={name},tandem.dev/role={role}"
        found = self.api.list("Deployment", self.namespace, selector)
        return sorted(found, key=lambda item: item["metadata"]["creationTimestamp"])

    def pods(self, selector: str) -> list[Object]:
        """Pods that are not ending."""
        found = self.api.list("Pod", self.namespace, selector)
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def wait_applied(self, name: str = "chat", timeout: float = 90) -> Object:
        """Waits until the spec as it is has been turned into objects; returns the status."""

        def done(deployment: Object) -> bool:
            rendered = condition(deployment, "Rendered")
            return (
                rendered.get("status") == "True"
                and rendered.get("observedGeneration") == deployment["metadata"]["generation"]
            )

        return dict(eventually(lambda: self.get(name), done, timeout=timeout, why="not applied")["status"])

    def wait_condition(
        self, kind: str, value: str, reason: str = "", *, name: str = "chat", timeout: float = 90
    ) -> Object:
        """Waits until a condition has that status (and reason) for the spec as it is; returns the status."""

        def done(deployment: Object) -> bool:
            found = condition(deployment, kind)
            return (
                found.get("status") == value
                and (not reason or found["reason"] == reason)
                and found["observedGeneration"] == deployment["metadata"]["generation"]
            )

        why = f"{kind} is not {value} {reason}"
        return dict(eventually(lambda: self.get(name), done, timeout=timeout, why=why)["status"])


def condition(deployment: Object, kind: str) -> Object:
    """A condition of a resource; empty when it has none."""
    return dict(find((deployment.get("status") or {}).get("conditions"), kind) or {})


def normalized(children: dict[tuple[str, str], Object]) -> str:
    """Objects as text, without what differs from one run to the next."""
    shown = {}
    for (kind, name), obj in sorted(children.items()):
        metadata = {key: obj["metadata"][key] for key in ("labels",) if key in obj["metadata"]}
        owners = [(owner["kind"], owner["name"]) for owner in obj["metadata"].get("ownerReferences", [])]
        rest = {key: value for key, value in obj.items() if key not in ("metadata", "status")}
        spec = dict(rest.get("spec") or {})
        for given_by_server in ("clusterIP", "clusterIPs"):
            if spec.get(given_by_server) not in ("None", ["None"]):
                spec.pop(given_by_server, None)
        shown[f"{kind} {name}"] = {**rest, "spec": spec, "metadata": metadata, "owners": owners}
    return json.dumps(shown, indent=1, sort_keys=True)
