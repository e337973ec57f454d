"""A machine with a real systemd: namespaces of its own over a throw-away copy of this machine's file system.

systemd is process 1 of new PID, mount, network, IPC, UTS and cgroup namespaces. Its root is an overlay over ``/`` whose
upper layer is memory: whatever is written there is gone with the machine, and nothing of it reaches this one. Units run
under it with everything that they demand (users, credentials, system call filters, read-only file systems); only limits
that take a cgroup controller (MemoryMax=) are not in force where this machine has not given them to cgroup2.
"""

import contextlib
import functools
import os
import select
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SYSTEMD = "/lib/systemd/systemd"
LIMIT_S = 60
_STOP_S = 20
_SOURCE, _DEPENDENCIES = "/opt/source", "/opt/dependencies"

_BOOT = r"""
set -eu
work=$1 source=$2 dependencies=$3
mount --make-rprivate /
mount -t tmpfs -o mode=0755 machine "$work"
mkdir "$work/upper" "$work/work" "$work/root"
mount -t overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" overlay "$work/root"
root=$work/root
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=0755 run "$root/run"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
mount -t tmpfs -o mode=0755 dev "$root/dev"
for device in null zero full random urandom tty; do
    : >"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
# Nothing that this machine runs by itself runs there.
rm -rf "$root"/etc/systemd/system/*.wants "$root"/etc/systemd/system/*.requires "$root/var/log/journal"
for unit in dev-hugepages.mount sys-kernel-debug.mount sys-kernel-tracing.mount systemd-udevd.service \
    systemd-udev-trigger.service systemd-modules-load.service systemd-sysctl.service systemd-remount-fs.service; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
printf 'machine\n' >"$root/etc/hostname"
: >"$root/etc/fstab"
mkdir -p "$root$4" "$root$5"
for part in ca_service vtpm certs policies deploy docs requirements pyproject.toml README.md LICENSE; do
    cp -a "$source/$part" "$root$4/"
done
mount --bind "$dependencies" "$root$5"
mount -o remount,bind,ro "$root$5"
cd "$root"
# Not chroot: who is in one may make no user namespace (PrivateUsers=).
pivot_root . mnt
umount --lazy mnt
# Credentials reach their service by propagation; in a container systemd leaves that to who made it.
mount --make-rshared /
exec env -i container=vtpm-ca-test PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=basic.target --log-target=journal --show-status=no </dev/null
"""


_PROBE = r"""
set -eu
mount --make-rprivate /
mount -t tmpfs probe "$1"
mkdir "$1/upper" "$1/work" "$1/root" "$1/sys"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
mount -t proc proc "$1/root/proc"
mount -t sysfs -o ro sysfs "$1/sys"
mount -t cgroup2 cgroup2 "$1/sys/fs/cgroup"
"""
_NAMESPACES = ("--mount", "--pid", "--fork", "--kill-child", "--ipc", "--uts", "--cgroup")


@dataclass(frozen=True)
class Done:
    """How a command ended; `shown` is what it wrote, to both streams."""

    code: int
    shown: str


def as_root() -> list[str] | None:
    """What makes a command run as root: nothing, sudo, or None if nothing does."""
    if os.geteuid() == 0:
        return []
    sudo = ["sudo", "-n"]
    tried = shutil.which("sudo") and subprocess.run([*sudo, "true"], capture_output=True, check=False)
    return sudo if tried and tried.returncode == 0 else None


@functools.cache
def missing() -> str:
    """Why such a machine cannot be made here; empty if it can."""
    root = as_root()
    if root is None:
        return "a machine of its own takes root or sudo"
    if not Path(SYSTEMD).exists() or not shutil.which("unshare") or not shutil.which("nsenter"):
        return "systemd or util-linux is not installed"
    with tempfile.TemporaryDirectory() as work:
        probe = [*root, "unshare", *_NAMESPACES, "--net", "sh", "-c", _PROBE, "probe", work]
        tried = subprocess.run(probe, capture_output=True, text=True, check=False)
    return f"a machine of its own cannot be made here: {tried.stderr}" if tried.returncode else ""


class Machine:
    """One machine, from boot to `close`."""

    def __init__(self, log: Path, *, network: bool = False) -> None:
        """Boot it; with `network` it has this machine's."""
        self._root = as_root() or []
        self._work = tempfile.mkdtemp(prefix="machine-")
        self._log = log
        namespaces = [*_NAMESPACES, *([] if network else ["--net"])]
        places = [self._work, str(ROOT), sysconfig.get_path("purelib"), _SOURCE, _DEPENDENCIES]
        with log.open("wb") as stream:
            self._unshare = subprocess.Popen(
                [*self._root, "unshare", *namespaces, "sh", "-c", _BOOT, "boot", *places],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )
        self._first = self._unshare.pid
        try:
            self._first = self._find_first()
            self._until_up()
        except BaseException:
            self.close()
            raise

    def _find_first(self) -> int:
        """Process 1 of the machine, by the number that it has here."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            for pid in _below(self._unshare.pid):
                with contextlib.suppress(OSError):
                    if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd":
                        return pid
            assert self._unshare.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.02)

    def _until_up(self) -> None:
        deadline = time.monotonic() + LIMIT_S
        while (done := self.run("systemctl is-system-running")).shown.strip() not in ("running", "degraded"):
            assert time.monotonic() < deadline, (done, self._log.read_text())
            time.sleep(0.1)

    def command(self, script: str) -> list[str]:
        """The command line that runs a script for bash in the machine, as its root."""
        enter = ["nsenter", "--target", str(self._first), "--all", "--wdns=/root"]
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        environment = ["env", "-i", path, "HOME=/root", "LANG=C.UTF-8", "SYSTEMD_PAGER=", "TERM=dumb"]
        return [*self._root, *enter, *environment, "bash", "-e", "-c", script]

    def run(self, script: str, *, limit: float = LIMIT_S) -> Done:
        """Run a script for bash there, as root."""
        done = subprocess.run(
            self.command(script),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit,
            check=False,
        )
        return Done(done.returncode, done.stdout)

    def must(self, script: str, *, limit: float = LIMIT_S) -> str:
        """The same; it has to end well. Returns what it wrote."""
        done = self.run(script, limit=limit)
        assert done.code == 0, f"{script}\n{done.shown}"
        return done.shown

    def start(self, script: str, until: str) -> subprocess.Popen[str]:
        """Start something that goes on, and wait for a line of its output with `until` in it."""
        process = subprocess.Popen(
            self.command(script), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )  # fmt: skip
        assert process.stdout is not None
        seen, deadline = "", time.monotonic() + LIMIT_S
        while until not in seen:
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            line = process.stdout.readline() if ready else ""
            assert line, f"{script}\n{seen}"
            seen += line
        return process

    def put(self, path: str, text: str, *, mode: str = "0644") -> None:
        """Write a file there."""
        subprocess.run(
            self.command(f"install -D -m {mode} /dev/stdin {path}"), input=text, text=True, check=True, timeout=LIMIT_S
        )  # fmt: skip

    def place_program(self) -> None:
        """Put this checkout's `vtpm-ca` and `vtpm` to /opt/vtpm-ca, as an installation would have them."""
        python = Path(sys.executable).resolve()
        self.must(f"{python} -m venv --without-pip /opt/vtpm-ca")
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        # The paths alone: .pth files in the dependencies' folder, the editable checkout among them, are not followed.
        site = f"/opt/vtpm-ca/lib/{version}/site-packages"
        self.put(f"{site}/machine.pth", f"{_SOURCE}\n{_DEPENDENCIES}\n")
        # Many commands run there, each a process of its own.
        self.must(f"/opt/vtpm-ca/bin/python -m compileall -q {_SOURCE}/ca_service {_SOURCE}/vtpm")
        for name, module in (("vtpm-ca", "ca_service.cli"), ("vtpm", "vtpm.cli")):
            code = f"#!/opt/vtpm-ca/bin/python\nfrom {module} import main\nmain()\n"
            self.put(f"/opt/vtpm-ca/bin/{name}", code, mode="0755")

    def close(self) -> None:
        """End everything that runs in it, and forget what it wrote."""
        # Process 1 of a PID namespace takes the others with it.
        subprocess.run([*self._root, "kill", "-KILL", str(self._first)], check=False, timeout=LIMIT_S)
        self._unshare.wait(_STOP_S)
        Path(self._work).rmdir()


def _below(pid: int) -> Sequence[int]:
    """Processes below another one."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found += [int(word), *_below(int(word))]
    return found
