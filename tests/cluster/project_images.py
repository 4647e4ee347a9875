"""The project's own two images, built from its Dockerfile."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "images" / "Dockerfile"
TARGETS = ("operator", "server")
CHART = ROOT / "charts" / "tandem"
# Usual images lie under a registry's name; these have the one that stands for none.
REGISTRY = "localhost"

Build = Callable[..., str]


def image_tag(target: str, tag: str) -> str:
    """The name of the image that the Dockerfile's stage `target` makes."""
    return f"{REGISTRY}/tandem-{target}:{tag}"


def chart_version() -> str:
    """The tag that the chart asks for when it is told nothing else."""
    return str(yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"])


def build_project_images(
    build: Build, *, base: str, tag: str, environment: Mapping[str, str] = os.environ
) -> tuple[str, ...]:
    """Builds both with `build` (see `NodeCluster.build_image`) and returns their names.

    What did not change since the last time is neither built nor imported again. `TORCH_BACKEND` in `environment` says
    which build of torch, as for `make images`.
    """
    arguments = {"BASE": base}
    if backend := environment.get("TORCH_BACKEND"):
        arguments["TORCH_BACKEND"] = backend
    return tuple(
        build(context=ROOT, tag=image_tag(target, tag), dockerfile=DOCKERFILE, build_args=arguments, target=target)
        for target in TARGETS
    )
