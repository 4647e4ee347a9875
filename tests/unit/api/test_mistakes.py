"""Mistakes in our words: never pydantic's, always with what to do."""

import copy
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.api.crd import crd_texts
from tandem.api.load import parse_resource
from tandem.api.patterns import ALL
from tandem.api.problems import Problem, Refused

MINIMAL = {
    "apiVersion": "tandem.dev/v1alpha1",
    "kind": "ModelDeployment",
    "metadata": {"name": "q"},
    "spec": {"model": {"pvc": {"claimName": "m"}}},
}
HINTS = {
    "maxseqlen": "maxSeqLen",
    "maxtokens": "kvCacheMaxTokens",
    "maxmodellen": "maxSeqLen",
    "enforceeager": "disableCudaGraph: true",
}
# Words of the libraries beneath.
FOREIGN = re.compile(r"Input should|String should|valid (?:string|integer|number|boolean)|pydantic|NoneType|dict|tuple")


def problems(spec: dict) -> tuple[Problem, ...]:
    document = copy.deepcopy(MINIMAL)
    document["spec"] = {**document["spec"], **spec}
    with pytest.raises(Refused) as refused:
        parse_resource(document, hints=HINTS)
    return refused.value.problems


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"backendVersion": 0.33}, 'spec.backendVersion: a text is needed here (got 0.33). Quote it: "0.33".'),
        ({"image": True}, 'spec.image: a text is needed here (got True). Quote it: "true".'),
        ({"replicas": "2"}, "spec.replicas: a whole number is needed here (got '2'). Write 2 without quotes."),
        ({"replicas": 2.0}, "spec.replicas: a whole number is needed here (got 2.0). Write 2."),
        ({"replicas": 1.5}, "spec.replicas: a whole number is needed here (got 1.5). Write a whole number, like 4."),
        ({"replicas": -1}, "spec.replicas: it must be at least 0 (got -1). Write 0 or more."),
        ({"replicas": 10**9}, "spec.replicas: it must be at most 10000 (got 1000000000). Write 10000 or less."),
        ({"sla": {"ttftMs": 0}}, "spec.sla.ttftMs: it must be above 0 (got 0). Write a number above 0."),
        (
            {"parameters": {"trustRemoteCode": "yes"}},
            "spec.parameters.trustRemoteCode: true or false is needed here (got 'yes'). Write true without quotes.",
        ),
        (
            {"parameters": {"kvCacheFreeGpuMemoryFraction": "0.9"}},
            "spec.parameters.kvCacheFreeGpuMemoryFraction: a number is needed here (got '0.9'). "
            "Write 0.9 without quotes.",
        ),
        (
            {"parameters": {"cudaGraphBatchSizes": 8}},
            "spec.parameters.cudaGraphBatchSizes: a list is needed here (got 8). "
            "Write items with a dash before each, or [a, b].",
        ),
        ({"image": ""}, "spec.image: at least 1 character is needed here (got ''). Give more."),
        (
            {"backend": "VLLM"},
            "spec.backend: only torch, vllm, sglang or trtllm can stand here (got 'VLLM'). Did you mean vllm?",
        ),
        ({"mode": "both"}, "spec.mode: only agg or disagg can stand here (got 'both'). Write agg or disagg."),
        (
            {"imagePullSecrets": ["regcred"]},
            "spec.imagePullSecrets[0]: a map is needed here (got 'regcred'). Write {name: regcred}.",
        ),
        (
            {"imagePullSecrets": ["a\nb"]},
            "spec.imagePullSecrets[0]: a map is needed here (got 'a\\nb'). Write key: value lines; known here: name.",
        ),
        (
            {"rules": "production"},
            "spec.rules: a map is needed here (got 'production'). "
            "Write key: value lines; known here: configMapRef, set.",
        ),
        (
            {"model": {"pvc": {"claimName": "m", "path": "/models/qwen"}}},
            "spec.model.pvc.path: a path inside the volume has no / at its ends, no spaces, and no part that begins "
            "with a dot (got '/models/qwen'). Did you mean models/qwen?",
        ),
        (
            {"model": {"pvc": {"claimName": "m", "path": "a/.git"}}},
            "spec.model.pvc.path: a path inside the volume has no / at its ends, no spaces, and no part that begins "
            "with a dot (got 'a/.git'). Write it like qwen/qwen2.5-1.5b.",
        ),
        (
            {"model": {"hub": {"repo": "https://hf.co/a/b"}}},
            "spec.model.hub.repo: a repository is NAME or OWNER/NAME, "
            "of letters, digits, -, _ and . (got 'https://hf.co/a/b'). Did you mean a/b?",
        ),
        (
            {"roles": {"agg": {"resources": {"limits": {"cpu": 1.5}}}}},
            'spec.roles.agg.resources.limits.cpu: a whole number or a text is needed here (got 1.5). Quote it: "1.5".',
        ),
        (
            {"roles": {"agg": {"resources": {"limits": {"memory": "4GB"}}}}},
            "spec.roles.agg.resources.limits.memory: this is no quantity (got '4GB'). "
            "Write 4G, or 4Gi for powers of 1024.",
        ),
        (
            {"roles": {"agg": {"resources": {"limits": {"memory": "lots"}}}}},
            "spec.roles.agg.resources.limits.memory: this is no quantity (got 'lots'). "
            "Write a number with a unit, like 2, 500m or 4Gi.",
        ),
        (
            {"limits": {"timeoutSeconds": "2min"}},
            "spec.limits.timeoutSeconds: a whole number is needed here (got '2min'). Write 120, without a unit.",
        ),
        (
            {"sla": {"ttftMs": "1.5s"}},
            "spec.sla.ttftMs: a number is needed here (got '1.5s'). Write 1500, without a unit.",
        ),
        (
            {"parameters": {"maxSeqLen": "4k"}},
            "spec.parameters.maxSeqLen: a whole number is needed here (got '4k'). Write 4096, without a unit.",
        ),
        (
            {"parameters": {"kvCacheFreeGpuMemoryFraction": "90%"}},
            "spec.parameters.kvCacheFreeGpuMemoryFraction: a number is needed here (got '90%'). "
            "Write 0.9, without a unit.",
        ),
        (
            {"limits": {"timeoutSeconds": "500ms"}},
            "spec.limits.timeoutSeconds: a whole number is needed here (got '500ms'). Write a whole number, like 4.",
        ),
        ({"model": {"hub": {}}}, "spec.model.hub.repo: required, but missing. Add repo."),
        (
            {"model": {"hub": {"repo": "a/b", "tokenSecretRef": {"name": "hf"}}}},
            "spec.model.hub.tokenSecretRef.key: required, but missing. Add key.",
        ),
        (
            {"parameters": {"max-model-len": 9}},
            "spec.parameters.max-model-len: unknown field (got 9). Write maxSeqLen.",
        ),
        ({"max_model_len": 9}, "spec.max_model_len: unknown field (got 9). Write maxSeqLen below parameters."),
        (
            {"parameters": {"enforce-eager": True}},
            "spec.parameters.enforce-eager: unknown field (got True). Write disableCudaGraph: true.",
        ),
        (
            {"parameters": {"tensor-parallel-size": 2}},
            "spec.parameters.tensor-parallel-size: unknown field (got 2). Did you mean tensorParallelSize?",
        ),
        (
            {"maxSeqLen": 9},
            "spec.maxSeqLen: unknown field (got 9). It belongs below spec.parameters or spec.roles.agg.parameters or "
            "spec.roles.prefill.parameters.",
        ),
        (
            {"limits": {"maxTokens": 9}},
            "spec.limits.maxTokens: unknown field (got 9). Did you mean maxNewTokens?",
        ),
        ({"claimName": "m"}, "spec.claimName: unknown field (got 'm'). It belongs below spec.model.pvc."),
        (
            {"extraArgs": []},
            "spec.extraArgs: unknown field (got []). It belongs below spec.roles.agg or "
            "spec.roles.prefill or spec.roles.decode.",
        ),
        ({"modle": 1}, "spec.modle: unknown field (got 1). Did you mean model?"),
        (
            {"model": "Qwen/Qwen2.5"},
            "spec.model: a map is needed here (got 'Qwen/Qwen2.5'). Write {hub: {repo: Qwen/Qwen2.5}}.",
        ),
        (
            {"model": "https://huggingface.co/Qwen/Qwen2.5/tree/main"},
            "spec.model: a map is needed here (got 'https://huggingface.co/Qwen/Qwen2.5/tree/main'). "
            "Write {hub: {repo: Qwen/Qwen2.5}}.",
        ),
        (
            {"model": "/models/qwen"},
            "spec.model: a map is needed here (got '/models/qwen'). "
            "Write {pvc: {claimName: CLAIM, path: models/qwen}}.",
        ),
        (
            {"roles": {"agg": {"nodeSelector": {}}}},
            "spec.roles.agg.nodeSelector: unknown field (got {}). Put it below podTemplate.spec.",
        ),
        (
            {"tolerations": []},
            "spec.tolerations: unknown field (got []). Put it below roles.ROLE.podTemplate.spec.",
        ),
        (
            {"roles": {"agg": {"env": []}}},
            "spec.roles.agg.env: unknown field (got []). "
            "Put it below podTemplate.spec.containers[], of the container named server.",
        ),
        ({"roles": {"agg": {"args": []}}}, "spec.roles.agg.args: unknown field (got []). Write extraArgs."),
        (
            {"router": {"colour": "red"}},
            "spec.router.colour: unknown field (got 'red'). Known here: policy, replicas, resources.",
        ),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else "",
)
def test_a_mistake_says_what_is_wrong_and_what_to_do(spec, told):
    assert [str(problem) for problem in problems(spec)] == [told]


@pytest.mark.parametrize(
    ("spec", "path", "value", "fix"),
    [
        ({"model": {}}, "spec.model", "", "Give exactly one of blueprintRef, hub, pvc or jobRef."),
        (
            {"model": {"pvc": {"claimName": "m"}, "jobRef": {"name": "j"}}},
            "spec.model",
            "pvc, jobRef",
            "Give exactly one",
        ),
        ({"mode": "disagg"}, "spec.mode", "", "Give both ({} is enough), or set mode: agg."),
        ({"roles": {"prefill": {}}}, "spec.roles", "", "Remove roles.prefill and roles.decode, or set mode: disagg."),
        ({"limits": {"maxNewTokens": 1, "defaultMaxNewTokens": 2}}, "spec.limits.defaultMaxNewTokens", "", "Lower"),
        ({"roles": {"agg": {"extraArgs": ["--api-key=x"]}}}, "spec.roles.agg.extraArgs", "", "Put it in a Secret"),
        ({"model": {"hub": {"repo": "a/b", "token": "hf_x"}}}, "spec.model.hub.token", "", "Put it in a Secret"),
    ],
)
def test_a_rule_over_several_fields_has_its_advice_as_the_fix(spec, path, value, fix):
    (problem,) = problems(spec)

    assert (problem.path, problem.value) == (path, value)
    assert problem.fix.startswith(fix)
    assert problem.reason
    assert fix not in problem.reason


def test_a_hub_repository_given_by_a_field_of_another_name_is_shown_in_its_place():
    assert str(problems({"model": {"hf": "Qwen/Qwen2.5"}})[-1]).endswith("Write hub: {repo: Qwen/Qwen2.5}.")


def test_a_missing_model_and_a_missing_spec_are_shown_whole():
    with pytest.raises(Refused) as refused:
        parse_resource({**MINIMAL, "spec": {}})
    (model,) = refused.value.problems
    with pytest.raises(Refused) as refused:
        parse_resource({key: MINIMAL[key] for key in ("apiVersion", "kind", "metadata")})
    (spec,) = refused.value.problems

    assert model.fix == "Add model: {hub: {repo: OWNER/NAME}} or {pvc: {claimName: CLAIM, path: DIRECTORY}}."
    assert spec.fix == "Add spec: {model: {hub: {repo: OWNER/NAME}}}."


def test_broken_rules_of_all_levels_are_told_in_one_round():
    spec = {
        "mode": "disagg",
        "limits": {"maxNewTokens": 1, "defaultMaxNewTokens": 2, "maxPromptTokens": 64},
        "parameters": {"maxSeqLen": 64},
        "roles": {"agg": {"resources": {"limits": {"memory": 8}}}},
    }

    assert [problem.path for problem in problems(spec)] == [
        "spec.mode",
        "spec.roles.agg",
        "spec.limits.maxPromptTokens",
        "spec.roles.agg.resources.limits.memory",
        "spec.limits.defaultMaxNewTokens",
    ]


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        ({"parameters": {"maxSeqLen": 256}, "limits": {"maxPromptTokens": 2048}}, "2048, and maxSeqLen 256"),
        ({"parameters": {"maxSeqLen": 256}, "limits": {"maxPromptTokens": 256}}, "256, and maxSeqLen 256"),
        (
            {"roles": {"agg": {"parameters": {"maxSeqLen": 256}}}, "limits": {"maxPromptTokens": 300}},
            "300, and maxSeqLen 256",
        ),
    ],
)
def test_a_prompt_that_leaves_no_room_for_an_answer_is_no_limit(spec, value):
    (problem,) = problems(spec)

    assert (problem.path, problem.value) == ("spec.limits.maxPromptTokens", value)
    assert problem.fix == "Lower limits.maxPromptTokens or raise maxSeqLen in parameters."


@pytest.mark.parametrize(
    "spec",
    [
        {"parameters": {"maxSeqLen": 256}, "limits": {"maxPromptTokens": 255, "maxNewTokens": 255}},
        {
            "parameters": {"maxSeqLen": 256},
            "limits": {"maxPromptTokens": 300},
            "roles": {"agg": {"parameters": {"maxSeqLen": 512}}},
        },
        {"parameters": {"maxSeqLen": 256}},
    ],
)
def test_limits_within_the_longest_sequence_are_taken(spec):
    parse_resource({**MINIMAL, "spec": {**MINIMAL["spec"], **spec}})


def test_every_broken_rule_is_told():
    assert len(problems({"mode": "disagg", "roles": {"agg": {}}})) == 2


@pytest.mark.parametrize(
    "hub",
    [
        {"token": "hunter2"},
        {"tokens": ["hunter2"]},
        {"auth": {"basic": "hunter2"}},
        {"tokn": "hunter2"},
        {"hfToken": "hunter2"},
        {"api_key": "hunter2"},
        {"token": "x" * 70_000},
    ],
)
def test_a_secret_is_never_repeated(hub):
    found = problems({"model": {"hub": {"repo": "a/b", **hub}}})
    told = " ".join(str(problem) + json.dumps(problem.as_dict()) for problem in found)
    assert "hunter2" not in told
    assert "xxx" not in told


@pytest.mark.parametrize(
    ("spec", "path", "words"),
    [
        ({"access": {"apiKeys": "hunter2"}}, "spec.access.apiKeys", "name it in access.apiKeysSecretRef: {name, key}"),
        ({"access": {"apiKeys": ["hunter2"]}}, "spec.access.apiKeys", "a text is needed here"),
        ({"access": {"apiKey": "hunter2"}}, "spec.access.apiKey", "Write apiKeysSecretRef: {name: SECRET}"),
        ({"access": {"apiKeysSecretRef": "hunter2"}}, "spec.access.apiKeysSecretRef", "known here: key, name"),
        ({"access": {}}, "spec.access", "Give apiKeysSecretRef: {name: SECRET}"),
        ({"apiKeys": "hunter2"}, "spec.apiKeys", "write access: {apiKeysSecretRef: {name: SECRET}}"),
        ({"router": {"apiKeysSecretRef": {"name": "x"}}}, "spec.router.apiKeysSecretRef", "below spec.access"),
    ],
)
def test_api_keys_in_a_wrong_place_lead_to_the_right_one_and_are_not_shown(spec, path, words):
    found = problems(spec)
    told = [(problem.path, f"{problem.reason} {problem.fix}") for problem in found]
    assert any(at == path and words in text for at, text in told), told
    assert "hunter2" not in " ".join(str(problem) + json.dumps(problem.as_dict()) for problem in found)


@pytest.mark.parametrize("pattern", ALL, ids=lambda pattern: pattern.example)
def test_the_example_of_a_pattern_obeys_it(pattern):
    assert re.search(pattern.regex, pattern.example)


def test_every_pattern_of_the_resources_has_words():
    quantities = r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)"
    used = {
        json.loads(f'"{found}"') if '"' in found else found
        for text in crd_texts().values()
        for found in re.findall(r"pattern: (.*)", text)
    }
    known = {pattern.regex for pattern in ALL}
    plain = {found.strip("'").replace("''", "'").replace("\\\\", "\\") for found in used}
    assert {found for found in plain if not found.strip('"').startswith(quantities)} - known == set()


leaves = (
    st.none()
    | st.booleans()
    | st.integers(-5, 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=6), inner, max_size=2),
    max_leaves=4,
)
FIELDS = (
    "backend",
    "backendVersion",
    "image",
    "mode",
    "model",
    "replicas",
    "parameters",
    "roles",
    "sla",
    "limits",
    "rules",
    "templates",
    "router",
    "rollout",
    "imagePullPolicy",
    "imagePullSecrets",
    "nonsense",
)


@given(st.dictionaries(st.sampled_from(FIELDS), values, min_size=1, max_size=3))
def test_no_value_at_all_is_told_in_foreign_words(spec):
    document = {**MINIMAL, "spec": {**MINIMAL["spec"], **spec}}
    try:
        parse_resource(document)
    except Refused as refused:
        for problem in refused.problems:
            assert problem.path
            assert problem.reason
            assert problem.fix
            assert not FOREIGN.search(f"{problem.reason} {problem.fix}")


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("tp", "Write tensorParallelSize."),
        ("bs", "Write maxBatchSize."),
        ("dtype", "Give it in extraArgs: [--dtype, bfloat16]."),
        ("zebra", "kubectl explain modeldeployment.spec.parameters lists what there is."),
    ],
)
def test_names_that_people_use_lead_to_parameters(name, fix):
    (problem,) = problems({"parameters": {name: 2}})

    assert problem.fix == fix
