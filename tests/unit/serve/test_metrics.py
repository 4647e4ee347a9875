"""What `/metrics` tells."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tandem_serve.engine.loader import LoadedModel
from tandem_serve.engine.types import EngineStats, Finish, FinishReason, SamplingParams, SequenceRequest, Update
from tandem_serve.metrics import ServerMetrics
from tandem_serve.spans import Spans
from tandem_serve.timings import Timings
from tests.unit.serve import tiny
from tests.unit.serve.live import live_server


def samples(metrics: ServerMetrics) -> dict[str, float]:
    """Values by name and labels."""
    return {
        sample.name + "".join(f",{key}={value}" for key, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def test_gateways_find_the_names_and_labels_they_read() -> None:
    metrics = ServerMetrics()
    stats = EngineStats(running=3, waiting=2, kv_used_tokens=160, kv_capacity_tokens=640, kv_block_tokens=16)
    metrics.follow(stats, model="qwen")
    found = samples(metrics)
    assert found["vllm:num_requests_running,engine=0,model_name=qwen"] == 3
    assert found["vllm:num_requests_waiting,engine=0,model_name=qwen"] == 2
    assert found["vllm:kv_cache_usage_perc,engine=0,model_name=qwen"] == 0.25
    assert found["vllm:cache_config_info,block_size=16,engine=0,num_gpu_blocks=40"] == 1


def test_times_are_those_of_the_clients() -> None:
    metrics, now = ServerMetrics(), [100.0]
    timings = Timings(metrics, Spans(), clock=lambda: now[0])
    timings.begin([SequenceRequest(seq_id=7, request_id="r", prompt=(1,), sampling=SamplingParams(max_tokens=3))])
    for seconds, update in (
        (2.0, Update(seq_id=7, started=True)),
        (1.0, Update(seq_id=7, token_ids=(1,))),
        (0.25, Update(seq_id=7, token_ids=(2,))),
        (0.5, Update(seq_id=7, token_ids=(3,), finish=Finish(reason=FinishReason.STOP))),
    ):
        now[0] += seconds
        timings.on_update(update)
    timings.on_update(Update(seq_id=7, token_ids=(4,)))  # after the end: nobody waits
    found = samples(metrics)
    for name, count, total in (
        ("queue", 1, 2.0),
        ("time_to_first_token", 1, 3.0),
        ("time_per_output_token", 2, 0.75),
        ("sequence", 1, 3.75),
    ):
        assert (found[f"tandem_{name}_seconds_count"], found[f"tandem_{name}_seconds_sum"]) == (count, total)
    assert found["tandem_time_per_output_token_seconds_bucket,le=0.3"] == 1


def test_sequences_that_were_cut_off_are_counted_by_reason_from_the_start() -> None:
    metrics = ServerMetrics()
    metrics.follow(EngineStats(finished={FinishReason.CANCELLED: 2}), model="m")
    found = samples(metrics)
    assert found["tandem_sequences_finished_total,reason=cancelled"] == 2
    assert all(found[f"tandem_sequences_finished_total,reason={reason}"] == 0 for reason in ("timeout", "error"))
    assert found["tandem_requests_refused_total,reason=queue_full"] == 0


def test_the_page_names_every_metric() -> None:
    page = (Path(__file__).parents[3] / "docs" / "server.md").read_text(encoding="utf-8")
    families = text_string_to_metric_families(ServerMetrics().render().decode())
    series = {sample.name for family in families for sample in family.samples} | {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in text_string_to_metric_families(ServerMetrics().render().decode())
    }
    names = {re.sub("_(bucket|count|sum|created)$", "", name) for name in series}
    assert {name for name in names if f"`{name}" not in page} == set()


async def test_s1_30_a_served_request_shows_in_every_metric(llama: LoadedModel) -> None:
    async with live_server(tiny.settings(Path("x")), llama) as server:
        text = tiny.TEXT * 2
        for _ in range(2):
            await server.complete(text, max_tokens=5, ignore_eos=True)
        prompt_tokens = await server.metric("tandem_prompt_tokens_total")
        found = samples(server.service.metrics)
        steps = found["tandem_engine_steps_total"]
    assert prompt_tokens > 0
    assert found["tandem_prompt_tokens_total,source=reused"] >= 16
    assert (found["tandem_batch_size_count"], found["tandem_batch_size_sum"]) == (steps, steps)
    assert found["tandem_time_to_first_token_seconds_count"] == found["tandem_queue_seconds_count"] == 2
    assert found["tandem_time_per_output_token_seconds_count"] == 2 * 4
    assert found["tandem_kv_capacity_tokens"] == 8192


@pytest.mark.parametrize("sizes", [{}, {1: 3, 8: 2, 600: 1}])
def test_the_batch_sizes_are_a_histogram(sizes: dict[int, int]) -> None:
    metrics = ServerMetrics()
    metrics.follow(EngineStats(batch_sizes=sizes), model="m")
    found = samples(metrics)
    assert found["tandem_batch_size_bucket,le=+Inf"] == found["tandem_batch_size_count"] == sum(sizes.values())
    assert found["tandem_batch_size_bucket,le=8.0"] == sum(n for size, n in sizes.items() if size <= 8)
