"""Archives of images: what a container runtime expects to find in them, and the same bytes every time."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.errors import RigError
from tests.cluster.images import ImageSettings, archive_tags, write_image_archive

SETTINGS = ImageSettings(command=["/app/run", "--now"], environment={"B": "2", "A": "1"}, user="65532")


@pytest.fixture
def content(tmp_path: Path) -> Path:
    folder = tmp_path / "content"
    (folder / "lib").mkdir(parents=True)
    (folder / "run").write_text("#!/bin/sh\n")
    (folder / "run").chmod(0o755)
    (folder / "lib" / "data").write_text("data")
    return folder


def archive(target: Path, content: Path) -> Path:
    return write_image_archive(
        target, tag="localhost/app:1", files={"/app": content}, machine="x86_64", settings=SETTINGS
    )


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as opened:
        return {name: opened.extractfile(name).read() for name in opened.getnames()}  # type: ignore[union-attr]


def test_manifest_leads_to_configuration_and_layer(tmp_path: Path, content: Path) -> None:
    files = members(archive(tmp_path / "app.tar", content))
    [image] = json.loads(files["manifest.json"])
    assert image["RepoTags"] == ["localhost/app:1"]
    [layer] = image["Layers"]
    config: dict[str, Any] = json.loads(files[image["Config"]])
    assert image["Config"] == f"{hashlib.sha256(files[image['Config']]).hexdigest()}.json"
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(files[layer]).hexdigest()}"]
    assert (config["architecture"], config["os"]) == ("amd64", "linux")
    assert config["config"]["Entrypoint"] == ["/app/run", "--now"]
    assert config["config"]["Env"] == ["A=1", "B=2"]
    assert config["config"]["User"] == "65532"


def test_layer_holds_folders_with_their_modes_and_no_trace_of_this_user(tmp_path: Path, content: Path) -> None:
    files = members(archive(tmp_path / "app.tar", content))
    [layer] = [value for name, value in files.items() if name.endswith(".tar")]
    with tarfile.open(fileobj=io.BytesIO(layer)) as opened:
        entries = {entry.name: entry for entry in opened}
    assert set(entries) == {"app", "app/run", "app/lib", "app/lib/data"}
    assert entries["app/run"].mode == 0o755
    assert {(entry.uid, entry.gid, entry.uname, entry.mtime) for entry in entries.values()} == {(0, 0, "", 0)}


def test_same_content_gives_the_same_bytes(tmp_path: Path, content: Path) -> None:
    first = archive(tmp_path / "1.tar", content).read_bytes()
    (content / "run").touch()
    assert archive(tmp_path / "2.tar", content).read_bytes() == first
    (content / "run").write_text("#!/bin/sh\nexit 1\n")
    assert archive(tmp_path / "3.tar", content).read_bytes() != first


def test_names_are_read_back(tmp_path: Path, content: Path) -> None:
    assert archive_tags(archive(tmp_path / "app.tar", content)) == ["localhost/app:1"]


def test_archive_without_a_name_is_refused(tmp_path: Path) -> None:
    manifest = json.dumps([{"Config": "c", "RepoTags": None, "Layers": []}]).encode()
    with tarfile.open(tmp_path / "nameless.tar", "w") as opened:
        entry = tarfile.TarInfo("manifest.json")
        entry.size = len(manifest)
        opened.addfile(entry, io.BytesIO(manifest))
    with pytest.raises(RigError, match="names no image"):
        archive_tags(tmp_path / "nameless.tar")
