"""build(): pure, complete, in a good order, and refusing with a path what cannot be had."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tandem.api.problems import Refused
from tandem.blueprint.config import from_config
from tandem.manifests import Cluster, build
from tests.unit.manifests.deployments import PVC, arbitrary, deployment, of_kind, servable, server, workers

FEW = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
ROOT = Path(__file__).parents[3]
ORDER = [
    *("ServiceAccount", "Role", "RoleBinding", "ConfigMap", "Service", "Deployment"),
    *("PodDisruptionBudget", "NetworkPolicy"),
]


@FEW
@given(source=servable())
def test_every_build_is_complete_and_well_named(cluster, source):
    result = build(source, cluster=cluster)

    kinds = [item["kind"] for item in result.objects]
    assert kinds == sorted(kinds, key=ORDER.index)
    keys = [(item["kind"], item["metadata"]["name"]) for item in result.objects]
    assert len(set(keys)) == len(keys)
    for item in result.objects:
        metadata = item["metadata"]
        assert len(metadata["name"]) <= 63
        assert metadata["namespace"] == "ml"
        assert metadata["ownerReferences"][0]["uid"] == source.metadata.uid
        assert metadata["labels"]["tandem.dev/deployment"] == source.metadata.name
        assert all(len(value) <= 63 for value in metadata["labels"].values())
    for role in source.role_names():
        assert workers(result, role)["spec"]["replicas"] == source.replicas(role)
        assert {item.role for item in result.parameters} <= set(source.role_names())


@FEW
@given(source=arbitrary())
def test_anything_that_the_api_takes_is_built_or_refused_with_a_path(cluster, source):
    places = refusals(source, cluster)

    assert places is None or (places and all(place.startswith("spec.") for place in places))


def refusals(source, cluster):
    """Where a build is refused, None when it is not; anything but `Refused` gets out and fails the test."""
    try:
        build(source, cluster=cluster)
    except Refused as refused:
        return [problem.path for problem in refused.problems]
    return None


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (
            {"backend": "sglang", "model": {**PVC, "servedName": "a:b"}},
            "spec.model.servedName: SGLang reads what follows a colon in a model's name as an adapter (got 'a:b'). "
            "Choose a name without a colon.",
        ),
        ({"backendVersion": "7"}, "spec.backendVersion: this version of torch is not known (got '7'). Use one of: 1."),
        (
            {"model": {"jobRef": {"name": "j"}}},
            "spec.model.jobRef: this model source is not served yet (got 'j'). Use spec.model.pvc for weights on a "
            "volume, or spec.model.hub for a repository.",
        ),
        ({"model": {"blueprintRef": {"name": "b"}}}, "spec.model.blueprintRef: this model source is not served yet"),
        ({"parameters": {"tensorParallelSize": 2}}, "spec.parameters.tensorParallelSize: torch 1 cannot honour it"),
        (
            {"roles": {"agg": {"parameters": {"moeBackend": "triton"}}}},
            "spec.roles.agg.parameters.moeBackend: torch 1 cannot honour it",
        ),
        ({"roles": {"agg": {"extraArgs": ["--port", "1"]}}}, "spec.roles.agg.extraArgs[0]: this flag is set by Tandem"),
        ({"backend": "vllm", "limits": {"maxQueue": 3}}, "spec.limits.maxQueue: vLLM counts running and waiting"),
        ({"rules": {"configMapRef": {"name": "r"}}}, "spec.rules.configMapRef: ConfigMap r has no entry torch.rule"),
        ({"templates": {"configMapRef": {"name": "t"}}}, "spec.templates.configMapRef: ConfigMap t has no entries"),
    ],
)
def test_what_cannot_be_had_is_refused_with_path_reason_and_fix(cluster, spec, expected):
    with pytest.raises(Refused) as refused:
        build(deployment(**spec), cluster=cluster)

    assert str(refused.value).startswith(expected)


@pytest.mark.parametrize("name", ["7b", "a.b", "A", "x" * 64, "", "-a", "a-"])
def test_a_name_that_no_service_can_have_is_refused(cluster, name):
    with pytest.raises(Refused, match=r"metadata\.name: the deployment's name becomes a Service's"):
        build(deployment(name=name), cluster=cluster)


def test_a_file_that_was_never_applied_has_no_owner(cluster):
    result = build(deployment(uid=""), cluster=cluster)

    assert not any("ownerReferences" in item["metadata"] for item in result.objects)


def test_the_owner_is_the_controller_of_every_child(cluster):
    for item in build(deployment(), cluster=cluster).objects:
        (owner,) = item["metadata"]["ownerReferences"]
        assert owner["controller"] is True
        assert owner["blockOwnerDeletion"] is True
        assert (owner["apiVersion"], owner["kind"], owner["name"]) == ("tandem.dev/v1alpha1", "ModelDeployment", "qwen")


@pytest.mark.parametrize(
    ("spec", "images", "expected"),
    [
        ({}, {}, "tandem-server:0.1.0"),
        ({}, {"torch": "reg/torch:1"}, "reg/torch:1"),
        ({"image": "mine:2"}, {"torch": "reg/torch:1"}, "mine:2"),
        ({"backend": "vllm"}, {"torch": "reg/torch:1"}, "vllm/vllm-openai:v0.33.0"),
        ({"backend": "vllm", "backendVersion": "0.32.0"}, {}, "vllm/vllm-openai:v0.32.0"),
    ],
)
def test_the_image_is_the_users_then_the_clusters_then_the_versions(cluster, spec, images, expected):
    mine = Cluster(library=cluster.library, images=images)

    assert server(build(deployment(**spec), cluster=mine), "agg")["image"] == expected


def test_the_default_image_has_the_version_of_the_project(cluster):
    text = (ROOT / "pyproject.toml").read_text()
    version = next(line.split('"')[1] for line in text.splitlines() if line.startswith("version = "))

    assert cluster.library.table("torch", None).image == f"tandem-server:{version}"
    assert cluster.router_image == f"tandem-operator:{version}"


def test_rules_and_templates_of_config_maps_are_used(cluster):
    spec = {"rules": {"configMapRef": {"name": "r"}}, "templates": {"configMapRef": {"name": "t"}}}
    template = "{% for flag in flags %}\n- {{ flag }}\n{% endfor %}\n- --mine\n"
    mine = Cluster(
        library=cluster.library, rules={"torch.rule": "max_batch_size = 5"}, templates={"cli_args.1.j2": template}
    )

    result = build(deployment(**spec), cluster=mine)

    assert server(result, "agg")["args"] == ["--max-num-seqs", "5", "--mine"]
    assert [hit.location for hit in result.rule_trace] == ["ConfigMap r/torch.rule:1"]


def test_an_image_without_its_version_is_warned_of(cluster):
    (warning,) = build(deployment(backend="vllm", image="mine:1"), cluster=cluster).warnings

    assert warning == "spec.image: flags are those of vllm 0.33.0; set spec.backendVersion to the image's version"
    assert build(deployment(image="mine:1"), cluster=cluster).warnings == ()
    assert build(deployment(backend="vllm", image="m", backendVersion="0.33.0"), cluster=cluster).warnings == ()


def test_an_approximation_is_warned_of_once(cluster):
    result = build(deployment(backend="vllm", mode="disagg", parameters={"kvCacheDtype": "int8"}), cluster=cluster)

    assert result.warnings == (
        "spec.parameters.kvCacheDtype: kv_cache_dtype int8 becomes --kv-cache-dtype int8_per_token_head: "
        "vLLM keeps a scale per token and head with it",
    )


def test_a_blueprint_gives_the_longest_sequence_and_the_time_to_load(cluster):
    config = {"model_type": "llama", "max_position_embeddings": 8192, "dtype": "bfloat16"}
    dims = {"vocab_size": 32000, "hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 14336}
    blueprint = from_config(config | dims | {"num_attention_heads": 32, "num_key_value_heads": 8})

    result = build(deployment(), blueprint=blueprint, cluster=cluster)

    assert "--max-model-len" in server(result, "agg")["args"]
    (found,) = [item for item in result.parameters if item.name == "max_seq_len"]
    assert (found.value, found.source) == (8192, "blueprint")
    for_vllm = build(deployment(backend="vllm"), blueprint=blueprint, cluster=cluster)
    probe = server(for_vllm, "agg")["startupProbe"]
    assert blueprint.weight_bytes == 14_483_464_192
    assert probe["failureThreshold"] * probe["periodSeconds"] == 1800 + 1448


def test_switching_the_mode_shares_no_worker_object(cluster):
    agg, disagg = (build(deployment(mode=mode), cluster=cluster) for mode in ("agg", "disagg"))

    assert not set(of_kind(agg, "ConfigMap")) & set(of_kind(disagg, "ConfigMap"))
    assert set(of_kind(agg, "Deployment")) & set(of_kind(disagg, "Deployment")) == {"qwen-router"}
