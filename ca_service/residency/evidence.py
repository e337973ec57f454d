"""What the residency checks look at, and the Names that follow from it."""

from collections.abc import Mapping

from ca_service.residency.attest import Attest, Signature
from vtpm.wire.frozen import frozen
from vtpm.wire.lazy import cached_property
from vtpm.wire.runtime_data import KeyStatement, TpmStatement
from vtpm.wire.templates import Role, name


@frozen
class TpmEvidence:
    """The SVSM's statement about its TPM, and what the TPM itself signed.

    Attributes:
        statement: keys and properties of the TPM, covered by the SNP report.
        qualifier: what TPM2_Certify must carry as qualifying data, 32 bytes (`runtime_data.certify_qualifier`).
        attest: TPMS_ATTEST of TPM2_Certify, IDevID by IAK; None if none was sent.
        signature: TPMT_SIGNATURE over `attest`; None if none was sent.
    """

    statement: TpmStatement
    qualifier: bytes
    attest: bytes | None
    signature: bytes | None

    @cached_property
    def keys(self) -> Mapping[Role, list[tuple[str, KeyStatement]]]:
        """The keys of each role, each with its place in the statement."""
        stated = self.statement
        return {
            Role.EK: [(f"ek[{i}]", key) for i, key in enumerate(stated.eks)],
            Role.IAK: [("iak", stated.iak)],
            Role.IDEVID: [("idevid", stated.idevid)],
        }

    @cached_property
    def templates(self) -> Mapping[Role, str]:
        """What the keys of each role are said to be, for the operator."""
        return {
            role: ", ".join([f"{at}: {key.template}" for at, key in of]) for role, of in self.keys.items()
        }

    @cached_property
    def certified(self) -> Attest | None:
        """`attest` read; None if there is none."""
        return None if self.attest is None else Attest.read(self.attest)

    @cached_property
    def signed(self) -> Signature | None:
        """`signature` read; None if there is none."""
        return None if self.signature is None else Signature.read(self.signature)


@frozen
class Names:
    """TPM Names, nameAlg || H(TPMT_PUBLIC): of each EK in the statement's order, of IAK and IDevID."""

    eks: tuple[bytes, ...]
    iak: bytes
    idevid: bytes


def names(statement: TpmStatement) -> Names:
    """The Names of all keys of a TPM.

    Raises:
        WireError: a key is no TPMT_PUBLIC; parsed statements have none such.
    """
    return Names(
        tuple(name(ek.public) for ek in statement.eks),
        name(statement.iak.public),
        name(statement.idevid.public),
    )
