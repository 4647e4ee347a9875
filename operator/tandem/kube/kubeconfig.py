"""What is wrong with a kubeconfig, told before a library meets it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tandem.api.problems import Problem
from tandem.kube.errors import CredentialsError

MAX_BYTES = 4 * 1024 * 1024
_FIX = "Give --kubeconfig a kubeconfig file, or set KUBECONFIG to one."


def check_kubeconfig(paths: Sequence[Path], *, named: bool) -> None:
    """Raises CredentialsError when the files do not name an API server and a user for it.

    Of several files, those that do not exist are skipped. `named` tells whether the user named them.
    """
    there = [path for path in paths if _exists(path)]
    if not there:
        where = ":".join(map(str, paths))
        if not named:
            raise _refused(where, "", "no cluster is named, and this default kubeconfig does not exist", _FIX)
        raise _refused(where, "", "this kubeconfig does not exist", "Check the path.")
    documents = [(path, _read(path)) for path in there]
    _check_context(documents)


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # reading it tells why not
    return True


def _read(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise _refused(str(path), "", "this is far too large for a kubeconfig", _FIX)
        document = yaml.load(data.decode(), Loader=yaml.CSafeLoader)
    except IsADirectoryError:
        raise _refused(str(path), "", "this is a directory", "Name the kubeconfig file inside it.") from None
    except OSError as error:
        reason = f"this kubeconfig cannot be read: {error.strerror}"
        raise _refused(str(path), "", reason, "Give a file that you may read.") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise _refused(where, "", f"this kubeconfig is malformed YAML: {error.problem}", "Correct it.") from None
    except (UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError):
        raise _refused(str(path), "", "this is no kubeconfig: it is not YAML", _FIX) from None
    if not isinstance(document, dict) or not {"clusters", "contexts"} & document.keys():
        raise _refused(str(path), "", "this is no kubeconfig: it has no clusters and no contexts", _FIX)
    return document


def _check_context(documents: Sequence[tuple[Path, Mapping[str, Any]]]) -> None:
    chosen = next(((path, found) for path, each in reversed(documents) if (found := each.get("current-context"))), None)
    contexts = dict(_entries(documents, "contexts"))
    known = f"Known here: {', '.join(sorted(contexts))}." if contexts else "Add one to contexts."
    if chosen is None:
        fix = f"Run: kubectl config use-context NAME. {known}"
        raise _refused(str(documents[0][0]), "", "this kubeconfig has no current-context", fix)
    path, name = chosen
    where = f"{path}: current-context"
    if name not in contexts:
        raise _refused(where, repr(name), "there is no such context", known)
    context = contexts[name].get("context")
    for part, plural in (("cluster", "clusters"), ("user", "users")):
        wanted = context.get(part) if isinstance(context, dict) else None
        if part == "user" and wanted is None:
            continue  # a server that asks nobody who they are
        found = dict(_entries(documents, plural))
        if wanted not in found:
            place = f"{path}: contexts[{name}].context.{part}"
            shown = "" if wanted is None else repr(wanted)
            reason = f"{plural} has no entry of this name" if wanted else "required, but missing"
            raise _refused(place, shown, reason, f"Known here: {', '.join(sorted(found)) or 'none'}.")
        if part == "cluster" and not (found[wanted].get("cluster") or {}).get("server"):
            place = f"{path}: clusters[{wanted}].cluster.server"
            raise _refused(place, "", "required, but missing", "Write the API server's address, https://…")


def _entries(
    documents: Sequence[tuple[Path, Mapping[str, Any]]], plural: str
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Name and entry of each cluster, context or user; of equal names the first file has it."""
    for _, document in reversed(documents):
        entries = document.get(plural)
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict) and isinstance(entry.get("name"), str):
                yield entry["name"], entry


def _refused(path: str, value: str, reason: str, fix: str) -> CredentialsError:
    return CredentialsError([Problem(path, value, reason, fix)])
