"""From a request to command lines: precedence, rules, refusals."""

from dataclasses import replace

import pytest

from tandem.api.problems import Refused
from tandem.rendering.extra import flag_name
from tandem.rendering.parameters import Given
from tandem.rendering.pipeline import ModelFacts, Request, RoleRequest, render
from tandem.rendering.values import EnvRef

NAMES = {"port": 8000, "config_dir": "/etc/tandem"}


def request(backend="vllm", mode="agg", roles=None, derived=None, **changes):
    roles = roles or {name: {} for name in (("agg",) if mode == "agg" else ("prefill", "decode"))}
    whole = {
        "backend": backend,
        "version": None,
        "mode": mode,
        "rule_set": "production",
        "model": ModelFacts(path="/models/m", served_name="m"),
        "names": NAMES,
        "roles": tuple(
            RoleRequest(
                name=name,
                given={key: Given(value, "user", f"{name}.{key}") for key, value in role.items() if key != "extra"},
                extra_arguments=role.get("extra", ()),
                extra_path=f"{name}.extra",
                derived={key: Given(value, "blueprint", "blueprint 1") for key, value in (derived or {}).items()},
            )
            for name, role in roles.items()
        ),
    }
    return Request(**(whole | changes))


def values(rendering):
    return {
        (role.role, item.name): (item.value, item.source, item.detail)
        for role in rendering.roles
        for item in role.parameters
    }


def refusal(library, *args, **kwargs):
    with pytest.raises(Refused) as refused:
        render(request(*args, **kwargs), library)
    return [str(problem) for problem in refused.value.problems]


def with_rules(library, text, backend="vllm"):
    return library.with_rules(
        backend=backend, rule_set="production", texts={f"{backend}.rule": text}, label="test", path="rules"
    )


def test_s0_13_a_user_wins_over_a_rule_and_a_rule_over_the_blueprint(library):
    rules = with_rules(library, "max_batch_size = 7\nmax_seq_len = 100\nmax_num_tokens = 50")

    found = values(render(request(roles={"agg": {"max_batch_size": 3}}, derived={"max_seq_len": 9}), rules))

    assert found == {
        ("agg", "max_batch_size"): (3, "user", "agg.max_batch_size"),
        ("agg", "max_seq_len"): (100, "rule", "test/vllm.rule:2"),
        ("agg", "max_num_tokens"): (50, "rule", "test/vllm.rule:3"),
    }


def test_s0_13_the_blueprint_is_the_last_resort(library):
    found = values(render(request(derived={"max_seq_len": 9}), with_rules(library, "")))

    assert found == {("agg", "max_seq_len"): (9, "blueprint", "blueprint 1")}


def test_the_trace_tells_what_each_rule_did(library):
    rules = with_rules(library, "max_batch_size = 7\nmax_seq_len = isl\ndecode max_num_tokens = 1\nmax_num_tokens = 9")

    (role,) = render(request(roles={"agg": {"max_batch_size": 3}}), rules).roles

    assert [(hit.name, hit.value, hit.location, hit.outcome) for hit in role.trace] == [
        ("max_batch_size", 7, "test/vllm.rule:1", "overridden"),
        ("max_seq_len", None, "test/vllm.rule:2", "empty"),
        ("max_num_tokens", 9, "test/vllm.rule:4", "applied"),
    ]


def test_a_line_sees_what_the_user_set_and_what_lines_above_gave(library):
    rules = with_rules(library, "max_batch_size = 7\nmax_num_tokens = max_batch_size * 2\nmax_seq_len = max_num_tokens")

    assert values(render(request(), rules))["agg", "max_seq_len"][0] == 14
    assert values(render(request(roles={"agg": {"max_batch_size": 3}}), rules))["agg", "max_seq_len"][0] == 6


def test_rendering_again_gives_the_same_values(library):
    # A rule that doubles what it finds would grow without end if it ever saw its own result.
    rules = with_rules(library, "max_batch_size = 512 if (max_batch_size or 0) < 512 else max_batch_size * 2")
    same = request()

    first = [render(same, rules) for _ in range(3)]

    assert first[0] == first[1] == first[2]
    assert values(first[0])["agg", "max_batch_size"][0] == 512


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ("max_batch_size = 0", "test/vllm.rule:1:18: the rule gives a value that max_batch_size cannot have"),
        ("max_batch_size = 1.5", "cannot have: a whole number is needed here (got 1.5)"),
        ("max_batch_size = 'x'", "cannot have: a whole number is needed here (got 'x')"),
        ("cuda_graph_batch_sizes = []", "cuda_graph_batch_sizes cannot have"),
        ("max_batch_size = isl + 1", "test/vllm.rule:1:22: the rule fails: + needs numbers, but here is no value"),
        ("max_prefill_tokens = 5", "test/vllm.rule:1: vllm 0.33.0 cannot honour it: vLLM has one token budget"),
    ],
)
def test_a_rule_that_gives_what_cannot_be_is_located(library, rule, reason):
    with pytest.raises(Refused) as refused:
        render(request(), with_rules(library, rule))

    assert reason in str(refused.value)


def test_a_rule_may_give_a_list(library):
    rules = with_rules(library, "cuda_graph_batch_sizes = range(1, 4)")

    (role,) = render(request(), rules).roles

    assert role.command[-4:] == ("--cudagraph-capture-sizes", "1", "2", "3")


def test_s0_37_the_shipped_rules_see_the_sizes_that_a_deployment_is_made_for(library):
    found = values(render(request(mode="disagg", facts={"isl": 4000}), library))

    assert found["prefill", "max_num_tokens"] == (5500, "rule", "rules/vllm.rule:14")
    assert found["decode", "max_num_tokens"] == (128, "rule", "rules/vllm.rule:11")


def test_s0_37_the_batch_of_the_bundled_server_is_what_limits_allow(library):
    limits = {"concurrency": Given(5, "user", "spec.limits.concurrency")}

    assert values(render(request("torch", limits=limits), library))["agg", "max_batch_size"][0] == 5
    assert values(render(request("torch"), library))["agg", "max_batch_size"][0] == 16


def test_s0_15_a_backend_without_a_rule_file_renders_unchanged(library):
    without = replace(library, rules={})
    given = {"agg": {"max_batch_size": 3}}

    assert values(render(request(roles=given), without)) == {
        ("agg", "max_batch_size"): (3, "user", "agg.max_batch_size")
    }


def test_every_value_that_cannot_be_had_is_told_at_once(library):
    found = refusal(library, "torch", roles={"agg": {"tensor_parallel_size": 4, "tokens_per_block": 32}})

    assert found == [
        "agg.tensor_parallel_size: torch 1 cannot honour it: the bundled server runs a model in one process on one "
        "device (got 4). Leave it at 1, add replicas, or use backend vllm.",
        "agg.tokens_per_block: torch 1 cannot honour it: the bundled server keeps the KV cache in blocks of 16 tokens "
        "(got 32). Use 16 or remove it.",
    ]


def test_a_shared_value_that_cannot_be_had_is_told_once(library):
    shared = Given(32, "parameters", "spec.parameters.tokensPerBlock")
    roles = tuple(RoleRequest(name=name, given={"tokens_per_block": shared}) for name in ("prefill", "decode"))

    with pytest.raises(Refused) as refused:
        render(replace(request("torch", "disagg"), roles=roles), library)

    assert len(refused.value.problems) == 1


@pytest.mark.parametrize(
    ("name", "values_"), [("kv_cache_dtype", ("fp8", "auto")), ("attention_backend", ("FLASHINFER", "TRITON_ATTN"))]
)
def test_prefill_and_decode_that_could_not_exchange_a_kv_cache_are_refused(library, name, values_):
    prefill, decode = values_
    roles = {"prefill": {name: prefill}, "decode": {name: decode}}

    (message,) = refusal(library, mode="disagg", roles=roles)

    assert message.startswith(f"decode.{name}: prefill and decode must have the same {name}")
    assert refusal(library, mode="disagg", roles={"prefill": {name: prefill}, "decode": {}})[0].startswith(
        f"prefill.{name}: prefill and decode must have the same"
    )


@pytest.mark.parametrize(
    "argument", ["--port", "--port=9", "--por", "--host", "--served_model_name=x", "--config", "--model", "--uds=/x"]
)
def test_arguments_that_would_cut_the_worker_off_are_refused(library, argument):
    (message,) = refusal(library, roles={"agg": {"extra": ("--seed", argument)}})

    assert message.startswith("agg.extra[1]: this flag is set by Tandem")


def test_the_connector_is_tandems_in_disagg_and_the_users_in_agg(library):
    extra = {"extra": ("--kv-transfer-config.kv_connector", "LMCacheConnectorV1")}

    assert refusal(library, mode="disagg", roles={"prefill": {}, "decode": extra})
    assert render(request(roles={"agg": extra}), library).roles[0].command[-2:] == extra["extra"]


def test_flag_names():
    assert [flag_name(text) for text in ("--a_b=3", "--a.b.c", "-tp", "x", "-", "--")] == [
        *("--a-b", "--a", "-tp"),
        *(None, None, None),
    ]


def test_s1_17_limits_of_the_bundled_server_reach_its_config_file(library):
    limits = {name: Given(value, "user", name) for name, value in (("max_new_tokens", 32), ("on_overlong", "truncate"))}

    (role,) = render(request("torch", limits=limits), library).roles

    assert role.files["config.yml"] == (
        'HUGGINGFACE_MODEL:\n  NAME: "/models/m"\nGENERATION:\n  MAX_NEW_TOKENS: 32\n  DEFAULT_MAX_NEW_TOKENS: 32\n'
        "  TIMEOUT_SECONDS: 60\n  OCCUPANCY_SEMAPHORE: 16\n  MAX_PROMPT_TOKENS: 2048\n"
        '  ON_OVERLONG: "truncate"\n  MAX_QUEUE: 64\n'
    )


@pytest.mark.parametrize(
    "name", ["concurrency", "max_prompt_tokens", "on_overlong", "max_queue", "default_max_new_tokens"]
)
def test_limits_that_vllm_does_not_have_are_refused_with_what_it_has(library, name):
    (message,) = refusal(library, limits={name: Given(1, "user", f"spec.limits.{name}")})

    assert message.startswith(f"spec.limits.{name}: vLLM ")


def test_limits_that_vllm_has_become_flags(library):
    limits = {name: Given(9, "user", name) for name in ("max_new_tokens", "timeout_seconds")}

    (role,) = render(request(limits=limits), library).roles

    at = role.command.index("--shutdown-timeout")
    assert role.command[at : at + 4] == (
        "--shutdown-timeout",
        "9",
        "--override-generation-config",
        '{"max_new_tokens": 9}',
    )


def test_vllm_disaggregated_speaks_nixl_with_one_role_at_each_end(library):
    prefill, decode = render(request(mode="disagg"), library).roles

    assert prefill.command[-2:] == (
        "--kv-transfer-config",
        '{"kv_connector": "NixlConnector", "kv_role": "kv_producer", "kv_load_failure_policy": "fail"}',
    )
    assert '"kv_role": "kv_consumer"' in decode.command[-1]


def test_torch_disaggregated_tells_its_own_address(library):
    prefill, _ = render(request("torch", mode="disagg"), library).roles

    at = prefill.command.index("--advertise-host")
    assert prefill.command[at + 1] == EnvRef("POD_IP")
    assert prefill.command[prefill.command.index("--role") + 1] == "prefill"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("a: b\n", "must give a YAML list of arguments"),
        ("- yes\n", "argument 1: an argument is a text, a number or {env: NAME} (got True)"),
        ("- a\n-\n", "argument 2: an argument is a text"),
        ("- [a]\n", "argument 1"),
        ("- {env: A, more: 1}\n", "argument 1"),
        ("- 2020-01-01\n", "argument 1"),
    ],
)
def test_a_template_that_gives_no_arguments_is_refused(library, template, reason):
    mine = library.with_templates(backend="torch", texts={"cli_args.1.j2": template}, label="mine", path="x")

    with pytest.raises(Refused) as refused:
        render(request("torch"), mine)

    assert reason in str(refused.value)
    assert str(refused.value).startswith("mine/cli_args.1.j2: ")


TEMPLATE = """
- {{ model.path }}
- {{ "--mine=" ~ params.max_batch_size | default(1) }}
- {{ "--prefill=" ~ params.prefill.max_num_tokens }}
- {{ "--length=" ~ params.decode.max_seq_len | default(4096) }}
"""


def with_template(library, text):
    return library.with_templates(backend="vllm", texts={"cli_args.0.33.0.j2": text}, label="mine", path="x")


def test_s0_41_a_template_reads_the_model_its_own_parameters_and_those_of_each_role(library):
    prefill, decode = render(request(mode="disagg", facts={"isl": 4000}), with_template(library, TEMPLATE)).roles

    assert prefill.command[2:] == ("/models/m", "--mine=1", "--prefill=5500", "--length=4096")
    assert decode.command[2:] == ("/models/m", "--mine=128", "--prefill=5500", "--length=4096")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("- {{ params.max_seq_len }}", "max_seq_len"),
        ("- {{ params.prefill.max_batch_size }}", "prefill"),
        ("- {{ params.prefill.max_batch_size | default(1) }}", "prefill"),
        ("- {{ modle.path }}", "modle"),
    ],
)
def test_s0_41_a_name_that_does_not_exist_is_located(library, text, name):
    with pytest.raises(Refused) as refused:
        render(request(), with_template(library, f"- a\n{text}\n"))

    (problem,) = refused.value.problems
    assert problem.path == "mine/cli_args.0.33.0.j2:2"
    assert name in problem.reason
