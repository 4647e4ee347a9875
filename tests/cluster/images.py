"""Container images without a registry: archives made from files, and the store of the node's container runtime."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tests.cluster.errors import RigError
from tests.cluster.machine import run

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
# Containerd keeps this label with the image, so that the record of what was imported cannot differ from what is there.
CONTENT_LABEL = "tandem.dev/content"


@dataclass(frozen=True)
class ImageSettings:
    """How containers of an image start. `environment` has the image's defaults."""

    command: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    working_directory: str = "/"


def write_image_archive(
    target: Path, *, tag: str, files: Mapping[str, Path], machine: str, settings: ImageSettings
) -> Path:
    """Writes a docker-archive with one layer to `target` and returns it.

    `files` maps paths inside the image to files or folders here; `machine` is the processor as `uname -m` says it. The
    same content gives the same bytes: times and owners are left out.
    """
    layer = _layer(files)
    layer_digest = hashlib.sha256(layer).hexdigest()
    config = json.dumps(_config(machine=machine, layer_digest=layer_digest, settings=settings)).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": [tag], "Layers": [f"{layer_digest}.tar"]}]
    with tarfile.open(target, "w") as archive:
        _add_bytes(archive, "manifest.json", json.dumps(manifest).encode())
        _add_bytes(archive, config_name, config)
        _add_bytes(archive, f"{layer_digest}.tar", layer)
    return target


def _config(*, machine: str, layer_digest: str, settings: ImageSettings) -> dict[str, Any]:
    return {
        "architecture": ARCHITECTURES.get(machine, machine),
        "os": "linux",
        "config": {
            "Entrypoint": list(settings.command),
            "Env": [f"{name}={value}" for name, value in sorted(settings.environment.items())],
            "User": settings.user,
            "WorkingDir": settings.working_directory,
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
        "history": [{"created_by": "tandem test rig"}],
    }


def _layer(files: Mapping[str, Path]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        for inside, source in sorted(files.items()):
            # Sorted by path by tarfile itself; what differs between two machines is taken out.
            layer.add(source, arcname=inside.lstrip("/"), filter=_without_origin)
    return buffer.getvalue()


def _without_origin(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = 0
    return entry


def _add_bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


@dataclass(frozen=True)
class ImageStore:
    """The images of a running containerd. `ctr` is the start of a command line that talks to it."""

    ctr: tuple[str, ...]

    def has(self, tag: str, content: str) -> bool:
        """Whether the image of that name has been imported with that content (any string that stands for it)."""
        found = run([*self.ctr, "images", "list", "-q", f'name=={tag},labels."{CONTENT_LABEL}"=={content}'])
        return bool(found.strip())

    def layers(self, tag: str) -> Mapping[str, int]:
        """Digest → bytes of the layers of the image `tag`; empty when there is no such image."""
        listed = run([*self.ctr, "images", "list", f"name=={tag}"]).splitlines()[1:]
        if not listed:
            return {}
        manifest = json.loads(run([*self.ctr, "content", "get", listed[0].split()[2]]))
        return {layer["digest"]: int(layer["size"]) for layer in manifest["layers"]}

    def remove_replaced(self) -> None:
        """Removes images that have lost their name to a later one. Containerd keeps each under its digest as well."""
        rows = [line.split() for line in run([*self.ctr, "images", "list"]).splitlines()[1:]]
        targets = {row[0]: row[2] for row in rows}
        named = {digest for name, digest in targets.items() if not name.startswith("sha256:")}
        if replaced := [name for name, digest in targets.items() if digest not in named]:
            run([*self.ctr, "images", "delete", *replaced])

    def import_stream(self, stream: IO[bytes], *, tag: str, content: str) -> None:
        """Imports an archive that holds the image `tag` from a pipe or file. Raises RigError."""
        command = [*self.ctr, "images", "import", "-"]
        with self._earlier_state_kept(tag):
            done = subprocess.run(command, stdin=stream, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RigError(f"importing {tag} failed: {done.stderr.strip()[-2000:]}")
        run([*self.ctr, "images", "label", tag, f"{CONTENT_LABEL}={content}"])

    @contextlib.contextmanager
    def _earlier_state_kept(self, tag: str) -> Iterator[None]:
        """Keeps what the name `tag` stands for under a second name, so that the layers the two states share stay.

        An import gives the name to the new state first and unpacks afterwards, over the layers it finds. Containerd's
        garbage collection, which every import starts, could take these away in between: nothing held them any more.
        """
        if not run([*self.ctr, "images", "list", "-q", f"name=={tag}"]).strip():
            yield
            return
        second = f"{tag}.before"
        run([*self.ctr, "images", "tag", "--force", tag, second])
        try:
            yield
        finally:
            run([*self.ctr, "images", "delete", second])

    def import_archive(self, archive: Path) -> list[str]:
        """Imports a docker-archive unless its very content was imported before; returns the tags in it."""
        tags = archive_tags(archive)
        content = _file_digest(archive)
        if not all(self.has(tag, content) for tag in tags):
            with archive.open("rb") as stream:
                self.import_stream(stream, tag=tags[0], content=content)
            for tag in tags[1:]:
                run([*self.ctr, "images", "label", tag, f"{CONTENT_LABEL}={content}"])
        return tags


def archive_tags(archive: Path) -> list[str]:
    """The image names in a docker-archive. Raises RigError when it names none: pods could not refer to it."""
    with tarfile.open(archive) as opened:
        member = opened.extractfile("manifest.json")
        if member is None:
            raise RigError(f"{archive} has no manifest.json")
        tags = [tag for image in json.load(member) for tag in image["RepoTags"] or []]
    if not tags:
        raise RigError(f"{archive} names no image")
    return tags


def _file_digest(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
