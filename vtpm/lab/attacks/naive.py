"""SVSMs that leave out a rule: what "off" means for the checks that are not the CA's.

Each is the real boot with one step replaced, here and nowhere else: no build, option or file of the SVSM leads to
them. Rules that are not left out are the SVSM's own code.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vtpm.svsm.boot import Boot, BootConfig
from vtpm.svsm.device import Processor, SvsmDevice
from vtpm.svsm.events import Narrator
from vtpm.svsm.host_channel import HostChannel
from vtpm.svsm.kbs_session import KbsSession, demand, negotiate
from vtpm.svsm.store import open_store
from vtpm.tpm import Swtpm, TpmKeys
from vtpm.volume import Volume, VolumeMissing
from vtpm.wire.statements import NO_STORE_FORMAT, StoreStatement


class LabBoot(Boot):
    """The SVSM's boot, whose exchange with the key broker leaves out the rules `off`.

    Args:
        config: as for `Boot`.
        processor: likewise.
        host: likewise.
        narrator: likewise.
        off: rules that are left out.
    """

    def __init__(
        self,
        config: BootConfig,
        processor: Processor,
        host: HostChannel,
        narrator: Narrator,
        *,
        off: frozenset[str],
    ) -> None:
        super().__init__(config, processor, host, narrator)
        self._off = off

    def _demand(self, rule: str, sentence: str, *, holds: bool) -> None:
        if rule not in self._off:
            demand(rule, sentence, holds=holds)

    def _negotiate(self) -> KbsSession:
        certificates: Callable[[], bytes] = self._processor.cert_table
        return negotiate(
            self._host.attest, self._processor.report, certificates, self._config.build, demand=self._demand
        )


def key_beside(disk: Path) -> Path:
    """Where an image brings its own key along; see `KeyBesideBoot`."""
    return disk.with_suffix(".key")


class KeyBesideBoot(LabBoot):
    """Without `store.key`: opens the volume with the key that lies beside it, not with the KBS's."""

    def _open_volume(self, session: KbsSession) -> Volume:
        if "store.key" not in self._off:
            return super()._open_volume(session)
        disk = self._config.disk
        return open_store(disk, key_beside(disk).read_bytes(), self._entropy)


@dataclass
class _Memory:
    """A volume that ends with the boot."""

    files: dict[int, bytes] = field(default_factory=dict)
    format: str = NO_STORE_FORMAT
    salt: bytes = b""
    root: bytes = b""
    counter: int = 0
    created: str = "this-boot"

    def inodes(self) -> tuple[int, ...]:
        return tuple(sorted(self.files))

    def read(self, inode: int) -> bytes | None:
        return self.files.get(inode)

    def transaction(self, changes: Mapping[int, bytes | None]) -> None:
        for inode, data in changes.items():
            if data is None:
                self.files.pop(inode, None)
            else:
                self.files[inode] = data

    def close(self) -> None:
        pass


class _VolatileDevice(SvsmDevice):
    """Says truly that its TPM's state dies with this boot."""

    def store(self) -> StoreStatement:
        """Where the TPM's state lives."""
        return StoreStatement("volatile", NO_STORE_FORMAT, b"", "this-boot", self._key_id, 0, b"")


class VolatileBoot(LabBoot):
    """Without `store.missing`: a machine without a disk manufactures a TPM in memory, as SVSMs without CocoonFs do."""

    def _open_volume(self, session: KbsSession) -> Volume:
        try:
            return super()._open_volume(session)
        except VolumeMissing:
            if "store.missing" not in self._off:
                raise
            return _Memory()

    def _device(self, session: KbsSession, volume: Volume, tpm: Swtpm, keys: TpmKeys) -> SvsmDevice:
        kind = _VolatileDevice if isinstance(volume, _Memory) else SvsmDevice
        return kind(session, volume, tpm, keys, self._processor)
