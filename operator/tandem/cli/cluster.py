"""The options that say which cluster objects are built for, shared by every command that builds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tandem.api.problems import refuse
from tandem.cli.settings import BackendImage

if TYPE_CHECKING:
    from tandem.manifests import Cluster

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

# The API server's limit for a whole ConfigMap.
MAX_BYTES = 1024 * 1024
_DIRECTORY = click.Path(path_type=Path)
_OPTIONS = (
    click.option("--router-image", metavar="IMAGE", help="Image of the router, as the operator would be told."),
    click.option(
        "--worker-image",
        "worker_images",
        type=BackendImage(),
        multiple=True,
        metavar="BACKEND=IMAGE",
        help="Default worker image of a backend.",
    ),
    click.option(
        "--gpus-per-node",
        type=click.IntRange(1, 1024),
        help="GPUs of a node, as the operator would be told; a larger worker takes several.",
    ),
    click.option("--leader-worker-sets", is_flag=True, help="The cluster serves LeaderWorkerSet."),
    click.option("--rules", type=_DIRECTORY, metavar="DIR", help="Files of the ConfigMap in spec.rules.configMapRef."),
    click.option(
        "--templates", type=_DIRECTORY, metavar="DIR", help="Files of the ConfigMap in spec.templates.configMapRef."
    ),
)


def cluster_options(command: Decorated) -> Decorated:
    """Adds the options; their values go to `cluster_from` as they are."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def cluster_from(
    *,
    router_image: str | None,
    worker_images: tuple[tuple[str, str], ...],
    gpus_per_node: int | None,
    leader_worker_sets: bool,
    rules: Path | None,
    templates: Path | None,
) -> Cluster:
    """The cluster that the options describe; raises `Refused` for a directory that cannot be read."""
    from tandem.manifests.cluster import GPUS_PER_NODE, ROUTER_IMAGE, Cluster
    from tandem.manifests.placement import LEADER_WORKER_SET
    from tandem.rendering.library import load_library

    return Cluster(
        library=load_library(),
        router_image=router_image or ROUTER_IMAGE,
        images=dict(worker_images),
        apis=frozenset({LEADER_WORKER_SET} if leader_worker_sets else ()),
        gpus_per_node=gpus_per_node or GPUS_PER_NODE,
        rules=_texts("--rules", rules),
        templates=_texts("--templates", templates),
    )


def _texts(option: str, directory: Path | None) -> Mapping[str, str]:
    """File name → text of a directory, as a ConfigMap made from it would have them."""
    if directory is None:
        return {}
    if not directory.is_dir():
        raise refuse(option, str(directory), "there is no such directory", "Give a directory of files.")
    try:
        return {path.name: _text(option, path) for path in sorted(directory.iterdir()) if path.is_file()}
    except OSError as error:
        where, reason = str(error.filename or directory), f"it cannot be read: {error.strerror}"
        raise refuse(f"{option} {where}", None, reason, "Give files that you may read.") from None


def _text(option: str, path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise refuse(f"{option} {path}", None, "no ConfigMap holds a file of this size", "Keep it below 1 MiB.")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        reason, fix = "this is no text in UTF-8", "Save it as UTF-8, or take it out of the directory."
        raise refuse(f"{option} {path}:{line}", None, reason, fix) from None
