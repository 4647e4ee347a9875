"""`build()`: the one way from a ModelDeployment to its objects.

The operator, `tandem render`, `explain`, `diff`, local mode and the tests all call it; what the operator applies is
what `tandem render` prints.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tandem.api.deployment import ModelDeployment, RoleName
from tandem.api.problems import Problem, Refused, refuse
from tandem.manifests import access, names, router, timing, tracing, workers
from tandem.manifests.backends import BACKENDS
from tandem.manifests.cluster import Cluster
from tandem.manifests.deadlines import deadlines
from tandem.manifests.model import Build, KubernetesObject
from tandem.manifests.overlay import server_image
from tandem.manifests.placement import Placement, check_ports, place
from tandem.manifests.podshape import shape_of
from tandem.manifests.request import rendering_request
from tandem.manifests.revision import disagreements, revision
from tandem.manifests.sources import model_access
from tandem.rendering.library import Library
from tandem.rendering.parameters import Given
from tandem.rendering.pipeline import ModelFacts, Rendering, render
from tandem.rendering.values import ParameterValue

if TYPE_CHECKING:
    from tandem.blueprint.model import Blueprint
    from tandem.manifests.fitting import RoleFit, Unjudged


def build(deployment: ModelDeployment, *, blueprint: Blueprint | None = None, cluster: Cluster) -> Build:
    """Every object of `deployment`; raises `Refused` with every problem of the stage that cannot go on.

    Pure: no I/O, clock, network or global state, and the same input gives the same objects in the same order.
    """
    _check_name(deployment.metadata.name)
    unknown_fields = _unknown_fields(deployment)
    source = model_access(deployment)
    library = _library(deployment, cluster)
    rendering = _render(deployment, source.facts, blueprint, cluster, library)
    placements = _placements(deployment, rendering, cluster)
    image = deployment.spec.image or cluster.images.get(deployment.spec.backend) or rendering.table.image
    parts = workers.Workers(
        deployment=deployment,
        access=source,
        rendering=rendering,
        placements=placements,
        image=image,
        revision=revision(
            model=source.identity,
            images=_images(deployment, image),
            nodes={role: placement.nodes for role, placement in placements.items()},
            rendering=rendering,
        ),
        request_seconds=_request_seconds(deployment, rendering.table.limits["timeout_seconds"]),
        load_seconds=timing.startup_seconds(
            blueprint.weight_bytes if blueprint else None, watched=BACKENDS[deployment.spec.backend].watches_loading
        ),
    )
    parameters = tuple(value for role in rendering.roles for value in role.parameters)
    objects = tuple(_objects(parts, cluster))
    return Build(
        objects=objects,
        parameters=parameters,
        rule_trace=tuple(hit for role in rendering.roles for hit in role.trace),
        warnings=tuple(dict.fromkeys(_warnings(parts, cluster, library))),
        revision=parts.revision,
        unknown_fields=unknown_fields,
        fits=_fits(deployment, parameters, blueprint, cluster),
        deadlines=tuple(deadlines(parts, objects, blueprint)),
    )


def _render(
    deployment: ModelDeployment, model: ModelFacts, blueprint: Blueprint | None, cluster: Cluster, library: Library
) -> Rendering:
    """The rendering; with a blueprint, what nobody gave follows from the model and the role's memory."""
    request = rendering_request(deployment, model, blueprint)
    rendering = render(request, library)
    if blueprint is None:
        return rendering
    from tandem.manifests.fitting import derived

    parameters = [value for role in rendering.roles for value in role.parameters]
    roles = []
    for name, role in zip(deployment.role_names(), request.roles, strict=True):
        found = derived(
            deployment, name, parameters, blueprint, gpu_memory=cluster.gpu_memory, gpus=cluster.gpus_per_node
        )
        detail = f"blueprint {blueprint.digest[:12]}"
        follows = {key: Given(value, "blueprint", detail) for key, value in found.parameters.items()}
        roles.append(replace(role, derived=follows))
    if not any(role.derived for role in roles):
        return rendering
    return render(replace(request, roles=tuple(roles)), library)


def _fits(
    deployment: ModelDeployment,
    parameters: Sequence[ParameterValue],
    blueprint: Blueprint | None,
    cluster: Cluster,
) -> tuple[RoleFit | Unjudged, ...]:
    if blueprint is None:
        return ()
    from tandem.manifests.fitting import judge_roles

    return judge_roles(deployment, parameters, blueprint, gpu_memory=cluster.gpu_memory, gpus=cluster.gpus_per_node)


def _unknown_fields(deployment: ModelDeployment) -> tuple[Problem, ...]:
    """Of the podTemplates; raises `Refused` with every value in them that has a wrong type."""
    shapes = [
        shape_of(template, f"spec.roles.{name}.podTemplate")
        for name in deployment.role_names()
        if (template := deployment.role(name).pod_template) is not None
    ]
    if mistakes := [problem for shape in shapes for problem in shape.mistakes]:
        raise Refused(mistakes)
    return tuple(problem for shape in shapes for problem in shape.unknown)


def _placements(deployment: ModelDeployment, rendering: Rendering, cluster: Cluster) -> dict[str, Placement]:
    """The placement of each role's workers; raises `Refused` when one does not fit, or its ports clash."""
    spec = deployment.spec
    backend = BACKENDS[spec.backend]
    placements = {role.role: place(role, backend, cluster, backend_name=spec.backend) for role in rendering.roles}
    for name, role in zip(deployment.role_names(), rendering.roles, strict=True):
        check_ports(role, name, backend, mode=spec.mode, nodes=placements[role.role].nodes)
    return placements


def _warnings(parts: workers.Workers, cluster: Cluster, library: Library) -> Iterator[str]:
    yield from _version_warnings(parts.deployment, library)
    yield from _unused_warnings(parts.deployment, cluster)
    yield from tracing.warnings(parts.deployment)
    yield from (text for role in parts.rendering.roles for text in role.warnings)
    yield from disagreements(parts.rendering)
    for name in parts.deployment.role_names():
        yield from workers.accelerator_warnings(parts, name)


def _unused_warnings(deployment: ModelDeployment, cluster: Cluster) -> Iterator[str]:
    spec = deployment.spec
    if cluster.rules and (spec.rules is None or spec.rules.config_map_ref is None):
        yield "spec.rules.configMapRef: names no ConfigMap, so the rule files that were given are not used"
    if cluster.templates and spec.templates is None:
        yield "spec.templates.configMapRef: names no ConfigMap, so the templates that were given are not used"


def _version_warnings(deployment: ModelDeployment, library: Library) -> list[str]:
    spec = deployment.spec
    if spec.image is None or spec.backend_version is not None or len(library.tables[spec.backend]) < 2:
        return []
    version = library.table(spec.backend, None).version
    return [f"spec.image: flags are those of {spec.backend} {version}; set spec.backendVersion to the image's version"]


def _objects(parts: workers.Workers, cluster: Cluster) -> Iterator[KubernetesObject]:
    """In an order that is good for applying: accounts and rights, files, addresses, pods, then what guards them."""
    source = parts.deployment
    roles = list(zip(source.role_names(), parts.rendering.roles, strict=True))
    yield from access.accounts(source)
    yield from access.router_rights(source)
    yield from (found for _, role in roles if (found := workers.config_map(parts, role)) is not None)
    yield from (workers.headless_service(parts, role) for _, role in roles)
    yield router.client_service(source)
    yield from (workers.workload(parts, role, name) for name, role in roles)
    yield router.router_deployment(source, cluster=cluster, request_seconds=parts.request_seconds)
    yield from _budgets(parts, [name for name, _ in roles])
    yield from access.network_policies(source, peers=any(place.nodes > 1 for place in parts.placements.values()))


def _budgets(parts: workers.Workers, roles: list[RoleName]) -> Iterator[KubernetesObject]:
    budgets = [workers.disruption_budget(parts, name) for name in roles] + [router.router_budget(parts.deployment)]
    yield from (budget for budget in budgets if budget is not None)


def _check_name(name: str) -> None:
    if not names.SERVICE_NAME.match(name):
        reason = "the deployment's name becomes a Service's: a-z, 0-9 and -, a letter first, at most 63 characters"
        raise refuse("metadata.name", name, reason, "Choose another name.")


def _images(deployment: ModelDeployment, image: str) -> list[str]:
    """The image of each role's server."""
    overlays = (deployment.role(name).pod_template for name in deployment.role_names())
    return [server_image(overlay) or image for overlay in overlays]


def _request_seconds(deployment: ModelDeployment, default: object) -> int:
    limits = deployment.spec.limits
    given = limits.timeout_seconds if limits else None
    return given if given is not None else int(str(default))


def _library(deployment: ModelDeployment, cluster: Cluster) -> Library:
    """The cluster's library with the ConfigMaps that the deployment names."""
    spec, library = deployment.spec, cluster.library
    library.table(spec.backend, spec.backend_version)  # an unknown backend has no files to replace
    if spec.rules is not None and spec.rules.config_map_ref is not None:
        label = f"ConfigMap {spec.rules.config_map_ref.name}"
        path = "spec.rules.configMapRef"
        library = library.with_rules(
            backend=spec.backend, rule_set=spec.rules.set, texts=cluster.rules, label=label, path=path
        )
    if spec.templates is not None:
        label = f"ConfigMap {spec.templates.config_map_ref.name}"
        path = "spec.templates.configMapRef"
        library = library.with_templates(backend=spec.backend, texts=cluster.templates, label=label, path=path)
    return library
