"""The SVSM as the enrolment client's device: evidence of itself, and proofs by its TPM."""

from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from vtpm import tpm as tpm_room
from vtpm.svsm.errors import BootRefused
from vtpm.svsm.kbs_session import KbsSession
from vtpm.tpm import Swtpm, TpmKeys
from vtpm.volume import Volume
from vtpm.wire.enrollment import Certify, Challenge, Evidence
from vtpm.wire.jwk import EcJwk
from vtpm.wire.runtime_data import (
    PROFILE,
    KbsStatement,
    RuntimeData,
    StoreStatement,
    TpmStatement,
    certify_qualifier,
    report_data,
)


class Processor(Protocol):
    """What the SVSM asks of the secure processor."""

    def report(self, report_data: bytes, vmpl: int = 0) -> bytes:
        """An attestation report over 64 bytes of REPORT_DATA, asked for at `vmpl`."""

    def cert_table(self) -> bytes:
        """The certificates that verify it, as AMD's GUID table."""


class SvsmDevice:
    """This SVSM as the enrolment client sees it."""

    def __init__(
        self, session: KbsSession, volume: Volume, tpm: Swtpm, keys: TpmKeys, processor: Processor
    ) -> None:
        if session.grant is None:
            raise BootRefused(
                "the KBS made no grant, so there is nothing to show the CA",
                rule="svsm.grant-present",
                remedy="Use a KBS that makes grants, or boot with --no-ca.",
            )
        self._grant = session.grant
        self._key_id = session.key_id
        self._token = session.token
        self._volume = volume
        self._tpm = tpm
        self._keys = keys
        self._processor = processor
        self._session_key = ec.generate_private_key(ec.SECP256R1())

    def evidence(self, aud: str, nonce: str) -> Evidence:
        """The whole transcript of this boot, and a report that vouches for it."""
        properties = tpm_room.properties(self._tpm)
        data = RuntimeData(
            aud=aud,
            nonce=nonce,
            session=EcJwk.from_key(self._session_key.public_key()),
            tpm=TpmStatement(
                eks=self._keys.eks,
                iak=self._keys.iak,
                idevid=self._keys.idevid,
                manufacturer=properties.manufacturer,
                vendor=properties.vendor,
                firmware=properties.firmware,
                spec=properties.spec,
                origin=self._tpm.origin,
            ),
            kbs=KbsStatement(self._grant.jwk, self._grant.compact),
            store=self.store(),
        ).canonical()
        return Evidence(
            PROFILE,
            data,
            self._processor.report(report_data(data)),
            self._processor.cert_table(),
            ear=self._token,
        )

    def store(self) -> StoreStatement:
        """Where the TPM's state lives."""
        volume = self._volume
        return StoreStatement(
            mode="persistent",
            format=volume.format,
            salt=volume.salt,
            created=volume.created,
            key_id=self._key_id,
            counter=volume.counter,
            root=volume.root,
            receipt=None,
        )

    def certify(self, evidence: Evidence) -> Certify:
        """TPM2_Certify of the IDevID by the IAK over exactly this evidence."""
        attest, signature = tpm_room.certify_idevid(
            self._tpm, self._keys, certify_qualifier(evidence.runtime_data)
        )
        return Certify(attest, signature)

    def activate(self, index: int, challenge: Challenge) -> bytes:
        """TPM2_ActivateCredential with EK number `index`."""
        return tpm_room.activate(self._tpm, self._keys, index, challenge.credential_blob, challenge.secret)
