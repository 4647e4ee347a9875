"""What a ModelJob's status says of its artifact."""

import pytest

from tandem.api.problems import Refused
from tandem.controller.artifacts import Artifact, Artifacts, artifact_of
from tandem.kube.cache import Cache, Ref, entry_of
from tandem.kube.resources import MODEL_JOB

BLUEPRINT = Ref("ModelBlueprint", "ns", "x")


def job(*conditions, **status):
    told = [{"reason": "R", "message": "why", **condition} for condition in conditions]
    return {
        "metadata": {"name": "job", "namespace": "ns", "uid": "u", "resourceVersion": "1", "generation": 2},
        "spec": {"output": {"claimName": "models", "path": "out"}},
        "status": {"conditions": told, **status},
    }


def succeeded(status, **more):
    return {"type": "Succeeded", "status": status, **more}


@pytest.mark.parametrize(
    ("document", "status", "reason", "said"),
    [
        (job(), "Unknown", "WaitingForJob", "not done yet"),
        (job(succeeded("Unknown"), step="convert"), "Unknown", "WaitingForJob", "(step convert)"),
        (job({"type": "Accepted", "status": "False"}), "False", "JobNotAccepted", "spec.from.pvc"),
        (job({"type": "Accepted", "status": "False"}, succeeded("Unknown")), "Unknown", "WaitingForJob", "not done"),
        (job(succeeded("False")), "False", "JobFailed", "failed (R): why"),
        (job(succeeded("True")), "False", "JobWithoutArtifact", "no files"),
        # Said of an earlier spec.
        (job(succeeded("True", observedGeneration=1), artifact={}), "Unknown", "WaitingForJob", "not done yet"),
    ],
)
def test_what_is_not_there_yet_says_what_it_waits_for(document, status, reason, said):
    found = artifact_of(document)

    assert (found.type, found.status, found.reason) == ("Parsed", status, reason)
    assert said in found.message


def test_an_artifact_lies_where_the_job_says_or_else_in_its_output():
    own = artifact_of(job(succeeded("True"), artifact={"path": "out/model"}))
    output = artifact_of(job(succeeded("True", observedGeneration=2), artifact={"digest": "a"}))

    assert isinstance(own, Artifact)
    assert (own.place.claim_name, own.place.path) == ("models", "out/model")
    assert output.place.path == "out"
    assert own.mark != output.mark != artifact_of(job(succeeded("True"), artifact={"digest": "b"})).mark


def test_a_place_outside_the_volume_is_refused():
    with pytest.raises(Refused) as refused:
        artifact_of(job(succeeded("True"), artifact={"path": "../x"}))

    assert refused.value.problems[0].path == "ModelJob job: status.artifact.path"


def test_who_reads_an_artifact_hears_of_the_job_until_it_is_gone():
    cache = Cache()
    artifacts, ref = Artifacts(cache), Ref("ModelJob", "ns", "job")
    assert artifacts.of(BLUEPRINT, "job").reason == "JobNotFound"
    assert set(artifacts.readers(ref)) == {BLUEPRINT}

    cache.put(entry_of(MODEL_JOB, job()))
    assert artifacts.of(BLUEPRINT, "job").reason == "WaitingForJob"

    artifacts.forget(BLUEPRINT)
    assert not artifacts.readers(ref)
