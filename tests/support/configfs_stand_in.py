"""Stand-ins for Linux's configfs-tsm below an SVSM: one in memory, and one of real files.

Both keep what the kernel keeps: a write is a whole value and counts the generation up, a read of a blob makes the
report anew if something was written since, and an entry goes with its attributes. ``svsm`` is called with nonce, GUID
and manifest version, and gives report, manifest and certificate table; an `OSError` that it raises reaches the reader.
"""

import contextlib
import errno
import os
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

from vtpm.guest import ConfigfsTsm
from vtpm.wire.amd_evidence import ServicesManifest
from vtpm.wire.runtime_data import KbsStatement
from vtpm.wire.services import VTPM_SERVICE, services_report_data

Svsm = Callable[[bytes, uuid.UUID, int], tuple[bytes, bytes, bytes]]

WRITABLE = ("service_provider", "service_guid", "service_manifest_version", "inblob", "privlevel")
READABLE = ("provider", "generation", "privlevel_floor", "outblob", "manifestblob", "auxblob")
BLOBS = {"outblob": 0, "manifestblob": 1, "auxblob": 2}
_LIMIT_S = 20
_INBLOB = 64
_GENERATIONS = 1 << 64


def svsm_of(launch, ek: bytes, kbs: KbsStatement | None = None) -> Svsm:
    """An SVSM whose vTPM has this EK, on a simulated platform; by AMD 58019, chapter 7."""

    def answer(nonce: bytes, service: uuid.UUID, version: int) -> tuple[bytes, bytes, bytes]:
        if version or service not in (VTPM_SERVICE, uuid.UUID(int=0)):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        manifest = ek if service == VTPM_SERVICE else ServicesManifest(ek, kbs).pack()
        return launch.report(services_report_data(nonce, manifest), 0), manifest, launch.cert_table()

    return answer


def nothing() -> tuple[bytes, bytes, bytes]:
    return bytes(1184), b"manifest", b""


class Entry:
    """An entry of configfs-tsm, without the files."""

    def __init__(self, svsm: Svsm, generation: int = 0, provider: bytes = b"sev_guest") -> None:
        self._svsm = svsm
        self.generation = generation
        self.provider = provider
        self._values: dict[str, bytes] = {}
        self._made_at: int | None = None
        self._blobs = (b"", b"", b"")

    def write(self, attribute: str, data: bytes) -> None:
        if attribute == "inblob" and len(data) > _INBLOB:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        self._values[attribute] = data
        self.generation = (self.generation + 1) % _GENERATIONS

    def read(self, attribute: str) -> bytes:
        if attribute == "provider":
            return self.provider + b"\n"
        if attribute == "generation":
            return b"%d\n" % self.generation
        if attribute == "privlevel_floor":
            return b"2\n"
        if self._made_at != self.generation:
            self._blobs = self._attested()
            self._made_at = self.generation
        return self._blobs[BLOBS[attribute]]

    def _attested(self) -> tuple[bytes, bytes, bytes]:
        nonce = self._values.get("inblob", b"")
        if len(nonce) != _INBLOB or self._values.get("service_provider") != b"svsm":
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        service = uuid.UUID(self._values.get("service_guid", b"00" * 16).decode())
        return self._svsm(nonce, service, int(self._values.get("service_manifest_version", b"0")))


class MemoryTsm:
    """configfs-tsm in memory. `before` is called before each operation with its name and attribute, and may raise."""

    def __init__(
        self,
        svsm: Svsm,
        before: Callable[[str, str], None] = lambda *_: None,
        **options: object,
    ) -> None:
        self._new = lambda: Entry(svsm, **options)
        self._before = before
        self.entries: dict[str, Entry] = {}
        self.calls: list[tuple[str, str, bytes]] = []
        self.made: list[str] = []

    def make(self, entry: str) -> None:
        self._before("make", "")
        if entry in self.entries:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        self.entries[entry] = self._new()
        self.made.append(entry)
        self._before("made", "")

    def write(self, entry: str, attribute: str, data: bytes) -> None:
        self._before("write", attribute)
        self.calls.append(("write", attribute, data))
        self.entries[entry].write(attribute, data)

    def read(self, entry: str, attribute: str, most: int) -> bytes:
        self._before("read", attribute)
        self.calls.append(("read", attribute, b""))
        return self.entries[entry].read(attribute)[:most]

    def remove(self, entry: str) -> None:
        self._before("remove", "")
        if entry not in self.entries:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        del self.entries[entry]


class FifoTsm(ConfigfsTsm):
    """configfs-tsm whose attributes are FIFOs, so that a thread answers what real system calls write and read.

    Only mkdir and rmdir are helped: what the kernel does in them, an ordinary directory does not. What a client has
    written is in the pipe when its call returns, so a read that begins later finds it; and a FIFO serves one reader,
    for the next there is a new one. Nothing is polled.
    """

    def __init__(self, reports: Path, svsm: Svsm) -> None:
        super().__init__(reports)
        self._place = reports
        self._svsm = svsm
        self._served: dict[str, _Served] = {}
        self.made: list[str] = []

    def make(self, entry: str) -> None:
        super().make(entry)
        self._served[entry] = _Served(self._place / entry, Entry(self._svsm))
        self.made.append(entry)

    def remove(self, entry: str) -> None:
        self._served.pop(entry).close()
        super().remove(entry)


class _Served:
    """The FIFOs of an entry, and the threads behind those that are read."""

    def __init__(self, folder: Path, entry: Entry) -> None:
        self._folder = folder
        self._entry = entry
        self._lock = threading.Lock()
        self._closing = False
        self._pipes = {}
        for attribute in WRITABLE:
            os.mkfifo(folder / attribute)
            # Both ends, so that no open of a client waits for one of ours.
            self._pipes[attribute] = os.open(folder / attribute, os.O_RDWR | os.O_NONBLOCK)
        for attribute in READABLE:
            os.mkfifo(folder / attribute)
        self._threads = [threading.Thread(target=self._serve, args=(name,), daemon=True) for name in READABLE]
        for thread in self._threads:
            thread.start()

    def _serve(self, attribute: str) -> None:
        path = self._folder / attribute
        while True:
            descriptor = os.open(path, os.O_WRONLY)  # waits for a reader
            try:
                if self._closing:
                    return
                os.mkfifo(path.with_suffix(".next"))
                path.with_suffix(".next").rename(path)
                with self._lock:
                    self._take_writes()
                    answer = self._entry.read(attribute)
                # A reader that a signal has ended takes nothing any more.
                with contextlib.suppress(BrokenPipeError):
                    os.write(descriptor, answer)
            finally:
                os.close(descriptor)

    def _take_writes(self) -> None:
        for attribute, pipe in self._pipes.items():
            try:
                data = os.read(pipe, 4096)
            except BlockingIOError:
                continue
            self._entry.write(attribute, data)

    def close(self) -> None:
        self._closing = True
        for name, thread in zip(READABLE, self._threads, strict=True):
            descriptor = os.open(self._folder / name, os.O_RDONLY | os.O_NONBLOCK)
            thread.join(_LIMIT_S)
            os.close(descriptor)
            assert not thread.is_alive(), name
        for pipe in self._pipes.values():
            os.close(pipe)
        for path in self._folder.iterdir():
            path.unlink()
