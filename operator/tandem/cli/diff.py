"""`tandem diff`: what the operator would change in the cluster if it were given a file."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import click

from tandem.api.deployment import ModelDeployment
from tandem.cli.app import EXIT_REFUSED
from tandem.cli.cluster import cluster_from, cluster_options
from tandem.cli.source import deployments_in, file_option
from tandem.controller.compare import differences
from tandem.kube.client import Client
from tandem.kube.connection import connect
from tandem.kube.errors import ApiError, CredentialsError
from tandem.kube.resources import BY_KIND, CHILD_KINDS, CONFIG_MAP, MODEL_DEPLOYMENT, Resource
from tandem.manifests import Cluster, build, names

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
    epilog="Example: tandem diff -f deployment.yaml -n ml --router-image registry.example/tandem-operator:0.1.0",
)
@file_option("File with one or more ModelDeployments")
@click.option("-n", "--namespace", help="Namespace of the deployments; default: the one in the file.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--kubeconfig", type=click.Path(path_type=Path), help="Default: $KUBECONFIG or ~/.kube/config.")
@cluster_options
def command(*, file: Path, namespace: str | None, output: str, kubeconfig: Path | None, **cluster: Any) -> None:
    """Compares the file's ModelDeployments and every object they stand for with what the cluster holds. Fields that
    others set there do not count. Exits 0 without a difference, 1 with one, 2 when the cluster cannot be asked.

    Give the images that the operator has (--router-image, --worker-image): they are its defaults, not the file's."""
    facts = cluster_from(**cluster)
    deployments = [_in_namespace(found, namespace) for found in deployments_in(file)]
    try:
        found = asyncio.run(_compare_all(deployments, facts, kubeconfig))
    except (ApiError, CredentialsError) as error:
        click.echo(f"error: {error}", err=True)
        click.get_current_context().exit(EXIT_TROUBLE)
    if output == "json":
        click.echo(json.dumps([asdict(difference) for difference in found], indent=2))
    else:
        for difference in found:
            click.echo(difference)
    click.get_current_context().exit(EXIT_REFUSED if found else 0)


def _in_namespace(deployment: ModelDeployment, namespace: str | None) -> ModelDeployment:
    if namespace is None:
        return deployment
    return deployment.model_copy(update={"metadata": deployment.metadata.model_copy(update={"namespace": namespace})})


async def _compare_all(
    deployments: Sequence[ModelDeployment], facts: Cluster, kubeconfig: Path | None
) -> list[Difference]:
    async with connect(kubeconfig) as connection:
        client = Client(connection)
        return [found for each in deployments for found in await _compare(client, each, facts)]


async def _compare(client: Client, deployment: ModelDeployment, facts: Cluster) -> list[Difference]:
    namespace, name = deployment.metadata.namespace, deployment.metadata.name
    built = build(deployment, cluster=await _with_config_maps(client, deployment, facts))
    own = {"metadata": {"name": name}, "spec": deployment.spec.as_manifest()}
    found = [_difference(MODEL_DEPLOYMENT, own, await _get(client, MODEL_DEPLOYMENT, namespace, name), namespace)]
    selector = names.selector_text({names.LABEL_DEPLOYMENT: name})
    there = {
        # Items of a list do not say what they are.
        (resource.kind, item["metadata"]["name"]): {
            **item,
            "apiVersion": resource.api_version,
            "kind": resource.kind,
        }
        for resource in CHILD_KINDS
        for item in (await client.list(resource, namespace, label_selector=selector)).items
    }
    for wanted in built.objects:
        resource = BY_KIND[wanted["kind"]]
        observed = there.pop((resource.kind, wanted["metadata"]["name"]), None)
        found.append(_difference(resource, wanted, observed, namespace))
    return [*_only(found), *(Difference("extra", kind, namespace, extra) for kind, extra in sorted(there))]


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
        rules = await _data(client, namespace, spec.rules.config_map_ref.name)
    if not templates and spec.templates is not None:
        templates = await _data(client, namespace, spec.templates.config_map_ref.name)
    return replace(facts, rules=rules, templates=templates)


async def _data(client: Client, namespace: str, name: str) -> Mapping[str, str]:
    found = await _get(client, CONFIG_MAP, namespace, name)
    return (found or {}).get("data") or {}


async def _get(client: Client, resource: Resource, namespace: str, name: str) -> dict[str, Any] | None:
    try:
        return await client.get(resource, namespace, name)
    except ApiError as error:
        if error.is_not_found:
            return None
        raise
