"""The listening socket."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from tandem_serve.cli import bind
from tandem_serve.problems import StartError
from tests.unit.serve import tiny


async def test_what_is_written_is_sent_at_once_and_not_when_the_last_packet_was_acknowledged() -> None:
    seen: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def accepted(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    with bind(tiny.settings(Path("x"))) as sock:
        async with await asyncio.start_server(accepted, sock=sock):
            _, writer = await asyncio.open_connection(*sock.getsockname())
            assert await asyncio.wait_for(seen, 30) == 1
            writer.close()


def test_an_address_of_another_machine_is_said_to_be_one() -> None:
    with pytest.raises(StartError, match="give an address of this machine"):
        bind(replace(tiny.settings(Path("x")), host="192.0.2.1"))


def test_a_port_that_is_taken_is_said_to_be() -> None:
    with bind(tiny.settings(Path("x"))) as taken, pytest.raises(StartError, match="choose a free port"):
        bind(replace(tiny.settings(Path("x")), port=taken.getsockname()[1]))
