"""What evidence says, whatever its profile."""

from vtpm.wire.frozen import frozen
from vtpm.wire.grant import Grant
from vtpm.wire.runtime_data import KbsStatement, StoreStatement, TpmStatement


@frozen
class Claims:
    """What the evidence of one enrolment says: well-formed, none of it believed.

    What a profile does not state is None here, and no rule that speaks of it applies.

    Attributes:
        profile: the evidence profile, one of `vtpm.wire.enrollment.EVIDENCE_PROFILES`.
        aud: id of the CA that the evidence is for.
        nonce: the CA's nonce.
        tpm: the TPM and its keys. In the AMD profiles the report covers of it the manifest's EK alone.
        report_data: what the SNP report must carry to vouch for the evidence, 64 bytes.
        qualifier: what TPM2_Certify must carry as qualifying data, 32 bytes.
        kbs: the key broker's key, and its grant as it came.
        grant: the same grant, read; there whenever `kbs` is.
        store: where the TPM's state lives.
        manifest_ek: TPMT_PUBLIC of the EK in the SVSM's manifest; None for a profile without a manifest.
    """

    profile: str
    aud: str
    nonce: str
    tpm: TpmStatement
    report_data: bytes
    qualifier: bytes
    kbs: KbsStatement | None = None
    grant: Grant | None = None
    store: StoreStatement | None = None
    manifest_ek: bytes | None = None
