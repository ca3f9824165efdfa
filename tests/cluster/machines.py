"""Machines in miniature: each has its own processes, network, file systems, home and ssh server, on this kernel.

Ray ends every Ray process that it sees, and its launcher logs in by ssh; so a test of it needs machines that see
nothing of this one. What they share with it is what machines of one kind would have alike: the system and Python.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = Path.home()
NEEDED = ("unshare", "nsenter", "setpriv", "ip", "ssh", "ssh-keygen", "sshd", "rsync", "ray")
PATH = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
SPACES = ("--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--net", "--uts", "--ipc")
SHARED = Path("/srv/dxray")
PROJECT = HOME / "project" / "cluster"  # on the laptop
PUBLIC = "198.51.100.1"  # the laptop's other address, such as the internet is made of

# What a machine is made of, in its own mount namespace: empty folders over those that it must not share, and, put back
# below these, what it needs of them.
BOOT = """
set -eu
hold=$(mktemp -d -p /var/tmp); mount -t tmpfs hold "$hold"
for hidden in $HIDDEN; do
  mkdir -p "$hold$hidden"; mount --bind "$hidden" "$hold$hidden"; mount -t tmpfs hidden "$hidden"
done
chmod 1777 /tmp /dev/shm; chmod 700 "$HOME"
mkdir -p /run/sshd "$SHARED"
for kept in $KEPT "$FOLDER"; do
  case "$kept" in $HOME/*|/tmp/*) mkdir -p "$kept"; mount --bind "$hold$kept" "$kept";; esac
done
mount --bind "$FOLDER/shared" "$SHARED"
umount --lazy --recursive "$hold"; rmdir "$hold"
mount --bind "$FOLDER/hosts" /etc/hosts
hostname "$NAME"
ip link set lo up
cp -r "$FOLDER/home/." "$HOME"
echo ready > "$FOLDER/$NAME.ready"
exec "$@"
"""

SSHD = """
Port 22
HostKey {folder}/host_key
AuthorizedKeysFile .ssh/authorized_keys
PasswordAuthentication no
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PidFile none
"""


class Machine:
    """One of them; `run` is a command typed there."""

    def __init__(self, name: str, address: str, folder: Path, command: Sequence[str]) -> None:
        self.name, self.address = name, address
        bare = {"HOME": str(HOME), "PATH": PATH, "LANG": "C.UTF-8", "TERM": "dumb"}
        self._bare = bare
        made = {
            "NAME": name,
            "FOLDER": str(folder),
            "SHARED": str(SHARED),
            "HIDDEN": f"/tmp {HOME} /run /dev/shm /srv",
            "KEPT": " ".join(kept()),
        }
        self._log = (folder / f"{name}.log").open("wb")
        # With the tests' process, however that ends, everything on the machine ends.
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", *SPACES, "bash", "-c", BOOT, "boot", *command],
            env=bare | made,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
        wait_until((folder / f"{name}.ready").exists, 20, lambda: self._said(folder))
        # The first process there; this one is its parent.
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        self.pid = int(children.split()[0])

    def _said(self, folder: Path) -> str:
        return (folder / f"{self.name}.log").read_text()

    def _enter(self, *spaces: str) -> list[str]:
        return ["nsenter", "-t", str(self.pid), *spaces]

    def run(
        self, command: str | Sequence[str], *, folder: Path = HOME, seconds: float = 240, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """What a person's shell does with `command`; a failure shows all that was printed."""
        started = self.start(command, folder=folder)
        try:
            out, err = started.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            started.kill()
            out, err = started.communicate()
            raise AssertionError(f"{self.name}: {command} took longer than {seconds} s\n{out}\n{err}") from None
        if check and started.returncode:
            raise AssertionError(f"{self.name}: {command} ended with {started.returncode}\n{out}\n{err}")
        return subprocess.CompletedProcess(command, started.returncode, out, err)

    def start(self, command: str | Sequence[str], *, folder: Path = HOME) -> subprocess.Popen[str]:
        words = command if isinstance(command, str) else shlex.join(command)
        return subprocess.Popen(
            [*self._enter("--mount", "--uts", "--ipc", "--net", "--pid"), "bash", "-c", f"cd {folder} && {words}"],
            env=self._bare,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def processes(self, pattern: str) -> list[int]:
        """Process ids, as this machine numbers them, whose command line matches."""
        found = self.run(["pgrep", "-f", pattern], check=False).stdout.split()
        return [int(pid) for pid in found]

    def end(self) -> None:
        os.kill(self.pid, signal.SIGKILL)  # the first process of its kind: the kernel ends all others with it
        self._process.wait()
        self._log.close()


class Lab:
    """`laptop`, where a person types; `head` and `worker`, which only ssh reaches; a cable between each two."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        addresses = {"laptop": "10.77.0.1", "head": "10.77.0.2", "worker": "10.77.0.3"}
        _furnish(folder, addresses)
        serve = [shutil.which("sshd", path=PATH) or "sshd", "-D", "-e", "-f", str(folder / "sshd_config")]
        commands = {"laptop": ["sleep", "infinity"], "head": serve, "worker": serve}
        self.machines: list[Machine] = []
        try:
            for name, address in addresses.items():
                self.machines.append(Machine(name, address, folder, commands[name]))
            self.laptop, self.head, self.worker = self.machines
            self._cables()
        except BaseException:
            self.end()
            raise

    def _cables(self) -> None:
        switch = self.laptop._enter("--net")
        _ip(switch, "link add lab type bridge", "link set lab up", f"address add {self.laptop.address}/24 dev lab")
        _ip(switch, f"address add {PUBLIC}/32 dev lab")
        for machine in (self.head, self.worker):
            _ip(switch, f"link add {machine.name} type veth peer name eth0 netns {machine.pid}")
            _ip(switch, f"link set {machine.name} master lab", f"link set {machine.name} up")
            _ip(machine._enter("--net"), f"address add {machine.address}/24 dev eth0", "link set eth0 up")
            _ip(machine._enter("--net"), f"route add {PUBLIC}/32 dev eth0")

    def end(self) -> None:
        for machine in reversed(self.machines):
            machine.end()


def _ip(enter: list[str], *commands: str) -> None:
    for command in commands:
        subprocess.run([*enter, "ip", *command.split()], check=True)


def _furnish(folder: Path, addresses: dict[str, str]) -> None:
    """The files that every machine starts with: names, one ssh key, a Python that has what dxray needs."""
    (folder / "shared").mkdir()
    (folder / "hosts").write_text("127.0.0.1 localhost\n" + "".join(f"{a} {n}\n" for n, a in addresses.items()))
    (folder / "sshd_config").write_text(SSHD.format(folder=folder))
    keys = folder / "home" / ".ssh"
    keys.mkdir(parents=True, mode=0o700)
    for key in (folder / "host_key", keys / "id_ed25519"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    shutil.copy(keys / "id_ed25519.pub", keys / "authorized_keys")
    # Without a package index: what dxray needs is there already, and dxray itself is built by what is there.
    pip = folder / "home" / ".config" / "pip"
    pip.mkdir(parents=True)
    (pip / "pip.conf").write_text("[global]\nno-index = true\n[install]\nno-build-isolation = false\n")
    (folder / "shared" / "make-venv").write_text(
        f"""set -eu
{sys.executable} -m venv --without-pip "$1"
echo {sysconfig.get_path("purelib")} > "$(echo "$1"/lib/python*/site-packages)/machine.pth"
printf '#!/bin/sh\\nexec %s/bin/python -m ray.scripts.scripts "$@"\\n' "$1" > "$1/bin/ray"
chmod +x "$1/bin/ray"
"""
    )


def kept() -> list[str]:
    """Python and the project, wherever they are."""
    return sorted({str(ROOT), sys.prefix, sys.base_prefix, sysconfig.get_path("purelib")})


def wait_until(true: Callable[[], object], seconds: float, said: Callable[[], str] = str) -> None:
    """Until `true()`; else an AssertionError with what `said()` says."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s: {said()}"
        time.sleep(0.2)


def why_not() -> str | None:
    """Why there can be no such machines here."""
    if sys.platform != "linux":
        return "machines in miniature are made of Linux namespaces"
    missing = [name for name in NEEDED if not shutil.which(name, path=PATH)]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: openssh-server, rsync, iproute2; pip: 'dxray[cluster]')"
    mount = ("mount", "-t", "tmpfs", "tmpfs", "/srv")
    tried = subprocess.run(["unshare", *SPACES, *mount], capture_output=True, text=True)
    return f"this kernel or user may make no namespaces: {tried.stderr.strip()}" if tried.returncode else None


# Which ports of a machine take a connection from an address of the one where this is run.
REACHED = """
import socket, sys
from concurrent.futures import ThreadPoolExecutor
def reached(port):
    try:
        socket.create_connection((sys.argv[1], int(port)), timeout=2, source_address=(sys.argv[2], 0)).close()
        return port
    except OSError:
        return None
print(*filter(None, ThreadPoolExecutor(64).map(reached, sys.argv[3:])))
"""

# What a person edits for these machines: on the lines of cluster.yaml that are marked EDIT, and on no others.
EDITS = {
    "192.0.2.10": "10.77.0.2",
    "192.0.2.11, 192.0.2.12": "10.77.0.3",
    "ssh_user: you": "ssh_user: root",
    "python3 -m venv": f"sh {SHARED}/make-venv",
}


def edited(text: str) -> str:
    lines = text.splitlines()
    for old, new in EDITS.items():
        (place,) = [i for i, line in enumerate(lines) if old in line]
        assert "# EDIT" in lines[place], f"{lines[place]} is to be edited and does not say so"
        lines[place] = lines[place].replace(old, new)
    return "\n".join(lines) + "\n"
