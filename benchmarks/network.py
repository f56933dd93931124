"""Several "machines" on one host: network namespaces of Linux, joined by veth pairs and a bridge. Needs root."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

INTERFACE = "eth0"  # of each machine
CLONE_NEWNET = 0x40000000  # of Linux's sched.h


class Network:
    """Machines 1 to n, with the addresses 10.77.0.1 to 10.77.0.n; they see one another and nothing else."""

    def __init__(self, machines: int) -> None:
        self.bridge = f"rl{os.getpid()}"
        self.names = [f"{self.bridge}-{number}" for number in range(1, machines + 1)]

    def __enter__(self) -> Network:
        try:
            _run("ip", "link", "add", self.bridge, "type", "bridge")
            _run("ip", "link", "set", self.bridge, "up")
            for number, name in enumerate(self.names, 1):
                outer = self.outer(number)
                _run("ip", "netns", "add", name)
                _run("ip", "link", "add", outer, "type", "veth", "peer", "name", INTERFACE, "netns", name)
                _run("ip", "link", "set", outer, "master", self.bridge, "up")
                for command in (
                    ("addr", "add", f"{address(number)}/24", "dev", INTERFACE),
                    ("link", "set", INTERFACE, "up"),
                    ("link", "set", "lo", "up"),
                ):
                    _run("ip", "-n", name, *command)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for number, name in enumerate(self.names, 1):
            # A namespace goes when its last process does, and until then would keep its cable's name.
            subprocess.run(["ip", "link", "delete", self.outer(number)], capture_output=True)
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)
        subprocess.run(["ip", "link", "delete", self.bridge], capture_output=True)

    def outer(self, number: int) -> str:
        """The host's end of a machine's cable."""
        return f"{self.bridge}.{number}"

    def link(self, number: int, state: str) -> None:
        """Plug a machine's cable: `up` or `down`."""
        _run("ip", "link", "set", self.outer(number), state)

    def limit(self, megabits: float) -> None:
        """Give every machine's sending a rate, by tc's token bucket: not every kernel has netem, for delays."""
        for name in self.names:
            shape = ("tbf", "rate", f"{megabits}mbit", "burst", "32kb", "latency", "1s")
            _run("ip", "netns", "exec", name, "tc", "qdisc", "replace", "dev", INTERFACE, "root", *shape)

    def enter(self, number: int) -> None:
        """Make this process, and those that it starts, one of a machine's."""
        with Path("/run/netns", self.names[number - 1]).open() as namespace:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(namespace.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        os.environ["GLOO_SOCKET_IFNAME"] = INTERFACE


def address(number: int) -> str:
    return f"10.77.0.{number}"


def permitted() -> bool:
    """Whether this process may make namespaces and veth pairs."""
    try:
        with Network(1):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
