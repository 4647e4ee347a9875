"""Builds images from Dockerfiles with buildah, and the base image that they start from.

Buildah gets a store of its own below the rig's cache; images that a user has elsewhere are neither seen nor touched.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.binaries import Progress, file_lock
from tests.cluster.errors import RigError
from tests.cluster.images import ImageStore
from tests.cluster.machine import run
from tests.cluster.packages import BUILD_NEEDS, ensure, find_program

BASE_SUITE = "bookworm"
BASE_PACKAGES = ("python3", "python3-venv", "python3-pip", "ca-certificates")
STEPS_KEPT_SECONDS = 3600
SHOWN_OF_A_STEP = 100
_STEP = re.compile(r"(?:(\[\d+/\d+]) )?STEP \d+/\d+: ((?:FROM|RUN|COPY|ADD) .*)")
# A build downloads as this computer does: it trusts the same authorities.
HOST_CERTIFICATES = Path("/etc/ssl/certs")


@dataclass(frozen=True)
class ImageBuilder:
    """Builds below `folder` (kept between runs: unchanged steps are not built again)."""

    folder: Path
    progress: Progress

    def base_image(self, packages: Sequence[str] = BASE_PACKAGES) -> str:
        """The tag of a small Debian image with these packages; made with debootstrap when it is not there yet (1 min).

        `python` is there beside `python3`, as in the usual Python base images. Raises Unavailable, RigError.
        """
        self._ensure_programs()
        key = hashlib.sha256(repr((BASE_SUITE, sorted(packages))).encode()).hexdigest()[:12]
        tag = f"localhost/tandem-base:{key}"
        with self._locked():
            if not self._image_id(tag):
                self.progress(f"making the base image {tag} (once)")
                self._make_base(tag, packages)
        return tag

    def build(
        self, *, context: Path, dockerfile: Path, tag: str, build_args: Mapping[str, str], target: str = ""
    ) -> str:
        """Builds an image and returns its id, which stands for its content. Raises Unavailable, RigError.

        `target` is the stage to build; empty: the last one.
        """
        self._ensure_programs()
        arguments = [f"--build-arg={name}={value}" for name, value in build_args.items()]
        arguments += [f"--target={target}"] if target else []
        volume = [f"--volume={HOST_CERTIFICATES}:{HOST_CERTIFICATES}:ro"] if HOST_CERTIFICATES.is_dir() else []
        options = ["--isolation=chroot", "--network=host", "--layers", *volume, *arguments]
        command = [*self._buildah, "bud", *options, f"--file={dockerfile}", f"--tag={tag}", str(context)]
        self.progress(f"building {tag}")
        with self._locked():
            # Containers of builds that were broken off; under the lock there is no other build.
            subprocess.run([*self._buildah, "rm", "--all"], capture_output=True, check=False)
            self._follow(command, tag)
            self._prune()
            return self._image_id(tag)

    def layers(self, tag: str) -> list[str]:
        """The digests of the (uncompressed) layers of a built image, lowest first."""
        inspected = json.loads(run([*self._buildah, "inspect", "--type=image", tag]))
        return list(inspected["OCIv1"]["rootfs"]["diff_ids"])

    def send(self, *, image_id: str, tag: str, store: ImageStore) -> None:
        """Brings a built image into a container runtime, through a pipe: archives of big images are never kept."""
        if store.has(tag, image_id):
            return
        if known := store.layers(tag):
            try:
                with self._locked():
                    self._send_changes(known, image_id=image_id, tag=tag, store=store)
            except RigError as error:
                # A store whose run was broken off may lack what its records name.
                self.progress(f"{error}; all of it is sent")
            else:
                return
        self.progress(f"importing {tag} into the node")
        push = [*self._buildah, "push", "--quiet", image_id, f"docker-archive:/dev/stdout:{tag}"]
        with self._locked(), tempfile.TemporaryFile() as errors:
            pushing = subprocess.Popen(push, stdout=subprocess.PIPE, stderr=errors)
            assert pushing.stdout is not None
            try:
                store.import_stream(pushing.stdout, tag=tag, content=image_id)
            except RigError as error:
                pushing.kill()
                pushing.wait()
                errors.seek(0)
                raise RigError(f"{error}\nsent by: {errors.read().decode()[-2000:]}") from error
            finally:
                pushing.stdout.close()
                pushing.wait()

    def _send_changes(self, known: Mapping[str, int], *, image_id: str, tag: str, store: ImageStore) -> None:
        """Sends what the store lacks of an image that it has in an earlier state: seconds for gigabytes of old layers.

        Buildah writes an OCI layout in which empty files of the right name and size stand for the known layers: it
        takes them for copied already. The archive then leaves them out, as the store has their content.
        """
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="send-") as scratch:
            layout = Path(scratch)
            blobs = layout / "blobs" / "sha256"
            blobs.mkdir(parents=True)
            stand_ins = {digest.removeprefix("sha256:"): size for digest, size in known.items()}
            for name, size in stand_ins.items():
                with (blobs / name).open("wb") as blob:
                    blob.truncate(size)
            run([*self._buildah, "push", "--quiet", "--disable-compression", image_id, f"oci:{layout}:{tag}"])
            index = json.loads((layout / "index.json").read_text())
            index["manifests"][0]["annotations"] = {"io.containerd.image.name": tag}
            (layout / "index.json").write_text(json.dumps(index))
            for name in stand_ins:
                (blobs / name).unlink()
            with tempfile.TemporaryFile(dir=scratch) as archive:
                with tarfile.open(fileobj=archive, mode="w") as writer:
                    for part in ("oci-layout", "index.json", "blobs"):
                        writer.add(layout / part, arcname=part)
                archive.seek(0)
                store.import_stream(archive, tag=tag, content=image_id)

    def _follow(self, command: Sequence[str], tag: str) -> None:
        """Runs a build and tells each step as it begins; steps that are there already take no time."""
        lines: list[str] = []
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as building:
            assert building.stdout is not None
            for line in building.stdout:
                lines.append(line)
                if step := _STEP.match(line):
                    self.progress(f"  {step[1]} {' '.join(step[2].split())[:SHOWN_OF_A_STEP]}")
        if building.returncode != 0:
            raise RigError(f"building {tag} failed:\n{''.join(lines)[-6000:]}")

    def _prune(self) -> None:
        """Removes steps of earlier builds that no image is made of any more; recent ones make the next build quick."""
        listed = json.loads(run([*self._buildah, "images", "--json", "--filter=dangling=true"]))
        old = [image["id"] for image in listed if time.time() - image["created"] > STEPS_KEPT_SECONDS]
        if old:
            subprocess.run([*self._buildah, "rmi", *old], capture_output=True, check=False)

    def _make_base(self, tag: str, packages: Sequence[str]) -> None:
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="base-") as scratch:
            root = Path(scratch) / "root"
            debootstrap = find_program("debootstrap") or "debootstrap"
            run([debootstrap, "--variant=minbase", f"--include={','.join(packages)}", BASE_SUITE, str(root)])
            for rest in root.glob("var/cache/apt/archives/*.deb"):
                rest.unlink()
            with contextlib.suppress(FileExistsError):
                (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
            container = run([*self._buildah, "from", "scratch"]).strip()
            try:
                run([*self._buildah, "copy", "--quiet", container, str(root), "/"])
                run([*self._buildah, "config", "--cmd=/bin/sh", "--env=LANG=C.UTF-8", container])
                run([*self._buildah, "commit", "--quiet", container, tag])
            finally:
                run([*self._buildah, "rm", container])

    def _image_id(self, tag: str) -> str:
        return run([*self._buildah, "images", "--quiet", "--no-trunc", "--filter", f"reference={tag}"]).strip()

    def _ensure_programs(self) -> None:
        ensure(BUILD_NEEDS, purpose="building images", progress=self.progress)
        self.folder.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with file_lock(self.folder / ".lock"):
            yield

    @property
    def _buildah(self) -> list[str]:
        program = find_program("buildah") or "buildah"
        return [program, f"--root={self.folder / 'images'}", f"--runroot={self.folder / 'run'}"]
