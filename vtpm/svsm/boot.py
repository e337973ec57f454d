"""The story of one boot, from the key broker to the guest's TPM.

Order is the point. No guest runs before the TPM's keys are proven and certified; evidence is made from recorded
publics; a volume is never manufactured over; what is written is written in one transaction.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vtpm import client
from vtpm import tpm as tpm_room
from vtpm.errors import UsageError
from vtpm.svsm.build import Build
from vtpm.svsm.device import Processor, SvsmDevice
from vtpm.svsm.events import Narrator
from vtpm.svsm.host_channel import HostChannel
from vtpm.svsm.kbs_session import KbsSession, negotiate
from vtpm.svsm.records import (
    certificate_sizes,
    describe_keys,
    encode_certificates,
    encode_keys,
    parse_keys,
)
from vtpm.svsm.store import open_store
from vtpm.tpm import StateKeeper, Swtpm, TpmKeys, TpmRefused
from vtpm.volume import (
    CERTIFICATES,
    TpmRecord,
    Volume,
    VolumeDamaged,
    read_state_blob,
    read_tpm,
    record_tpm,
    update_tpm,
)
from vtpm.wire.enrollment import CertificatesReply
from vtpm.wire.errors import WireError
from vtpm.wire.templates import Role, name, template


@dataclass(frozen=True)
class BootConfig:
    """What the machine tells its SVSM. All of it comes from the host: none of it is believed, only followed.

    Attributes:
        disk: the block device with the volume.
        ek: EK templates; the first one names the TPM.
        iak: template of IAK and IDevID.
        enrol: whether to obtain certificates; only without them may a guest start uncertified.
        build: which SVSM this is.
    """

    disk: Path
    ek: tuple[str, ...]
    iak: str
    enrol: bool
    build: Build


class Boot:
    """One boot. `run` goes as far as the guest's start and leaves a TPM that is ready for it.

    Args:
        config: what to do.
        processor: the secure processor, at VMPL 0.
        host: the channel to the host.
        narrator: who is told.
        entropy: random bytes by number.
    """

    def __init__(
        self,
        config: BootConfig,
        processor: Processor,
        host: HostChannel,
        narrator: Narrator,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._config = config
        self._processor = processor
        self._host = host
        self._narrator = narrator
        self._entropy = entropy

    def run(self) -> "Launched":
        """Boot.

        Raises:
            VtpmError: with the rule that was broken, or what was not available. Nothing is half-used: a TPM whose
                manufacture was not recorded is made anew by the next boot.
        """
        session = self._attest()
        with self._narrator.step("volume") as step:
            volume = self._open_volume(session)
            step.detail.update(format=volume.format, created=volume.created, counter=volume.counter)
        tpm = Swtpm(entropy=self._entropy)
        try:
            keys = self._power_on(tpm, volume)
            if self._config.enrol:
                self._enrol(session, volume, tpm, keys)
        except BaseException:
            tpm.stop()
            volume.close()
            raise
        return Launched(tpm, volume)

    def _attest(self) -> KbsSession:
        with self._narrator.step("kbs") as step:
            session = self._negotiate()
            step.detail["key_id"] = session.key_id
            if session.grant is not None:
                step.detail["kbs"] = session.grant.jwk.thumbprint()
                step.detail["resource"] = session.grant.claims.resource
        return session

    def _negotiate(self) -> KbsSession:
        return negotiate(
            self._host.attest, self._processor.report, self._processor.cert_table, self._config.build
        )

    def _open_volume(self, session: KbsSession) -> Volume:
        return open_store(self._config.disk, session.secret, self._entropy)

    def _power_on(self, tpm: Swtpm, volume: Volume) -> TpmKeys:
        """Load the recorded TPM, or manufacture one where none is recorded."""
        with self._narrator.step("tpm") as step:
            record = read_tpm(volume)
            tpm.start()
            tpm.power_on(None if record is None else record.state)
            if record is None:
                keys = self._manufacture(tpm, volume)
            else:
                keys = _recorded_keys(record)
                tpm_room.verify_loaded(tpm, keys)
                tpm_room.repair_persistent(tpm, keys)
            step.detail.update(
                origin=tpm.origin, ek_name=name(keys.eks[0].public).hex(), keys=describe_keys(keys)
            )
        return keys

    def _manufacture(self, tpm: Swtpm, volume: Volume) -> TpmKeys:
        config = self._config
        try:
            eks = tuple(template(Role.EK, ek) for ek in config.ek)
            iak, idevid = template(Role.IAK, config.iak), template(Role.IDEVID, config.iak)
        except WireError as error:
            raise UsageError(str(error)) from error
        keys = tpm_room.manufacture(tpm, eks, iak, idevid)
        record_tpm(volume, TpmRecord(tpm.take_state(), encode_keys(keys)))
        return keys

    def _device(self, session: KbsSession, volume: Volume, tpm: Swtpm, keys: TpmKeys) -> "SvsmDevice":
        return SvsmDevice(session, volume, tpm, keys, self._processor)

    def _enrol(self, session: KbsSession, volume: Volume, tpm: Swtpm, keys: TpmKeys) -> None:
        device = self._device(session, volume, tpm, keys)
        stored = volume.read(CERTIFICATES)
        with self._narrator.step("enrol") as step:
            reply = client.enroll(self._host, device, known=stored is not None)
            client.check_certificates(reply, eks=keys.eks, iak=keys.iak, idevid=keys.idevid)
            step.detail.update(decision=reply.decision_id, **certificate_sizes(reply))
        certificates = encode_certificates(reply)
        with self._narrator.step("store") as step:
            written, refused = _write_certificates(tpm, keys, reply)
            if written or stored != certificates:
                update_tpm(volume, tpm.take_state(), certificates)
            step.detail.update(written=_indices(written), refused=_indices(refused), counter=volume.counter)


def _recorded_keys(record: TpmRecord) -> TpmKeys:
    try:
        return parse_keys(record.keys)
    except WireError as error:
        raise VolumeDamaged(f"the TPM's recorded keys cannot be read: {error}") from error


def _write_certificates(tpm: Swtpm, keys: TpmKeys, reply: CertificatesReply) -> tuple[list[int], list[int]]:
    """Put each certificate into the NV index of its key's template, unless it is there already.

    A guest may have filled the TPM's NV memory. That is its own loss and fails no boot: the volume keeps the
    certificates too, and the next boot tries again.

    Returns:
        The indices that were written, and those for which the TPM had no room.
    """
    roles = (*((Role.EK, ek) for ek in keys.eks), (Role.IAK, keys.iak), (Role.IDEVID, keys.idevid))
    entries = (*reply.ek, reply.iak, reply.idevid)
    written, refused = [], []
    for (role, key), entry in zip(roles, entries, strict=True):
        index = template(role, key.template).nv_index
        try:
            if tpm_room.write_certificate(tpm, index, entry.certificate):
                written.append(index)
        except TpmRefused:
            refused.append(index)
    return written, refused


def _indices(indices: list[int]) -> str:
    return ",".join(f"{index:08x}" for index in indices)


class Launched:
    """A TPM that is ready for the guest, and the volume that keeps its state.

    `persist` writes the TPM's permanent state if a command changed it; to be called after each command of the
    guest, before it sees the response.
    """

    def __init__(self, tpm: Swtpm, volume: Volume) -> None:
        self.tpm = tpm
        self._volume = volume
        self.persist = StateKeeper(tpm, self._save, read_state_blob(volume) or b"")

    def _save(self, state: bytes) -> None:
        update_tpm(self._volume, state)

    def power_off(self) -> None:
        """Shut the TPM down in order, keep its last state, and let go of both."""
        try:
            self.persist.keep(self.tpm.take_state())
        finally:
            self.tpm.stop()
            self._volume.close()
