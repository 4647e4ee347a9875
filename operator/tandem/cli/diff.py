"""`tandem diff`: what the operator would change in the cluster if it were given a file."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import click

from tandem.api import patterns
from tandem.api.deployment import ModelDeployment
from tandem.api.load import Loaded
from tandem.api.problems import Problem, Refused, refuse, shorten
from tandem.blueprint.model import Blueprint
from tandem.blueprint.packed import unpack
from tandem.cli.app import EXIT_REFUSED, tell
from tandem.cli.cluster import cluster_from, cluster_options
from tandem.cli.deployed import with_images_of
from tandem.cli.source import deployments_in, file_option
from tandem.cli.trouble import ClusterTrouble, cluster_trouble
from tandem.controller.compare import differences
from tandem.controller.facts import pin_in
from tandem.kube.client import Client
from tandem.kube.connection import connect
from tandem.kube.errors import ApiError, CredentialsError
from tandem.kube.resources import (
    BY_KIND,
    CHILD_KINDS,
    CONFIG_MAP,
    MODEL_BLUEPRINT,
    MODEL_DEPLOYMENT,
    OPTIONAL_KINDS,
    WORKLOAD_KINDS,
    Resource,
)
from tandem.manifests import Cluster, build, names
from tandem.manifests.probe import blueprint_name
from tandem.manifests.sources import with_weights

EXIT_TROUBLE = 2
_SIGNS = {"missing": "+", "different": "~", "extra": "-"}


@dataclass(frozen=True, slots=True)
class Difference:
    """One object that is not as the file has it; `paths` are the fields that differ."""

    change: Literal["missing", "different", "extra"]
    kind: str
    namespace: str
    name: str
    paths: tuple[str, ...] = ()

    def __str__(self) -> str:
        what = f"{_SIGNS[self.change]} {self.kind} {self.namespace}/{self.name}"
        if self.change != "different":
            return f"{what}: {'is missing' if self.change == 'missing' else 'is not wanted'}"
        return "\n".join(f"{what}: {path}" for path in self.paths)


@click.command(
    "diff",
    short_help="Compare a file with what the cluster holds; exit 1 on a difference.",
    epilog="Example: tandem diff -f deployment.yaml -n ml",
)
@file_option("File with one or more ModelDeployments")
@click.option("-n", "--namespace", help="Namespace of the deployments; default: the one in the file.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--kubeconfig", type=click.Path(path_type=Path), help="Default: $KUBECONFIG or ~/.kube/config.")
@cluster_options
def command(*, file: Path, namespace: str | None, output: str, kubeconfig: Path | None, **cluster: Any) -> None:
    """Compares the file's ModelDeployments and every object they stand for with what the cluster holds. Fields that
    others set there do not count. Exits 0 without a difference, 1 with one or a problem in the file, 2 when the cluster
    cannot be asked.

    Images that the file does not name are the operator's defaults. They are read from what runs for the deployment; for
    one that is not there yet, or changes its backend, they are those shipped with this command. --router-image and
    --worker-image win over both.

    With -o json, problems are told on stderr as {"problems": [{path, value, reason, fix}]}.
    """
    asked = _Asked(cluster_from(**cluster), bool(cluster["router_image"]), frozenset(dict(cluster["worker_images"])))
    deployments = [
        (_in_namespace(found, namespace), source)
        for found, source in deployments_in(file, asked.facts.library, asks_cluster=True)
    ]
    try:
        found = asyncio.run(_compare_all(deployments, asked, kubeconfig))
    except (ClusterTrouble, CredentialsError) as trouble:
        tell(trouble.problems, as_json=output == "json")
        click.get_current_context().exit(EXIT_TROUBLE)
    if output == "json":
        click.echo(json.dumps([asdict(difference) for difference in found], indent=2))
    else:
        for difference in found:
            click.echo(difference)
    click.get_current_context().exit(EXIT_REFUSED if found else 0)


@dataclass(frozen=True, slots=True)
class _Asked:
    """The facts that the options give, and which images are among them."""

    facts: Cluster
    router: bool
    backends: frozenset[str]

    def over(self, deployed: Cluster) -> Cluster:
        """`deployed` with the images that were asked for."""
        images = {backend: self.facts.images[backend] for backend in self.backends}
        router = self.facts.router_image if self.router else deployed.router_image
        return replace(deployed, router_image=router, images={**deployed.images, **images})


def _in_namespace(deployment: ModelDeployment, namespace: str | None) -> ModelDeployment:
    if namespace is None:
        return deployment
    if not re.search(patterns.DNS_LABEL.regex, namespace):
        raise Refused([Problem("--namespace", shorten(namespace), *patterns.DNS_LABEL.advice(namespace))])
    return deployment.model_copy(update={"metadata": deployment.metadata.model_copy(update={"namespace": namespace})})


async def _compare_all(
    deployments: Sequence[tuple[ModelDeployment, Loaded]], asked: _Asked, kubeconfig: Path | None
) -> list[Difference]:
    async with connect(kubeconfig) as connection:
        client = Client(connection)
        try:
            return [found for each, source in deployments for found in await _compare(client, each, source, asked)]
        except ApiError as error:
            raise cluster_trouble(error, connection.server) from error


async def _compare(client: Client, deployment: ModelDeployment, source: Loaded, asked: _Asked) -> list[Difference]:
    namespace, name = deployment.metadata.namespace, deployment.metadata.name
    own = {"metadata": {"name": name}, "spec": deployment.spec.as_manifest()}
    deployed = await _get(client, MODEL_DEPLOYMENT, namespace, name)
    there, served = await _all_children(client, namespace, name)
    workloads = [document for (kind, _), document in there.items() if kind in WORKLOAD_KINDS]
    with source.locating():
        facts = asked.over(with_images_of(asked.facts, deployment, deployed, workloads))
        facts = replace(facts, apis=facts.apis | served)
        facts = await _with_config_maps(client, deployment, facts)
        edited = _difference(MODEL_DEPLOYMENT, own, deployed, namespace)
        model = await _model(client, deployment, None if edited else deployed)
        facts = replace(facts, gpu_memory=model.gpu_memory or facts.gpu_memory)
        deployment = with_weights(deployment, model.source, f"there is no such ModelBlueprint in namespace {namespace}")
        built = build(deployment, blueprint=model.blueprint, cluster=facts)
    found = [edited]
    for wanted in built.objects:
        resource = BY_KIND[wanted["kind"]]
        observed = there.pop((resource.kind, wanted["metadata"]["name"]), None)
        found.append(_difference(resource, wanted, observed, namespace))
    return [*_only(found), *(Difference("extra", kind, namespace, extra) for kind, extra in sorted(there))]


@dataclass(frozen=True, slots=True)
class _Model:
    """What the operator renders with: the facts of the model, the memory of its GPUs, the weights of its blueprint."""

    blueprint: Blueprint | None
    gpu_memory: Mapping[str, int]
    source: Mapping[str, Any] | None


async def _model(client: Client, deployment: ModelDeployment, deployed: Mapping[str, Any] | None) -> _Model:
    """As the cluster has it. `deployed`, where its spec is that of the file, says what it was rendered with."""
    name = blueprint_name(deployment.spec.model)
    found = await _get(client, MODEL_BLUEPRINT, deployment.metadata.namespace, name) if name else None
    pin = pin_in((deployed or {}).get("status") or {})
    text = ((found or {}).get("status") or {}).get("facts")
    blueprint = unpack(text, f"ModelBlueprint {name}: status.facts") if text else None
    if deployed is not None and (pin is None or blueprint is None or pin.digest != blueprint.digest):
        blueprint = None
    source = None if found is None else found["spec"].get("from") or {}
    return _Model(blueprint, pin.gpu_memory if pin else {}, source)


async def _all_children(
    client: Client, namespace: str, name: str
) -> tuple[dict[tuple[str, str], Mapping[str, Any]], frozenset[str]]:
    """The deployment's objects by kind and name, and the optional APIs that the cluster serves."""
    there: dict[tuple[str, str], Mapping[str, Any]] = {}
    served = set()
    for resource in (*CHILD_KINDS, *OPTIONAL_KINDS):
        try:
            there |= await _children(client, resource, namespace, name)
        except ApiError as error:
            # Whether a kind exists is not told to those who may not read it.
            if resource not in OPTIONAL_KINDS or error.status not in (403, 404):
                raise
        else:
            served.add(resource.api)
    return there, frozenset(served & {resource.api for resource in OPTIONAL_KINDS})


async def _children(
    client: Client, resource: Resource, namespace: str, name: str
) -> dict[tuple[str, str], Mapping[str, Any]]:
    """The deployment's objects of a kind, by kind and name; what they are is added, as items of a list do not say."""
    selector = names.selector_text({names.LABEL_DEPLOYMENT: name})
    found = await client.list(resource, namespace, label_selector=selector)
    return {
        (resource.kind, item["metadata"]["name"]): {**item, "apiVersion": resource.api_version, "kind": resource.kind}
        for item in found.items
    }


def _only(found: Sequence[Difference | None]) -> Iterator[Difference]:
    return (difference for difference in found if difference is not None)


def _difference(
    resource: Resource, wanted: Mapping[str, Any], observed: Mapping[str, Any] | None, namespace: str
) -> Difference | None:
    name = wanted["metadata"]["name"]
    if observed is None:
        return Difference("missing", resource.kind, namespace, name)
    paths = differences(wanted, observed)
    return Difference("different", resource.kind, namespace, name, paths) if paths else None


async def _with_config_maps(client: Client, deployment: ModelDeployment, facts: Cluster) -> Cluster:
    """The facts with rules and templates from the ConfigMaps that the deployment names, unless they were given."""
    spec, namespace = deployment.spec, deployment.metadata.namespace
    rules, templates = facts.rules, facts.templates
    if not rules and spec.rules is not None and spec.rules.config_map_ref is not None:
        path = "spec.rules.configMapRef.name"
        rules = await _data(client, namespace, spec.rules.config_map_ref.name, path)
    if not templates and spec.templates is not None:
        path = "spec.templates.configMapRef.name"
        templates = await _data(client, namespace, spec.templates.config_map_ref.name, path)
    return replace(facts, rules=rules, templates=templates)


async def _data(client: Client, namespace: str, name: str, path: str) -> Mapping[str, str]:
    found = await _get(client, CONFIG_MAP, namespace, name)
    if found is None:
        reason = f"there is no such ConfigMap in namespace {namespace}"
        raise refuse(path, name, reason, "Create it, or name one that exists.")
    return found.get("data") or {}


async def _get(client: Client, resource: Resource, namespace: str, name: str) -> dict[str, Any] | None:
    try:
        return await client.get(resource, namespace, name)
    except ApiError as error:
        if error.is_not_found:
            return None
        raise
