"""A small file of a repository of the hub: from its cache on this machine, or from the network."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import aiohttp
from yarl import URL

from tandem.api.problems import Refused, refuse
from tandem.cli.trouble import unreachable

ENDPOINT = "https://huggingface.co"
# Seconds for the whole answer, and of these for the connection.
TOTAL_SECONDS, CONNECT_SECONDS = 20.0, 5.0
_TRUE = frozenset(("1", "ON", "YES", "TRUE"))
_COMMIT = re.compile("[0-9a-f]{40}")
_PATH = "or use a copy of the model's files"
_ERRORS: Mapping[str, tuple[str, str]] = {
    "RevisionNotFound": ("the repository has no such revision", f"Check --revision, {_PATH}."),
    "EntryNotFound": ("the repository has no such file", f"Name a repository with a model, {_PATH}."),
    "GatedRepo": (
        "its owner asks for an agreement first",
        f"Agree on the repository's page, set HF_TOKEN to your access token, {_PATH}.",
    ),
}


def hub_file(repository: str, name: str, *, revision: str, limit: int, environment: Mapping[str, str]) -> bytes:
    """The bytes of a file, of which `limit` are too many; raises `Refused`.

    Honours HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_CACHE and HF_HUB_OFFLINE, as the hub's own client does: what is in
    its cache is taken when the hub cannot be reached, or cannot have changed.
    """
    cached = _cached(repository, name, revision, _cache(environment))
    offline = any(environment.get(key, "").upper() in _TRUE for key in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    if cached is not None and (offline or _COMMIT.fullmatch(revision)):
        return _head(cached, limit)
    if offline:
        reason = f"its {name} is not in {_cache(environment)}, and HF_HUB_OFFLINE is set"
        raise refuse(repository, revision, reason, f"Unset HF_HUB_OFFLINE, {_PATH}.")
    url = URL(environment.get("HF_ENDPOINT") or ENDPOINT)
    place = f"{repository}/resolve/{quote(revision, safe='')}/{name}"
    try:
        return asyncio.run(_fetched(url / "", place, repository, revision, limit=limit, token=_token(environment)))
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        if cached is not None:
            return _head(cached, limit)
        fix = f"Check the network and HF_ENDPOINT, {_PATH}."
        raise refuse(repository, revision, f"{url}: {unreachable(error)}", fix) from None


async def _fetched(url: URL, place: str, repository: str, revision: str, *, limit: int, token: str | None) -> bytes:
    times = aiohttp.ClientTimeout(total=TOTAL_SECONDS, connect=CONNECT_SECONDS)
    # A few compressed bytes can be very many: what is sent is what is counted.
    headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {token}"} if token else {})
    async with (
        aiohttp.ClientSession(timeout=times, trust_env=True, auto_decompress=False) as session,
        session.get(url.join(URL(place, encoded=True)), headers=headers) as answer,
    ):
        if answer.status != 200:
            raise _refused(answer, repository, revision)
        found = bytearray()
        while len(found) <= limit and (more := await answer.content.read(limit + 1 - len(found))):
            found += more
        return bytes(found)


def _refused(answer: aiohttp.ClientResponse, repository: str, revision: str) -> Refused:
    code = answer.headers.get("X-Error-Code", "")
    if code in _ERRORS:
        return refuse(repository, revision, *_ERRORS[code])
    if answer.status in (401, 403, 404):
        fix = f"Check the name; for one that is not public, set HF_TOKEN to your access token; {_PATH}."
        return refuse(repository, revision, "there is no such repository, or it is not public", fix)
    return refuse(repository, revision, f"the hub answered {answer.status}", f"Try again later, {_PATH}.")


def _home(environment: Mapping[str, str]) -> Path:
    cache = environment.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(environment.get("HF_HOME") or f"{cache}/huggingface").expanduser()


def _cache(environment: Mapping[str, str]) -> Path:
    given = environment.get("HF_HUB_CACHE")
    return Path(given).expanduser() if given else _home(environment) / "hub"


def _cached(repository: str, name: str, revision: str, cache: Path) -> Path | None:
    """The file in the cache, whose layout the hub documents: refs/REVISION names the commit of snapshots/COMMIT."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    try:
        exact = _COMMIT.fullmatch(revision)
        commit = revision if exact else (folder / "refs" / revision).read_text(encoding="ascii").strip()
        found = folder / "snapshots" / commit / name
        return found if _COMMIT.fullmatch(commit) and found.is_file() else None
    except (OSError, ValueError):
        return None


def _token(environment: Mapping[str, str]) -> str | None:
    given = environment.get("HF_TOKEN")
    if given is None:
        path = environment.get("HF_TOKEN_PATH")
        try:
            given = (Path(path) if path else _home(environment) / "token").read_text(encoding="ascii")
        except (OSError, ValueError):
            return None
    token = given.strip()
    # A header holds no more than this.
    return token if token.isascii() and token.isprintable() and token else None


def _head(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        return file.read(limit + 1)
