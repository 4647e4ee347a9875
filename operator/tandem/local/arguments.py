"""A container's command line on this machine: program found, variables expanded, paths and ports rewritten.

Ports: the value of an argument whose name ends in `port` (`--port 8000`, `--port=8000`) and of a variable whose name
ends in `PORT` is replaced when it is a port that the container declares. Addresses: a `--host` that means all
interfaces becomes the loopback address, so that nothing is served to the network.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from tandem.local.mounts import Mounts
from tandem.local.spec import LOOPBACK

_PORT_FLAG = re.compile(r"^--?[a-z][a-z0-9-]*$")
_ALL_INTERFACES = frozenset({"0.0.0.0", "::", "[::]", "*"})


class PortMap:
    """Ports of one container by the ports they have on this machine, and which of them were found in its command."""

    def __init__(self, ports: Mapping[int, int]) -> None:
        self.ports = ports
        self.moved: set[int] = set()

    def translate(self, value: str) -> str:
        """The port on this machine when `value` is a declared port, else `value`."""
        port = int(value) if value.isdecimal() else None
        if port is None or port not in self.ports:
            return value
        self.moved.add(port)
        return str(self.ports[port])


def localize_arguments(argv: Sequence[str], *, mounts: Mounts, ports: PortMap) -> tuple[str, ...]:
    """`argv` (already expanded) as it is started on this machine."""
    result: list[str] = []
    flag = ""
    for argument in argv:
        name, separator, value = argument.partition("=")
        if separator and _is_port_name(name):
            result.append(f"{name}={ports.translate(value)}")
        elif separator and name == "--host" and value in _ALL_INTERFACES:
            result.append(f"--host={LOOPBACK}")
        elif _is_port_name(flag):
            result.append(ports.translate(argument))
        elif flag == "--host" and argument in _ALL_INTERFACES:
            result.append(LOOPBACK)
        else:
            result.append(mounts.rewrite(argument))
        flag = argument
    return tuple(result)


def localize_environment(variables: Mapping[str, str], *, mounts: Mounts, ports: PortMap) -> dict[str, str]:
    """The container's own variables as they are on this machine."""
    return {
        name: ports.translate(value) if name.upper().endswith("PORT") else mounts.rewrite(value)
        for name, value in variables.items()
    }


def follow_endpoints_file(argv: Sequence[str], endpoints_file: str) -> tuple[str, ...]:
    """A router's command line that reads its workers from a file where it would watch a namespace.

    Nobody keeps a list of routers here, so it need not wait for such lists before it ends.
    """
    result = list(argv)
    namespace = result.index("--namespace")
    result[namespace : namespace + 2] = ["--endpoints-file", endpoints_file]
    if "--drain-seconds" in result:
        result[result.index("--drain-seconds") + 1] = "0"
    return tuple(result)


def _is_port_name(flag: str) -> bool:
    return flag.endswith("port") and _PORT_FLAG.match(flag) is not None
