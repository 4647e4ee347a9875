"""The listening socket."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from tandem_serve.cli import bind
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
