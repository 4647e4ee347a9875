"""What ModelJobs have made: where it lies, or why there is nothing to read yet."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from tandem.api.deployment import PvcSource
from tandem.api.load import validate_model
from tandem.controller.conditions import Condition, false, find, unknown
from tandem.kube.cache import Cache, Ref
from tandem.kube.resources import MODEL_JOB
from tandem.manifests.names import short_hash

DONE = "Succeeded"
"""The condition of a ModelJob that says how it ended: Unknown (or absent) until then."""
_TYPE = "Parsed"


@dataclass(frozen=True, slots=True)
class Artifact:
    """Where the files lie. `mark` is another one for another place or another content."""

    place: PvcSource
    mark: str


def artifact_of(job: Mapping[str, Any]) -> Artifact | Condition:
    """What a ModelJob has made, or the condition of who waits for that; raises `Refused` for a place that is none."""
    metadata, status = job["metadata"], job.get("status") or {}
    name = f"ModelJob {metadata['name']}"
    ended = _present(status, DONE, metadata)
    if ended.get("status") == "False":
        told = f"{name} failed ({ended.get('reason')}): {ended.get('message') or 'it does not say why'}"
        return false(_TYPE, "JobFailed", f"{told}; its artifact is read as soon as it succeeds")
    if ended.get("status") == "True":
        return _found(name, job["spec"]["output"], status.get("artifact"))
    accepted = _present(status, "Accepted", metadata)
    if not ended and accepted.get("status") == "False":
        told = f"{name} is not carried out: {accepted.get('message') or accepted.get('reason')}"
        return false(_TYPE, "JobNotAccepted", f"{told}; or name a directory that has the files with spec.from.pvc")
    step = f" (step {status['step']})" if status.get("step") else ""
    return unknown(_TYPE, "WaitingForJob", f"{name} is not done yet{step}: its artifact is read as soon as it is")


def _present(status: Mapping[str, Any], kind: str, metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """A condition that speaks of the present spec."""
    found = find(status.get("conditions"), kind) or {}
    generation = metadata.get("generation", 0)
    return found if found.get("observedGeneration", generation) == generation else {}


def _found(name: str, output: Mapping[str, Any], made: Mapping[str, Any] | None) -> Artifact | Condition:
    if made is None:
        message = f"{name} is done and has made no files to read a model from; name a job that makes some"
        return false(_TYPE, "JobWithoutArtifact", message)
    path = made.get("path", output.get("path", ""))
    place = validate_model(PvcSource, {"claimName": output["claimName"], "path": path}, f"{name}: status.artifact.")
    content = f"{place.claim_name}/{place.path}@{made.get('digest', '')}"
    return Artifact(place, short_hash(content, 8))


class Artifacts:
    """The artifacts of the ModelJobs in the cache, and which ModelBlueprints are read from which."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._readers: dict[Ref, set[Ref]] = {}

    def of(self, blueprint: Ref, job: str) -> Artifact | Condition:
        """What the ModelJob of that name has made, for a ModelBlueprint that hears of its changes from now on; raises
        `Refused`."""
        ref = Ref(MODEL_JOB.kind, blueprint.namespace, job)
        self._readers.setdefault(ref, set()).add(blueprint)
        entry = self._cache.get(ref)
        if entry is None or entry.deleting:
            message = f"there is no ModelJob {job} in namespace {ref.namespace}; create it: its artifact is read then"
            return false(_TYPE, "JobNotFound", message)
        return artifact_of(entry.object)

    def readers(self, job: Ref) -> Collection[Ref]:
        """The ModelBlueprints that are read from what a job makes."""
        return self._readers.get(job, ())

    def forget(self, blueprint: Ref) -> None:
        """Drops what is remembered of a ModelBlueprint that is gone."""
        for job in [job for job, readers in self._readers.items() if blueprint in readers]:
            self._readers[job].discard(blueprint)
            if not self._readers[job]:
                del self._readers[job]
