"""The index of a model's safetensors files: how many bytes its weights really take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tandem.api.problems import Problem, Refused, shorten

_FIX = "Download the model's files again."
MAX_PROBLEMS = 20


@dataclass(frozen=True, slots=True)
class Index:
    """`total_bytes` of all tensors; `files` they are in; how many `tensors`; `place` of the total in messages."""

    total_bytes: int
    files: tuple[str, ...]
    tensors: int
    place: str = "metadata.total_size"


def read_index(document: Mapping[str, object], *, place: str, sizes: Mapping[str, int] | None = None) -> Index:
    """The index of a parsed `model.safetensors.index.json`; raises `Refused` when it does not add up.

    `sizes` are the bytes of files beside it: the tensors of an index take as much as its files, but for their headers.
    """
    problems = list(_problems(document, place))
    if problems:
        raise Refused(problems[:MAX_PROBLEMS])
    total: int = document["metadata"]["total_size"]  # type: ignore[index]
    names: Mapping[str, str] = document["weight_map"]  # type: ignore[assignment]
    files = tuple(sorted(set(names.values())))
    if sizes is not None:
        problems = list(_file_problems(total, files, sizes, place))
        if problems:
            raise Refused(problems[:MAX_PROBLEMS])
    return Index(total, files, len(names), f"{place}metadata.total_size")


def _problems(document: Mapping[str, object], place: str) -> Iterator[Problem]:
    metadata, names = document.get("metadata"), document.get("weight_map")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    if type(total) is not int or total < 1:
        yield Problem(f"{place}metadata.total_size", shorten(total), "a whole number above 0 is needed here", _FIX)
    if not isinstance(names, dict) or not names:
        yield Problem(f"{place}weight_map", shorten(names), "a map of tensors to files is needed here", _FIX)
        return
    for tensor, file in names.items():
        if not isinstance(file, str) or not file or "/" in file or "\\" in file or file in (".", ".."):
            where = f"{place}weight_map.{tensor[:80]}"
            yield Problem(where, shorten(file), "the name of a file beside the index is needed here", _FIX)


def _file_problems(total: int, files: tuple[str, ...], sizes: Mapping[str, int], place: str) -> Iterator[Problem]:
    missing = [name for name in files if name not in sizes]
    for name in missing:
        yield Problem(f"{place}weight_map", name, "this file is not there", _FIX)
    held = sum(sizes[name] for name in files if name in sizes)
    if not missing and held < total:
        reason = f"its files hold {held} bytes only"
        yield Problem(f"{place}metadata.total_size", str(total), reason, _FIX)
