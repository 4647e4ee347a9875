"""The node's machine: a process tree with its own process ids, mounts and network on this computer.

Everything of the node (container runtime, kubelet, pods) lives below one first process. When that ends, the kernel
ends all the rest and takes its mounts, interfaces and packet filter rules with it: nothing is left to tidy up, and
nothing of the host's own is touched. One link leads in, so that tests reach pods and Services by address.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from ipaddress import IPv4Network, ip_network
from pathlib import Path

from tests.cluster.errors import RigError, Unavailable
from tests.cluster.identity import ProcessIdentity
from tests.cluster.packages import find_program
from tests.cluster.processes import Process, Processes, wait_until
from tests.cluster.rundir import RunDirectory

HOST_LINK = "tandem0"
HOST_ADDRESS = "10.244.255.1"
MACHINE_ADDRESS = "10.244.255.2"
LINK_PREFIX = 30
NODE_ADDRESS = "10.244.0.1"
NODE_POD_CIDR = "10.244.0.0/24"
# kubelet sets these for the whole computer. Inside the machine it gets files in their place.
SHIELDED_SETTINGS = ("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops")

_SETUP = """
set -eu
mount -t tmpfs tmpfs /run
mkdir -p /run/netns /run/settings /var/lib/cni
mount -t tmpfs tmpfs /var/lib/cni
for setting in {settings}; do
    copy=/run/settings/$(echo "$setting" | tr / _)
    cat "/proc/sys/$setting" > "$copy"
    mount --bind "$copy" "/proc/sys/$setting"
done
mount --make-rshared /
echo 1 > /proc/sys/net/ipv4/ip_forward
ip link set lo up
ip address add {node_address}/32 dev lo
touch {ready}
exec {pause}
"""


class Machine:
    """The namespaces of one node; `start`, then run programs inside with `command`."""

    def __init__(self, *, processes: Processes, directory: RunDirectory, pause: Path) -> None:
        self._processes = processes
        self._ready = directory.path / "machine-ready"
        self._pause = pause
        self._first_pid = 0

    def start(self, *, routes: Sequence[str]) -> None:
        """Makes the machine and leads the host's traffic for `routes` (CIDRs) into it. Raises Unavailable, RigError."""
        script = _SETUP.format(
            settings=" ".join(SHIELDED_SETTINGS), node_address=NODE_ADDRESS, ready=self._ready, pause=self._pause
        )
        unshare = ["unshare", "--mount", "--pid", "--net", "--ipc", "--fork", "--kill-child=SIGKILL", "--mount-proc"]
        process = self._processes.start("machine", [*unshare, "sh", "-c", script])
        try:
            wait_until(self._ready.exists, what="the node's namespaces are set up", timeout=20, process=process)
        except RigError as error:
            raise Unavailable(f"this machine allows no namespaces of its own: {error}") from error
        self._first_pid = _only_child(process)
        # It is gone only when every process of the machine is.
        self._processes.adopt(ProcessIdentity.of(self._first_pid))
        self._connect(routes)

    def command(self, command: Sequence[str]) -> list[str]:
        """The command line that runs `command` inside. It ends with the process started from it."""
        enter = ["nsenter", f"--target={self._first_pid}", "--mount", "--pid", "--net", "--ipc", "--"]
        return [*enter, "setpriv", "--pdeathsig", "KILL", "--", *command]

    def _connect(self, routes: Sequence[str]) -> None:
        inside = self.command(["ip"])
        host = [_ip_program()]
        peer = ["peer", "name", "uplink", "netns", str(self._first_pid)]
        run([*host, "link", "add", HOST_LINK, "type", "veth", *peer])
        run([*host, "address", "add", f"{HOST_ADDRESS}/{LINK_PREFIX}", "dev", HOST_LINK])
        run([*host, "link", "set", HOST_LINK, "up"])
        run([*inside, "address", "add", f"{MACHINE_ADDRESS}/{LINK_PREFIX}", "dev", "uplink"])
        run([*inside, "link", "set", "uplink", "up"])
        for route in routes:
            run([*host, "route", "add", route, "via", MACHINE_ADDRESS])


def check_addresses_are_free(networks: Sequence[str]) -> None:
    """Raises Unavailable when the host has a route into any of these networks: something else uses them."""
    wanted = [ip_network(network) for network in networks]
    shown = subprocess.run([_ip_program(), "-json", "route", "show"], capture_output=True, text=True, check=True)
    for route in json.loads(shown.stdout or "[]"):
        if route["dst"] == "default":
            continue
        used = IPv4Network(route["dst"], strict=False)
        if any(used.overlaps(network) for network in wanted):
            raise Unavailable(f"the address range {used} is in use on this machine (interface {route.get('dev')})")


def remove_link() -> None:
    """Takes the host's end of the link away, with its routes. The kernel would do so too, but in its own time."""
    subprocess.run([_ip_program(), "link", "delete", HOST_LINK], capture_output=True, check=False)


def run(command: Sequence[str], *, stdin: str | None = None) -> str:
    """Runs a short command and returns its output. Raises RigError with its stderr."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RigError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr.strip()}")
    return done.stdout


def _ip_program() -> str:
    program = find_program("ip")
    if program is None:
        raise Unavailable("ip is missing (Debian package iproute2)")
    return program


def _only_child(process: Process) -> int:
    """unshare stays outside as the parent; the first process inside is its one child."""
    pid = process.identity.pid
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
