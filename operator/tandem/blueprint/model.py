"""Blueprint: what config.json says about a model, as frozen numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tandem.blueprint.quantisation import Quantisation
from tandem.blueprint.structure import Structure

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Dims:
    """Dimensions of a model; None where it has none of that kind. Of several kinds of layers, those of the first."""

    hidden_size: int
    layers: int
    heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    intermediate_size: int | None = None
    experts: int | None = None
    experts_per_token: int | None = None
    expert_intermediate_size: int | None = None
    q_lora_rank: int | None = None
    kv_lora_rank: int | None = None
    window: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """Facts of a model; one that is not known is None.

    `digest` identifies what they were read from. `total_params` counts every number that generating text needs, of
    which `buffers` are stored but no parameters; `active_params` those that one token uses. `weight_bytes` and
    `kv_bytes_per_token` are for the number formats that the model comes in, `activation_bytes` and `kv_cache_bytes`
    for one sequence of `max_seq_len` tokens. `nextn` are the tokens that it predicts beyond the next one. `uncounted`
    are components (an image encoder) that no number but the `weight_bytes` of an index knows.
    """

    digest: str
    max_seq_len: int | None
    total_params: int | None
    weight_bytes: int | None
    kv_bytes_per_token: int | None
    is_moe: bool | None = None
    nextn: int | None = None

    architecture: str = ""
    family: str = "transformer"
    dims: Dims | None = None
    vocab_size: int | None = None
    num_channels: int | None = None
    image_size: int | None = None
    patch_size: int | None = None
    sample_rate: int | None = None
    latent_dim: int | None = None
    components: tuple[str, ...] = ()
    uncounted: tuple[str, ...] = ()
    trainable_params: int | None = None
    active_params: int | None = None
    buffers: int | None = None
    activation_bytes: int | None = None
    kv_cache_bytes: int | None = None
    seed: int = 42

    dtype: str | None = None
    quantisation: Quantisation | None = None
    weights_from: Literal["config", "index", "declared"] = "config"
    structure: Structure | None = None

    def summary(self) -> dict[str, float | None]:
        """The three numbers that older tools read, in billions and GB of 10⁹ bytes; None where one is not known."""

        def in_billions(value: int | None) -> float | None:
            return None if value is None else value / 1e9

        return {
            "params_billion": in_billions(self.total_params),
            "activation_memory_gb": in_billions(self.activation_bytes),
            "kv_cache_gb": in_billions(self.kv_cache_bytes),
        }
