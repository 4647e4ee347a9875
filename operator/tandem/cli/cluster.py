"""The options that say which cluster objects are built for, shared by every command that builds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tandem.api.problems import refuse
from tandem.cli.settings import KeyValue

if TYPE_CHECKING:
    from tandem.manifests import Cluster

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

_DIRECTORY = click.Path(path_type=Path)
_OPTIONS = (
    click.option("--router-image", metavar="IMAGE", help="Image of the router, as the operator would be told."),
    click.option(
        "--worker-image",
        "worker_images",
        type=KeyValue(),
        multiple=True,
        metavar="BACKEND=IMAGE",
        help="Default worker image of a backend.",
    ),
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
    rules: Path | None,
    templates: Path | None,
) -> Cluster:
    """The cluster that the options describe; raises `Refused` for a directory that cannot be read."""
    from tandem.manifests.cluster import ROUTER_IMAGE, Cluster
    from tandem.rendering.library import load_library

    return Cluster(
        library=load_library(),
        router_image=router_image or ROUTER_IMAGE,
        images=dict(worker_images),
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
        return {path.name: path.read_text(encoding="utf-8") for path in sorted(directory.iterdir()) if path.is_file()}
    except (OSError, UnicodeDecodeError) as error:
        raise refuse(option, str(directory), f"a file cannot be read: {error}", "Give UTF-8 files.") from error
