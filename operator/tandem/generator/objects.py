"""The object API: configuration objects or plain dictionaries, group by group, in any mix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

from tandem.api.problems import refuse
from tandem.generator.calls import generate_config_from_input_dict
from tandem.generator.params import Params
from tandem.rendering.library import Library


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The model: where it is, what clients call it, what kind it is."""

    model_path: str
    served_model_name: str
    model_name: str | None = None
    is_moe: bool | None = None
    nextn: int | None = None


@dataclass(frozen=True, slots=True)
class K8sConfig:
    """Names and places in the cluster."""

    name_prefix: str | None = None
    mode: str | None = None
    k8s_namespace: str | None = None
    k8s_image: str | None = None
    k8s_image_pull_secret: str | None = None
    k8s_engine_mode: str | None = None
    k8s_model_cache: str | None = None
    k8s_hf_token_secret: str | None = None


@dataclass(frozen=True, slots=True)
class RuntimeEnvConfig:
    """How processes are started: the frontend's address, ports, routing, machines."""

    head_node_ip: str | None = None
    port: int | None = None
    include_frontend: bool | None = None
    dyn_vllm_kv_event_port: int | None = None
    vllm_nixl_side_channel_port: int | None = None
    enable_router: bool | None = None
    num_gpus_per_node: int | None = None


# Names that belong to another group than most of their configuration.
_MODEL = ("is_moe", "nextn")
_ELSEWHERE: Mapping[str, str] = {
    "enable_router": "DynConfig",
    "num_gpus_per_node": "NodeConfig",
    **dict.fromkeys(_MODEL, "ModelConfig"),
}


def generate_config_from_dicts(
    model_config: ModelConfig | Mapping[str, Any],
    k8s_config: K8sConfig | Mapping[str, Any] | None = None,
    runtime_config: RuntimeEnvConfig | Mapping[str, Any] | None = None,
    *,
    workers: Mapping[str, Mapping[str, Any]] | None = None,
    worker_config: Mapping[str, Any] | None = None,
    sla_config: Mapping[str, Any] | None = None,
    backend: str | None = None,
    library: Library | None = None,
) -> Params:
    """Parameters as `collect_generator_params` gives them; objects and dictionaries of equal content are equal.

    `workers` has the parameters of each role, `worker_config` the numbers of workers. Raises `Refused`.
    """
    raw: dict[str, Any] = {"Workers": workers, "WorkerConfig": worker_config, "SlaConfig": sla_config}
    for home, path, config in (
        ("ServiceConfig", "model_config", model_config),
        ("K8sConfig", "k8s_config", k8s_config),
        ("ServiceConfig", "runtime_config", runtime_config),
    ):
        for name, value in _plain(config, path).items():
            raw.setdefault(_ELSEWHERE.get(name, home), {})[name] = value
    return generate_config_from_input_dict(raw, backend=backend, library=library)


def _plain(config: object, path: str) -> dict[str, Any]:
    if config is None:
        return {}
    if is_dataclass(config) and not isinstance(config, type):
        return {name: value for name, value in asdict(config).items() if value is not None}
    if not isinstance(config, Mapping):
        raise refuse(path, config, "must be a configuration object or a mapping", "Give one of them.")
    return dict(config)
