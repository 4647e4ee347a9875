"""Real processes under the supervisor: probes, restarts, giving up, and an end that leaves nothing.

Every test uses the fixture `stub`, which fails a test that leaves a process behind.
"""

from __future__ import annotations

import asyncio
import json
import time

import psutil
import pytest

from tandem.local.probe import Loading
from tandem.local.supervisor import MAX_GRACE_SECONDS, UnitFailed
from tandem.local.unit import Phase

LIVENESS = {"httpGet": {"path": "/livez", "port": "http"}, "periodSeconds": 0.05, "failureThreshold": 2}
STARTUP = {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 0.1, "failureThreshold": 8}
PATIENT = STARTUP | {"failureThreshold": 300}


def ready_in_file(plan) -> list[bool]:
    return [each["ready"] for each in json.loads(plan.endpoints_file.read_text())["endpoints"]]


async def test_a_worker_becomes_ready_is_listed_and_ends_with_the_supervisor(stub):
    plan = stub.plan()
    async with stub.supervisor(plan) as supervisor:
        assert ready_in_file(plan) == [False]
        await supervisor.until_ready()
        assert ready_in_file(plan) == [True]
        (pid,) = stub.pids()
        assert psutil.pid_exists(pid)
    assert not psutil.pid_exists(pid)
    phases = list(dict.fromkeys(status.phase for status in stub.seen))
    assert phases == [Phase.STARTING, Phase.READY, Phase.STOPPED]


async def test_a_worker_that_ends_after_it_was_ready_is_started_again(stub):
    plan = stub.plan()
    async with stub.supervisor(plan) as supervisor:
        await supervisor.until_ready()
        stub.set("exit", "7")
        await stub.until(lambda: supervisor.statuses[0].restarts == 1 and supervisor.statuses[0].ready)
        assert supervisor.statuses[0].cause.exit.code == 7
        assert ready_in_file(plan) == [True]
        assert len(stub.pids()) == 2
    assert any(status.phase is Phase.RESTARTING and "exit code 7" in status.trouble for status in stub.seen)


async def test_a_worker_that_fails_its_first_start_gets_a_second(stub):
    plan = stub.plan("--fail-first", "1", "--message", "once only")
    async with stub.supervisor(plan) as supervisor:
        await supervisor.until_ready()
        assert supervisor.statuses[0].restarts == 1


async def test_a_worker_that_cannot_start_is_given_up_with_its_exit_code_and_words(stub):
    plan = stub.plan("--fail-first", "99", "--message", "error: no such model")
    async with stub.supervisor(plan) as supervisor:
        with pytest.raises(UnitFailed) as caught:
            await supervisor.until_ready()
    cause = caught.value.cause
    assert (cause.unit, cause.exit.code, cause.attempts) == ("demo-agg-r1-0/server", 3, 2)
    assert cause.reason == "ended before it was ready (exit code 3)"
    assert cause.tail == ("error: no such model",)
    assert caught.value.log.read_text() == "error: no such model\n" * 2


async def test_a_program_that_cannot_be_executed_is_given_up_with_the_reason(stub):
    plan = stub.plan(command=[str(stub.state)])
    async with stub.supervisor(plan) as supervisor:
        with pytest.raises(UnitFailed) as caught:
            await supervisor.until_ready()
    assert caught.value.cause.exit.code == 127
    assert "Permission denied" in caught.value.cause.tail[0]


async def test_a_worker_that_says_it_is_not_ready_leaves_the_list_and_lives(stub):
    plan = stub.plan()
    async with stub.supervisor(plan) as supervisor:
        await supervisor.until_ready()
        stub.set("down")
        await stub.until(lambda: ready_in_file(plan) == [False])
        assert supervisor.statuses[0].phase is Phase.NOT_READY
        assert "HTTP 503" in supervisor.statuses[0].trouble
        stub.clear("down")
        await stub.until(lambda: ready_in_file(plan) == [True])
        assert len(stub.pids()) == 1


async def test_a_worker_that_fails_its_liveness_probe_is_replaced(stub):
    plan = stub.plan(livenessProbe=LIVENESS, startupProbe=PATIENT)
    async with stub.supervisor(plan) as supervisor:
        await supervisor.until_ready()
        stub.set("dead")
        await stub.until(lambda: len(stub.pids()) == 2)
        stub.clear("dead")
        await stub.until(lambda: supervisor.statuses[0].ready)
        first, _ = stub.pids()
        assert not psutil.pid_exists(first)
        assert "liveness probe failed" in supervisor.statuses[0].cause.reason


async def test_loading_progress_is_seen_and_a_start_that_takes_too_long_is_given_up(stub):
    stub.set("down")
    stub.quick_seconds = 0.1
    plan = stub.plan(startupProbe=STARTUP | {"failureThreshold": 50})
    async with stub.supervisor(plan) as supervisor:
        with pytest.raises(UnitFailed, match=r"startup probe failed for 5 s: .*HTTP 503") as caught:
            await supervisor.until_ready()
    assert caught.value.cause.attempts == 1
    assert any(status.loading == Loading(1, 4) for status in stub.seen)


async def test_a_worker_that_ends_again_and_again_is_given_up_while_running(stub):
    plan = stub.plan()
    async with stub.supervisor(plan) as supervisor:
        await supervisor.until_ready()
        plan.endpoints_file.unlink()  # the list is written again by the next change
        for pid in stub.pids():
            psutil.Process(pid).kill()
        await stub.until(lambda: supervisor.statuses[0].restarts == 1 and supervisor.statuses[0].ready)
        assert supervisor.statuses[0].cause.exit.code == 137
        stub.set("down")  # from now on it never becomes ready
        for _ in range(3):
            count = len(stub.pids())
            psutil.Process(stub.pids()[-1]).kill()
            await stub.until(
                lambda count=count: len(stub.pids()) > count or supervisor.statuses[0].phase is Phase.FAILED
            )
        with pytest.raises(UnitFailed, match="SIGKILL"):
            await supervisor.until_failed()


async def test_what_a_worker_started_ends_with_it(stub):
    plan = stub.plan("--child")
    async with stub.supervisor(plan) as supervisor:
        await supervisor.until_ready()
        (child,) = stub.pids("children")
        assert psutil.pid_exists(child)
        psutil.Process(stub.pids()[0]).kill()
        await stub.until(lambda: len(stub.pids("children")) == 2 and supervisor.statuses[0].ready)
        assert not psutil.pid_exists(child)
    assert not any(psutil.pid_exists(pid) for pid in stub.pids("children"))


async def test_a_worker_that_ignores_sigterm_is_killed_after_its_grace(stub):
    plan = stub.plan("--ignore-sigterm", spec={"terminationGracePeriodSeconds": 1})
    async with stub.supervisor(plan) as supervisor:
        await supervisor.until_ready()
        began = time.monotonic()
    assert 0.9 < time.monotonic() - began < MAX_GRACE_SECONDS


async def test_a_second_interruption_kills_at_once(stub):
    plan = stub.plan("--ignore-sigterm", "--child")

    async def run() -> None:
        async with stub.supervisor(plan) as supervisor:
            await supervisor.until_ready()
            await supervisor.until_failed()

    running = asyncio.create_task(run())
    await stub.until(lambda: any(status.ready for status in stub.seen))
    running.cancel()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await asyncio.shield(running)
    began = time.monotonic()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert time.monotonic() - began < MAX_GRACE_SECONDS
    assert not any(psutil.pid_exists(pid) for pid in stub.pids() + stub.pids("children"))


async def test_cancelling_during_the_start_leaves_nothing(stub):
    for delay in (0.0, 0.01, 0.05, 0.1, 0.3):

        async def run() -> None:
            async with stub.supervisor(stub.plan("--child")) as supervisor:
                await supervisor.until_ready()
                await supervisor.until_failed()

        running = asyncio.create_task(run())
        await asyncio.sleep(delay)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_a_directory_that_does_not_exist_is_an_error_not_a_wait(stub):
    plan = stub.plan(workingDir=str(stub.state / "absent"))
    async with stub.supervisor(plan) as supervisor:
        with pytest.raises(OSError, match="absent"):
            async with asyncio.timeout(10):
                await supervisor.until_ready()
