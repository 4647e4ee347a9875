"""Deployments for tests: by hand, and as strategies over what the CRD's schema allows."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tandem.api.crd import KINDS, crd
from tandem.api.deployment import ModelDeployment
from tandem.api.load import parse_resource
from tandem.api.problems import Refused
from tests.integration.api.strategies import documents

PVC = {"pvc": {"claimName": "models", "path": "qwen"}}
UID = "6d1f7a52-0b5c-4a52-9f0e-2f1f5c1d7a10"


def deployment(*, name: str = "qwen", uid: str = UID, **spec: Any) -> ModelDeployment:
    """A deployment from its spec in YAML's names; mode disagg gets its two roles."""
    if spec.get("mode") == "disagg":
        spec.setdefault("roles", {"prefill": {}, "decode": {}})
    document = {
        "apiVersion": "tandem.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name, "namespace": "ml", "uid": uid},
        "spec": {"model": PVC, **spec},
    }
    parsed = parse_resource(document)
    assert isinstance(parsed, ModelDeployment)
    return parsed


def of_kind(build: Any, kind: str) -> dict[str, Any]:
    """The build's objects of a kind, by name."""
    return {item["metadata"]["name"]: item for item in build.objects if item["kind"] == kind}


def workers(build: Any, role: str) -> Any:
    """The Deployment of a role."""
    found = [item for item in build.objects if item["kind"] == "Deployment" and _role(item) == role]
    assert len(found) == 1
    return found[0]


def _role(item: Any) -> Any:
    return item["metadata"]["labels"].get("tandem.dev/role")


def pod(build: Any, role: str) -> Any:
    """The pod spec of a role's workers."""
    return workers(build, role)["spec"]["template"]["spec"]


def server(build: Any, role: str) -> Any:
    """The server container of a role's workers."""
    return next(item for item in pod(build, role)["containers"] if item["name"] == "server")


def arbitrary() -> st.SearchStrategy[ModelDeployment]:
    """Any deployment that the API takes: most name something that cannot be had, and are refused by `build`."""
    schema = crd(KINDS[0])["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    served = st.booleans()  # half of them without what ends a build early: other sources, versions that nobody knows
    found = st.tuples(documents(schema["properties"]["spec"]), served).map(_parsed)
    return found.filter(lambda parsed: parsed is not None)


def _parsed(drawn: tuple[Any, bool]) -> ModelDeployment | None:
    spec, served = drawn
    if served:
        backend = spec.get("backend") if spec.get("backend") else "torch"
        spec = {**spec, "model": PVC, "backend": backend, "backendVersion": None}
    try:
        return deployment(**{name: value for name, value in spec.items() if value is not None})
    except Refused:
        return None


COUNTS = st.integers(1, 4096)
LENGTHS = st.integers(513, 4096)  # above what an answer may have
TORCH = st.fixed_dictionaries(
    {},
    optional={
        "maxBatchSize": COUNTS,
        "maxNumTokens": COUNTS,
        "maxSeqLen": LENGTHS,
        "kvCacheMaxTokens": COUNTS,
        "trustRemoteCode": st.booleans(),
    },
)
VLLM = st.fixed_dictionaries(
    {},
    optional={
        "tensorParallelSize": st.integers(1, 4),
        "pipelineParallelSize": st.integers(1, 2),
        "maxBatchSize": st.integers(1, 1024),
        "maxNumTokens": st.integers(1024, 4096),
        "tokensPerBlock": st.sampled_from([16, 32, 64]),
        "kvCacheFreeGpuMemoryFraction": st.floats(0.01, 1),
        "cudaGraphBatchSizes": st.lists(COUNTS, min_size=1, max_size=5),
        "disableCudaGraph": st.booleans(),
        "disablePrefixCache": st.booleans(),
        "enableExpertParallel": st.booleans(),
        "trustRemoteCode": st.booleans(),
    },
)
SGLANG = st.fixed_dictionaries(
    {},
    optional={
        "tensorParallelSize": st.integers(1, 8),
        "maxBatchSize": COUNTS,
        "maxPrefillTokens": COUNTS,
        "kvCacheFreeGpuMemoryFraction": st.floats(0.01, 1),
        "disableCudaGraph": st.booleans(),
        "disablePrefixCache": st.booleans(),
        "trustRemoteCode": st.booleans(),
    },
)
TRTLLM = st.fixed_dictionaries(
    {},
    optional={
        "tensorParallelSize": st.integers(1, 8),
        "maxBatchSize": COUNTS,
        "maxNumTokens": COUNTS,
        "maxSeqLen": LENGTHS,
        "enableChunkedPrefill": st.booleans(),
        "kvCacheFreeGpuMemoryFraction": st.floats(0.01, 1),
        "disablePrefixCache": st.booleans(),
        "trustRemoteCode": st.booleans(),
    },
)
PARAMETERS = {"torch": TORCH, "vllm": VLLM, "sglang": SGLANG, "trtllm": TRTLLM}
# What may stand in an argument: anything that a process can be given.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=30)
EXTRA = st.lists(TEXT.filter(lambda text: not text.startswith("-")), max_size=4)


@st.composite
def servable(draw: st.DrawFn) -> ModelDeployment:
    """Deployments that can be served: `build` never refuses them."""
    backend = draw(st.sampled_from(sorted(PARAMETERS)))
    mode = draw(st.sampled_from(["agg", "disagg"]))
    parameters = PARAMETERS[backend]
    role = st.fixed_dictionaries(
        {}, optional={"replicas": st.integers(0, 9), "parameters": parameters, "extraArgs": EXTRA}
    )
    names = ["agg"] if mode == "agg" else ["prefill", "decode"]
    spec: dict[str, Any] = {
        "backend": backend,
        "mode": mode,
        "roles": {name: draw(role) for name in names},
        "parameters": draw(parameters),
    }
    if draw(st.booleans()):
        spec["model"] = {"hub": {"repo": "a/b", "tokenSecretRef": {"name": "hf", "key": "token"}}}
    if draw(st.booleans()):
        spec["sla"] = {"isl": draw(COUNTS)}
    if draw(st.booleans()):
        spec["limits"] = {"timeoutSeconds": draw(COUNTS)}
        if backend in ("torch", "vllm"):
            spec["limits"]["maxNewTokens"] = draw(st.integers(1, 512))
    if draw(st.booleans()):
        spec["router"] = {"replicas": draw(st.integers(1, 5))}
    return deployment(name=draw(st.from_regex(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)), **spec)
