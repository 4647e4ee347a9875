"""The names of the generator's API, in one place.

params = generate_config_from_yaml("input.yaml", backend="vllm")
generate_backend_config(params, "vllm", role="decode")
generate_backend_artifacts(params, "vllm", output_dir="out")
"""

from tandem.generator.calls import (
    collect_generator_params,
    generate_backend_artifacts,
    generate_config_from_input_dict,
    generate_config_from_yaml,
    prepare_generator_params,
)
from tandem.generator.compat_api import generate_backend_config
from tandem.generator.compat_types import ArtifactBundle, DynamoConfig, GeneratorContext, ModeConfig, RuntimeView
from tandem.generator.objects import K8sConfig, ModelConfig, RuntimeEnvConfig, generate_config_from_dicts

__all__ = [
    "ArtifactBundle",
    "DynamoConfig",
    "GeneratorContext",
    "K8sConfig",
    "ModeConfig",
    "ModelConfig",
    "RuntimeEnvConfig",
    "RuntimeView",
    "collect_generator_params",
    "generate_backend_artifacts",
    "generate_backend_config",
    "generate_config_from_dicts",
    "generate_config_from_input_dict",
    "generate_config_from_yaml",
    "prepare_generator_params",
]
