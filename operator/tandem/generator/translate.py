"""From a checked input to the ModelDeployment that says the same.

Everything after it is what the operator does, so both ways give the same pods. The models of the API check every value;
a problem is told by the name that the input has for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from pydantic.alias_generators import to_camel

from tandem.api.base import API_VERSION
from tandem.api.deployment import ModelDeployment
from tandem.api.load import validate_model
from tandem.api.problems import Problem, Refused, refuse
from tandem.blueprint.model import Blueprint
from tandem.generator.inputs import Inputs
from tandem.manifests import names
from tandem.manifests.sources import MODELS_DIR
from tandem.rendering.mapping import PARAMETER_NAMES

TOKEN_KEY = "HF_TOKEN"  # noqa: S105 - the name of a key
_FAMILY_WITH_MTP = "deepseek"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SNAKE: Mapping[str, str] = {to_camel(name): name for name in PARAMETER_NAMES}
# The input's name for a place in a ModelDeployment; the first that fits.
_PLACES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), key)
    for pattern, key in (
        (r"spec\.roles\.(\w+)\.parameters\.(\w+)", r"Workers.{0}.{1}"),
        (r"spec\.roles\.(\w+)\.replicas", r"WorkerConfig.{0}_workers"),
        (r"spec\.roles\.(\w+)", r"Workers.{0}"),
        (r"spec\.model\.servedName", "ServiceConfig.served_model_name"),
        (r"spec\.model\.hub\.tokenSecretRef(\.\w+)?", "K8sConfig.k8s_hf_token_secret"),
        (r"spec\.model\.pvc\.claimName", "K8sConfig.k8s_model_cache"),
        (r"spec\.model\b.*", "ServiceConfig.model_path"),
        (r"spec\.imagePullSecrets\b.*", "K8sConfig.k8s_image_pull_secret"),
        (r"spec\.image\b", "K8sConfig.k8s_image"),
        (r"spec\.sla\.(isl|osl)", r"SlaConfig.{0}"),
        (r"spec\.sla\.(ttft|tpot)Ms", r"SlaConfig.{0}"),
        (r"spec\.rules\b.*", "rule"),
        (r"spec\.backendVersion", "version"),
        (r"spec\.backend", "backend"),
        (r"spec\.mode", "DynConfig.mode"),
        (r"metadata\.namespace", "K8sConfig.k8s_namespace"),
        (r"metadata\.name", "K8sConfig.name_prefix"),
    )
)


def deployment_name(inputs: Inputs) -> str:
    """`PREFIX-MODE`, with `-router` at its end when requests are routed by the KV cache."""
    name = f"{inputs.text('K8sConfig.name_prefix')}-{inputs.mode}"
    return f"{name}-router" if inputs.get("DynConfig.enable_router") else name


def blueprint_of(inputs: Inputs) -> Blueprint:
    """What the input says about the model, for rules."""
    return Blueprint(
        digest="input",
        max_seq_len=None,
        total_params=None,
        weight_bytes=None,
        kv_bytes_per_token=None,
        is_moe=inputs.get("ModelConfig.is_moe") is True,
        nextn=inputs.number("ModelConfig.nextn"),
    )


def to_deployment(
    inputs: Inputs, *, backend: str, version: str | None = None, default_image: str | None = None, mtp: str = "mtp"
) -> ModelDeployment:
    """The deployment of an input; raises `Refused`.

    An image that is `default_image` is left to the backend; `mtp` is its word for multi-token prediction.
    """
    namespace = inputs.text("K8sConfig.k8s_namespace")
    if len(namespace) > 63 or not _NAME.fullmatch(namespace):
        reason = "a namespace has a-z, 0-9 and - only, at most 63, and begins and ends with a letter or digit"
        raise refuse("K8sConfig.k8s_namespace", namespace, reason, "Correct it.")
    if names.SERVICE_NAME.match(deployment_name(inputs)) is None:
        reason = "it begins the name of a Service: a-z, 0-9 and -, a letter first, at most 63 characters in all"
        raise refuse("K8sConfig.name_prefix", inputs.text("K8sConfig.name_prefix"), reason, "Choose another.")
    spec: dict[str, Any] = {
        "model": _model(inputs) | {"servedName": inputs.text("ServiceConfig.served_model_name")},
        "backend": backend,
        "mode": inputs.mode,
        "roles": {role: _role(inputs, role, mtp) for role in inputs.roles},
    }
    if version is not None:
        spec["backendVersion"] = version
    if (image := inputs.text("K8sConfig.k8s_image")) and image != default_image:
        spec["image"] = image
    if secret := inputs.text("K8sConfig.k8s_image_pull_secret"):
        spec["imagePullSecrets"] = [{"name": secret}]
    if sla := _sla(inputs):
        spec["sla"] = sla
    if rule_set := inputs.text("rule"):
        spec["rules"] = {"set": rule_set}
    if inputs.get("DynConfig.enable_router"):
        spec["router"] = {"policy": "prefixAffinity"}
    document = {
        "apiVersion": API_VERSION,
        "kind": "ModelDeployment",
        "metadata": {"name": deployment_name(inputs), "namespace": namespace},
        "spec": spec,
    }
    with relocated():
        return validate_model(ModelDeployment, document)


def relocated() -> _Relocated:
    """A block in which `Refused` names places of the input instead of those of the ModelDeployment."""
    return _Relocated()


class _Relocated:
    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, Refused):
            raise Refused(_relocate(error.problems)) from None


def _relocate(problems: tuple[Problem, ...]) -> Iterator[Problem]:
    for problem in problems:
        path = next((_place(match, key) for found, key in _PLACES if (match := found.match(problem.path))), None)
        if path is None:
            yield problem
        else:
            yield replace(problem, path=path, reason=_words(problem.reason), fix=_words(problem.fix))


def _place(match: re.Match[str], key: str) -> str:
    rest = match.string[match.end() :]
    return key.format(*(_SNAKE.get(part or "", part) for part in match.groups())) + (
        rest if rest.startswith("[") else ""
    )


def _words(text: str) -> str:
    """What is told of a ModelDeployment in the words of an input: parameters in snake_case, other places."""
    told = text.replace("spec.parameters", "Workers.prefill and Workers.decode")
    return re.sub(r"\b[a-z]+(?:[A-Z]\w*)\b", lambda match: _SNAKE.get(match[0], match[0]), told)


def _model(inputs: Inputs) -> dict[str, Any]:
    path, claim = inputs.text("ServiceConfig.model_path"), inputs.text("K8sConfig.k8s_model_cache")
    secret = inputs.text("K8sConfig.k8s_hf_token_secret")
    if not path.startswith("/"):
        token = {"tokenSecretRef": {"name": secret, "key": TOKEN_KEY}} if secret else {}
        return {"hub": {"repo": path, **token}}
    if not claim:
        reason = "pods find a directory only on a claim"
        raise refuse("ServiceConfig.model_path", path, reason, "Name the claim in K8sConfig.k8s_model_cache.")
    if path != MODELS_DIR and not path.startswith(f"{MODELS_DIR}/"):
        reason = f"the claim K8sConfig.k8s_model_cache is mounted at {MODELS_DIR}"
        raise refuse("ServiceConfig.model_path", path, reason, f"Write {MODELS_DIR}/ and the directory on the claim.")
    if secret:
        reason = "a model on a claim is not downloaded"
        raise refuse("K8sConfig.k8s_hf_token_secret", secret, reason, "Remove it, or name a repository as model_path.")
    return {"pvc": {"claimName": claim, "path": path.removeprefix(MODELS_DIR).strip("/")}}


def _role(inputs: Inputs, role: Any, mtp: str) -> dict[str, Any]:
    parameters = {to_camel(name): value for name, value in _parameters(inputs, role, mtp).items()}
    wanted: dict[str, Any] = {"replicas": inputs.workers(role), "parameters": parameters}
    claim = inputs.text("K8sConfig.k8s_model_cache")
    if claim and not inputs.text("ServiceConfig.model_path").startswith("/"):
        if len(claim) > 253 or not re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", claim):
            raise refuse("K8sConfig.k8s_model_cache", claim, "this is no name of a claim", "Correct it.")
        # The cache of the model hub outlives the pod when it is on a claim.
        cache = {"name": "cache", "emptyDir": None, "persistentVolumeClaim": {"claimName": claim}}
        wanted["podTemplate"] = {"spec": {"volumes": [cache]}}
    return wanted


def _parameters(inputs: Inputs, role: Any, mtp: str) -> Mapping[str, object]:
    given = inputs.roles[role]
    nextn = inputs.number("ModelConfig.nextn")
    if nextn < 0:
        raise refuse("ModelConfig.nextn", nextn, "a number of tokens is not negative", "Give 0 or more.")
    if nextn == 0 or "speculative_decoding_type" in given:
        return given
    if not has_mtp(inputs.text("ServiceConfig.model_name")):
        reason = "only models of the DeepSeek family predict more than one token"
        raise refuse("ModelConfig.nextn", nextn, reason, "Give 0, or the family's name in ServiceConfig.model_name.")
    return {**given, "speculative_decoding_type": mtp}


def has_mtp(model_name: str) -> bool:
    """Whether models of this name have multi-token prediction."""
    return _FAMILY_WITH_MTP in model_name.lower()


def _sla(inputs: Inputs) -> dict[str, Any]:
    names = {"isl": "isl", "osl": "osl", "ttft": "ttftMs", "tpot": "tpotMs"}
    found = {target: inputs.get(f"SlaConfig.{name}") for name, target in names.items()}
    return {target: value for target, value in found.items() if value is not None}
