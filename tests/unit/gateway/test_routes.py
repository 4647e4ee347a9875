"""What the router answers by itself, and what it lets through in either direction."""

from __future__ import annotations

import asyncio
import json

import pytest

from tandem.gateway.fleet import Fleet, Role
from tests.unit.gateway.workers import answer, hang, web


@pytest.fixture
async def router(start_router, start_worker):
    """One aggregated worker behind a router that takes 1000 bytes."""
    return await start_router(await start_worker("w-0", Role.AGG), max_body_bytes=1000, body_seconds=0.3)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/docs", 404),
        ("GET", "/openapi.json", 404),
        ("POST", "/v1/completions/", 404),
        ("POST", "/v1/embeddings", 404),
        ("GET", "/kv/abc", 404),
        ("DELETE", "/kv/abc", 404),
        ("GET", "/v1/completions", 405),
        ("POST", "/v1/models", 405),
    ],
)
async def test_unknown_routes_are_refused_in_the_openai_form(router, method, path, status):
    async with router.client.request(method, router.url + path) as response:
        error = (await response.json())["error"]
    assert response.status == status
    assert set(error) == {"message", "type", "param", "code", "request_id"}
    assert path in error["message"]
    assert error["request_id"] == response.headers["x-request-id"]
    assert router.workers[0].seen == []


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b"", "line 1, column 1"),
        (b'{\n "prompt": "a",\n}', "line 3, column 1"),
        (b'{"prompt": "a"', "line 1, column 15"),
        (b'{"prompt": \xff}', "byte 11"),
        (b'{"temperature": NaN}', "NaN"),
        (b"[" * 1000, "nested"),
        (b'["a"]', "not a JSON object"),
        (b"\xef\xbb\xbf{}", "JSON"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/completions", "/generate", "/tokenize"])
async def test_a_malformed_body_is_a_located_400(router, path, body, where):
    response, told = await router.post(path, body)
    assert response.status == 400
    assert where in told["error"]["message"]
    assert told["error"]["type"] == "invalid_request_error"
    assert router.workers[0].seen == []


async def test_bodies_beyond_the_room_for_all_are_a_503_and_others_are_served(start_router, start_worker):
    worker = await start_worker("w-0", Role.AGG)
    router = await start_router(worker, max_body_bytes=1_000, max_held_bytes=1_000)
    worker.script(hang)
    holding = asyncio.create_task(router.complete("x" * 700))
    await worker.saw()
    response, told = await router.complete("y" * 700)
    assert (response.status, told["error"]["code"]) == (503, "router_full")
    assert response.headers["retry-after"]
    assert (await router.complete("small"))[0].status == 200
    holding.cancel()
    await router.audited(3)
    assert (await router.complete("z" * 700))[0].status == 200


async def test_a_body_that_is_too_large_is_a_413_declared_or_not(router):
    response, told = await router.post("/v1/completions", b" " * 1001)
    assert (response.status, told["error"]["code"]) == (413, "request_too_large")
    assert "1000" in told["error"]["message"]

    async def endless():
        while True:
            yield b" " * 100

    async with router.client.post(router.url + "/v1/completions", data=endless()) as response:
        assert response.status == 413
        assert response.headers["Connection"] == "close"
    assert router.workers[0].seen == []


async def test_a_body_that_never_ends_is_a_408(router):
    reader, writer = await asyncio.open_connection("127.0.0.1", int(router.url.rpartition(":")[2]))
    writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    assert b" 408 " in await asyncio.wait_for(reader.readline(), 5)
    writer.close()


async def test_headers_about_the_connection_and_credentials_end_at_the_router(router):
    sent = {
        "Authorization": "Bearer secret",
        "Cookie": "a=b",
        "Connection": "x-private",
        "X-Private": "1",
        "TE": "trailers",
        "Proxy-Authorization": "Basic x",
        "X-Data-Parallel-Rank": "3",
        "X-Tandem-Decode": "w-9",
        "X-Kept": "yes",
    }
    await router.post("/v1/completions", {"prompt": "x"}, headers=sent)
    seen = router.workers[0].seen[0].headers
    assert seen["X-Kept"] == "yes"
    assert {name.lower() for name in seen} <= {
        "host", "x-kept", "x-request-id", "content-type", "content-length", "accept", "accept-encoding", "user-agent",
    }  # fmt: skip


async def test_headers_of_workers_about_the_connection_end_at_the_router(router):
    headers = {"Connection": "x-hop", "X-Hop": "1", "Set-Cookie": "a=b", "X-Tandem-Worker": "w-9", "X-Kept": "yes"}
    router.workers[0].handler = answer(200, {}, headers=headers)
    response, _ = await router.complete("x")
    assert response.headers["X-Kept"] == "yes"
    assert response.headers.getall("X-Tandem-Worker") == ["w-0"]
    assert not {"X-Hop", "Set-Cookie", "Server"} & set(response.headers)


@pytest.mark.parametrize("given", [None, "a b", "x" * 200, "ü", "a/../b"])
async def test_a_request_id_that_cannot_be_logged_is_replaced(router, given):
    headers = {"X-Request-Id": given} if given else {}
    response, _ = await router.post("/v1/completions", {"prompt": "x"}, headers=headers)
    assert response.headers["X-Request-Id"] not in (given, "")
    assert router.workers[0].seen[0].headers["X-Request-Id"].startswith(response.headers["X-Request-Id"])


async def test_two_requests_with_one_id_are_two_to_the_workers(router):
    for _ in range(2):
        await router.post("/v1/completions", {"prompt": "x"}, headers={"X-Request-Id": "same"})
    first, second = (seen.headers["X-Request-Id"] for seen in router.workers[0].seen)
    assert first != second


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("GET", "/v1/models/org%2Fname?a=%20b"),
        ("GET", "/model-info"),
        ("POST", "/tokenize"),
        ("POST", "/detokenize"),
        ("GET", "/tokenizer_info"),
    ],
)
async def test_questions_that_any_worker_can_answer_go_to_one_that_is_ready(start_duo, method, path):
    duo = await start_duo()
    duo.router.view.publish(Fleet.of([duo.prefills[0].endpoint(), duo.decodes[0].endpoint(ready=False)]))
    async with duo.router.client.request(method, duo.router.url + path, json={"prompt": "x"}) as response:
        told = await response.json()
    assert response.status == 200
    assert told["worker"] == "p-0"
    assert told["path"] == path
    assert "kv_transfer_params" not in json.dumps(told)


async def test_a_path_cannot_climb_out_of_its_route(router):
    reader, writer = await asyncio.open_connection("127.0.0.1", int(router.url.rpartition(":")[2]))
    writer.write(b"GET /v1/models/../../kv/secret HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readline()
    writer.close()
    assert [seen.path for seen in router.workers[0].seen] == ["/v1/models/../../kv/secret"]


async def test_ready_means_knowing_the_workers_not_having_them(start_router):
    router = await start_router(synced=False)
    async with router.client.get(router.url + "/readyz") as response:
        assert response.status == 503
        assert "no worker list" in await response.text()
    router.publish()
    async with router.client.get(router.url + "/readyz") as response:
        assert response.status == 200
    response, body = await router.complete("x")
    assert response.status == 503
    assert "no worker is known" in body["error"]["message"]


async def test_a_router_that_cannot_follow_its_workers_any_more_asks_to_be_restarted(start_router, caplog):
    router = await start_router(defect=RuntimeError("a defect"))
    async with router.client.get(router.url + "/livez") as response:
        assert response.status == 503
    assert "ended by a defect" in caplog.text


async def test_metrics_tell_of_endpoints_requests_and_attempts(start_duo):
    duo = await start_duo(prefills=1, decodes=2)
    duo.router.view.publish(
        Fleet.of([duo.prefills[0].endpoint(), duo.decodes[0].endpoint(), duo.decodes[1].endpoint(ready=False)])
    )
    await duo.router.complete("x")
    await duo.router.post("/v1/completions", b"{")
    await duo.router.audited(2)
    for sample, value in {
        'tandem_router_endpoints{revision="r1",role="decode",state="known"}': 2,
        'tandem_router_endpoints{revision="r1",role="decode",state="ready"}': 1,
        'tandem_router_endpoints{revision="r1",role="prefill",state="ready"}': 1,
        'tandem_router_requests_total{outcome="ok",route="/v1/completions"}': 1,
        'tandem_router_requests_total{outcome="invalid_body",route="/v1/completions"}': 1,
        'tandem_router_attempts_total{outcome="ok",role="prefill",target="p-0"}': 1,
        'tandem_router_attempts_total{outcome="ok",role="decode",target="d-0"}': 1,
        'tandem_router_request_seconds_count{route="/v1/completions"}': 2,
        "tandem_router_synced": 1,
    }.items():
        assert await duo.router.metric(sample) == value, sample
    # `le` and `quantile` aside, samples sort their labels.
    assert await duo.router.metric("process_resident_memory_bytes") > 0


async def test_the_audit_line_names_workers_and_times_and_never_the_prompt(start_duo):
    duo = await start_duo(prefills=1, decodes=1)
    await duo.router.complete("a secret question")
    [line] = await duo.router.audited()
    assert "secret" not in json.dumps(line)
    assert line["tries"] == [{"prefill": "p-0", "worker": "d-0", "outcome": "ok"}]
    assert (line["path"], line["status"], line["outcome"]) == ("/v1/completions", 200, "ok")
    assert line["seconds"] > 0


async def test_a_defect_of_the_router_is_a_500_in_the_openai_form(router, monkeypatch):
    monkeypatch.setattr("tandem.gateway.legs.leg_id", lambda _: 1 / 0)
    response, body = await router.complete("x")
    assert response.status == 500
    assert body["error"]["code"] == "router_failed"
    assert await router.metric('tandem_router_in_flight{role="agg",target="w-0"}') == 0


async def test_bodies_pass_byte_for_byte(router):
    raw = b'{ "prompt":"\\ud800", "temperature": 1.10, "seed": 12345678901234567890123 }'
    received = []

    async def keep(worker, seen):
        received.append(await seen.request.read())
        return web.json_response({})

    router.workers[0].handler = keep
    assert (await router.post("/v1/completions", raw))[0].status == 200
    assert received == [raw]
