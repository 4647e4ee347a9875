"""The volumes of a pod: which directory of this machine stands in for each, and which files must be written there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tandem.api.problems import Problem
from tandem.local.environment import CONFIG_MAP_FIX, Sources, whole_secret_fix
from tandem.local.mounts import Mounts
from tandem.local.spec import FileSpec
from tandem.local.template import ConfigMapVolume, Container, Item, PodBody, SecretVolume, Volume

SECRET_MODE = 0o600


@dataclass(slots=True)
class PodVolumes:
    """Directories by volume name, and what has to be made before the pod starts."""

    places: dict[str, Path] = field(default_factory=dict)
    files: list[FileSpec] = field(default_factory=list)
    directories: list[Path] = field(default_factory=list)
    scratch: set[str] = field(default_factory=set)
    claims: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)

    def mounts_of(self, container: Container, *, where: str, problems: list[Problem]) -> Mounts:
        """Where `container` finds its volumes."""
        places: dict[str, Path] = {}
        for index, mount in enumerate(container.volume_mounts):
            place = self.places.get(mount.name)
            if place is not None:
                places[str(PurePosixPath(mount.mount_path))] = place / mount.sub_path
            elif mount.name not in self.missing:
                at = f"{where}.volumeMounts[{index}].name"
                problems.append(Problem(at, repr(mount.name), "the pod has no such volume", "Declare it in volumes."))
        return Mounts(places)

    def temporary_directory(self, container: Container) -> Path | None:
        """The directory behind an emptyDir at /tmp, which a process would not look for by itself."""
        for mount in container.volume_mounts:
            if mount.mount_path.rstrip("/") == "/tmp" and mount.name in self.scratch:  # noqa: S108 - the pod's own
                return self.places[mount.name]
        return None


def pod_volumes(
    body: PodBody,
    *,
    directory: Path,
    claims: Mapping[str, Path],
    sources: Sources,
    where: str,
    problems: list[Problem],
) -> PodVolumes:
    """The volumes of a pod, below `directory` unless they are the user's own (`claims`, by claim name)."""
    found = PodVolumes()
    for index, volume in enumerate(body.volumes):
        at = f"{where}.volumes[{index}]"
        place: Path | None = directory / volume.name
        if claim := volume.persistent_volume_claim:
            found.claims.add(claim.claim_name)
            place = claims.get(claim.claim_name)
            if place is None:
                path, fix = f"{at}.persistentVolumeClaim.claimName", f"Add --volume {claim.claim_name}=DIRECTORY."
                problems.append(Problem(path, repr(claim.claim_name), "no directory stands in for it", fix))
        elif volume.host_path:
            place = Path(volume.host_path.path)
        elif volume.config_map or volume.secret:
            found.directories.append(directory / volume.name)
            found.files += _files(volume, place=directory / volume.name, sources=sources, where=at, problems=problems)
        elif volume.unknown:
            place = None
            fix = "Use a ConfigMap, Secret, emptyDir or PersistentVolumeClaim."
            problems.append(Problem(f"{at}.{volume.unknown}", "", "local mode has nothing for this volume", fix))
        else:
            found.directories.append(directory / volume.name)
            found.scratch.add(volume.name)
        if place is None:
            found.missing.add(volume.name)
        else:
            found.places[volume.name] = place
    return found


def _files(volume: Volume, *, place: Path, sources: Sources, where: str, problems: list[Problem]) -> Iterator[FileSpec]:
    source: ConfigMapVolume | SecretVolume
    values: Mapping[str, str]
    if volume.secret:
        source, mode, path = volume.secret, SECRET_MODE, f"{where}.secret"
        name, values, fix = (
            source.secret_name,
            sources.secret_keys(source.secret_name),
            whole_secret_fix(source.secret_name),
        )
    elif volume.config_map:
        source, mode, path = volume.config_map, 0o644, f"{where}.configMap"
        name, values, fix = source.name, sources.config_maps.get(source.name, {}), CONFIG_MAP_FIX
    else:
        return
    if not values and not source.optional:
        problems.append(Problem(path, repr(name), "nothing is known of it", fix))
        return
    for item in source.items or (Item(key=key, path=key) for key in values):
        if item.key in values:
            yield FileSpec(place / item.path, values[item.key].encode(), mode)
        elif not source.optional:
            problems.append(Problem(f"{path}.items", repr(item.key), "there is no such key", "Name an existing key."))
