"""The volumes of a pod: which directory of this machine stands in for each, and which files must be written there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from tandem.api.problems import Problem
from tandem.local.environment import CONFIG_MAP_FIX, Sources, whole_secret_fix
from tandem.local.mounts import Mounts
from tandem.local.spec import FileSpec

SECRET_MODE = 0o600


@dataclass(slots=True)
class PodVolumes:
    """Directories by volume name, and what has to be made before the pod starts."""

    places: dict[str, Path] = field(default_factory=dict)
    files: list[FileSpec] = field(default_factory=list)
    directories: list[Path] = field(default_factory=list)
    scratch: set[str] = field(default_factory=set)
    claims: set[str] = field(default_factory=set)

    def mounts_of(self, container: Mapping[str, Any], *, where: str, problems: list[Problem]) -> Mounts:
        """Where `container` finds its volumes."""
        places: dict[str, Path] = {}
        for index, mount in enumerate(container.get("volumeMounts") or ()):
            place = self.places.get(mount["name"])
            if place is None:
                at = f"{where}.volumeMounts[{index}].name"
                problems.append(
                    Problem(at, repr(mount["name"]), "the pod has no such volume", "Declare it in volumes.")
                )
                continue
            target = place / mount["subPath"] if mount.get("subPath") else place
            places[str(PurePosixPath(mount["mountPath"]))] = target
        return Mounts(places)

    def temporary_directory(self, container: Mapping[str, Any]) -> Path | None:
        """The directory behind an emptyDir at /tmp, which a process would not look for by itself."""
        for mount in container.get("volumeMounts") or ():
            if mount["mountPath"].rstrip("/") == "/tmp" and mount["name"] in self.scratch:  # noqa: S108 - its own name
                return self.places[mount["name"]]
        return None


def pod_volumes(
    spec: Mapping[str, Any],
    *,
    directory: Path,
    claims: Mapping[str, Path],
    sources: Sources,
    where: str,
    problems: list[Problem],
) -> PodVolumes:
    """The volumes of a pod spec, below `directory` unless they are the user's own (`claims`, by claim name)."""
    found = PodVolumes()
    for index, volume in enumerate(spec.get("volumes") or ()):
        at = f"{where}.volumes[{index}]"
        name = volume["name"]
        kind = next((key for key in volume if key != "name"), "emptyDir")
        source = volume.get(kind) or {}
        place = directory / name
        if kind == "emptyDir":
            found.directories.append(place)
            found.scratch.add(name)
        elif kind == "persistentVolumeClaim":
            claim = source["claimName"]
            found.claims.add(claim)
            if claim not in claims:
                fix = f"Add --volume {claim}=DIRECTORY."
                problems.append(Problem(f"{at}.{kind}.claimName", repr(claim), "no directory stands in for it", fix))
                continue
            place = claims[claim]
        elif kind == "hostPath":
            place = Path(source["path"])
        elif kind in ("configMap", "secret"):
            found.directories.append(place)
            found.files += _files(kind, source, place=place, sources=sources, where=f"{at}.{kind}", problems=problems)
        else:
            fix = "Use a ConfigMap, Secret, emptyDir or PersistentVolumeClaim."
            problems.append(Problem(f"{at}.{kind}", "", "local mode has nothing for this kind of volume", fix))
            continue
        found.places[name] = place
    return found


def _files(
    kind: str, source: Mapping[str, Any], *, place: Path, sources: Sources, where: str, problems: list[Problem]
) -> Iterator[FileSpec]:
    secret = kind == "secret"
    name = source["secretName" if secret else "name"]
    values = sources.secret_keys(name) if secret else sources.config_maps.get(name)
    if not values:
        if not source.get("optional"):
            fix = whole_secret_fix(name) if secret else CONFIG_MAP_FIX
            problems.append(Problem(where, repr(name), "nothing is known of it", fix))
        return
    items = source.get("items") or [{"key": key, "path": key} for key in values]
    for item in items:
        if item["key"] in values:
            yield FileSpec(place / item["path"], values[item["key"]].encode(), SECRET_MODE if secret else 0o644)
        elif not source.get("optional"):
            problems.append(
                Problem(f"{where}.items", repr(item["key"]), "there is no such key", "Name an existing key.")
            )
