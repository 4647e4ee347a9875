"""A model's directory: which safetensors files it has, whether they are whole, and a digest of model and weights.

Only safetensors are read: pickled checkpoints can run code when they are opened. Nothing here needs torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem_serve.problems import load_error

_MAX_HEADER = 100_000_000  # the limit of the safetensors format
_SAMPLE = 1024  # bytes of each tensor that enter the digest, at its start and at its middle
_IGNORED_CONFIG_KEYS = frozenset({"_name_or_path", "transformers_version"})


@dataclass(frozen=True, kw_only=True)
class TensorEntry:
    """One tensor of a file: its type and shape as the file names them, and where its bytes are."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The files of a model and their tensors by name."""

    directory: Path
    config: dict[str, Any]
    files: tuple[Path, ...]
    tensors: dict[str, TensorEntry]

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.nbytes for entry in self.tensors.values())

    def digest(self, *, quantization: str | None = None) -> str:
        """SHA-256 over config.json (without its comments on origin), the name, type, shape and size of every tensor and
        2 KiB of each tensor's bytes, and how they are quantised. Reads a few MB of the largest models; another
        fine-tuning changes every tensor.
        """
        hasher = hashlib.sha256()
        config = {key: value for key, value in self.config.items() if key not in _IGNORED_CONFIG_KEYS}
        hasher.update(json.dumps(config, sort_keys=True).encode())
        handles = {file: file.open("rb") for file in self.files}
        try:
            for name, entry in sorted(self.tensors.items()):
                hasher.update(f"\0{name}\0{entry.dtype}\0{entry.shape}\0{entry.nbytes}\0".encode())
                for position in (0, entry.nbytes // 2):
                    handles[entry.file].seek(entry.offset + position)
                    hasher.update(handles[entry.file].read(min(_SAMPLE, entry.nbytes - position)))
        finally:
            for handle in handles.values():
                handle.close()
        hasher.update(f"\0{quantization}".encode() if quantization is not None else b"")
        return hasher.hexdigest()


def open_checkpoint(directory: Path) -> Checkpoint:
    """Checks the directory and reads the headers of its files. Raises `StartError` that says what is wrong."""
    if not directory.exists():
        raise load_error(
            "--model", value=str(directory), reason="there is no such directory", fix="give the directory of a model"
        )
    if not directory.is_dir():
        raise load_error(
            "--model", value=str(directory), reason="it is not a directory", fix="give the directory of the model"
        )
    config = _read_json(directory / "config.json", missing="the directory has no config.json, so it is not a model")
    files = _weight_files(directory)
    tensors: dict[str, TensorEntry] = {}
    for file in files:
        tensors.update(_read_header(file))
    if not tensors:
        raise load_error(str(directory), reason="the safetensors files hold no tensors", fix="export the model again")
    return Checkpoint(directory=directory, config=config, files=files, tensors=tensors)


def _read_json(path: Path, *, missing: str) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise load_error(str(path), reason=missing, fix="give a directory in Hugging Face format") from None
    except OSError as error:
        raise load_error(
            str(path), reason=f"cannot be read: {error.strerror}", fix="correct its permissions"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise load_error(str(path), reason=f"malformed JSON: {error}", fix="correct or download it again") from error
    if not isinstance(document, dict):
        raise load_error(str(path), reason="it must hold a JSON object", fix="correct or download it again")
    return document


def _weight_files(directory: Path) -> tuple[Path, ...]:
    index = directory / "model.safetensors.index.json"
    if index.exists():
        weight_map = _read_json(index, missing="").get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise load_error(str(index), reason="it has no weight_map", fix="export or download the model again")
        names = set(map(str, weight_map.values()))
        if strange := sorted(name for name in names if Path(name).name != name):
            reason = "the files it names lie beside it"
            raise load_error(str(index), value=strange[0], reason=reason, fix="export or download the model again")
        files = tuple(directory / name for name in sorted(names))
        absent = [file.name for file in files if not file.exists()]
        if absent:
            raise load_error(
                str(index),
                value=", ".join(absent[:5]),
                reason=f"{len(absent)} of the {len(files)} files it names are missing",
                fix="download the missing files",
            )
        return files
    single = directory / "model.safetensors"
    if single.exists():
        return (single,)
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in directory.glob(pattern))
    if pickles:
        raise load_error(
            str(directory),
            value=pickles[0],
            reason="the weights are pickled, and opening a pickle can run any code",
            fix="convert them to safetensors (save_pretrained does)",
        )
    raise load_error(
        str(directory), reason="there is no model.safetensors", fix="give a directory with safetensors weights"
    )


def _read_header(file: Path) -> dict[str, TensorEntry]:
    broken = "export or download the file again"
    try:
        handle = file.open("rb")
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
        raise load_error(str(file), reason=reason, fix="correct its permissions, or download it again") from error
    with handle:
        size = os.fstat(handle.fileno()).st_size
        prefix = handle.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= min(_MAX_HEADER, size - 8):
            raise load_error(str(file), value=f"{size} bytes", reason="it is not a safetensors file", fix=broken)
        try:
            header = json.loads(handle.read(length))
            header.pop("__metadata__", None)
            entries = {name: _entry(file, 8 + length, item) for name, item in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise load_error(str(file), reason="its header is not that of a safetensors file", fix=broken) from error
    end = max((entry.offset + entry.nbytes for entry in entries.values()), default=8 + length)
    if end > size:
        raise load_error(
            str(file), value=f"{size} bytes", reason=f"it is cut: its header speaks of {end} bytes", fix=broken
        )
    return entries


def _entry(file: Path, base: int, item: dict[str, Any]) -> TensorEntry:
    begin, end = item["data_offsets"]
    if not 0 <= begin <= end or any(side < 0 for side in item["shape"]):
        raise ValueError("impossible offsets or shape")
    return TensorEntry(
        file=file, dtype=item["dtype"], shape=tuple(item["shape"]), offset=base + begin, nbytes=end - begin
    )
