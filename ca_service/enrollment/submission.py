"""A request to enrol, read but not yet judged."""

import hashlib
from dataclasses import dataclass
from typing import Self

from ca_service.evidence.snp import Collateral
from ca_service.judgment import BadRequest
from vtpm.wire import certtable
from vtpm.wire.enrollment import EnrollmentRequest
from vtpm.wire.errors import WireError
from vtpm.wire.grant import Grant
from vtpm.wire.report import Report
from vtpm.wire.runtime_data import RuntimeData
from vtpm.wire.templates import name


@dataclass(frozen=True)
class Submission:
    """Everything that one request body says; all of it well-formed, none of it believed.

    Attributes:
        body: the request as it was received.
        digest: SHA-256 of `body`, hex.
        request: the message.
        runtime_data: what the report vouches for, if it does.
        report: the SNP report.
        offered: certificates and revocation lists that came along.
        grant: the KBS's grant out of the runtime data.
    """

    body: bytes
    digest: str
    request: EnrollmentRequest
    runtime_data: RuntimeData
    report: Report
    offered: Collateral
    grant: Grant

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read a request body.

        Raises:
            BadRequest: it is malformed; `path` names the member at fault.
        """
        try:
            request = EnrollmentRequest.parse(body)
            evidence = request.evidence
            data = RuntimeData.parse(evidence.runtime_data, "evidence.runtime_data")
            report = Report.parse(evidence.report, "evidence.report")
            table = (
                certtable.parse_table(evidence.certificates, "evidence.certificates")
                if evidence.certificates is not None
                else {}
            )
            grant = Grant.parse(data.kbs.grant, "evidence.runtime_data.kbs.grant")
        except WireError as error:
            raise BadRequest(error.path, error.problem) from error
        return cls(
            body=body,
            digest=hashlib.sha256(body).hexdigest(),
            request=request,
            runtime_data=data,
            report=report,
            offered=Collateral.of_table(table),
            grant=grant,
        )

    @property
    def nonce(self) -> str:
        """The nonce in the runtime data."""
        return self.runtime_data.nonce

    def key_names(self) -> dict[str, str]:
        """Name in hex of every TPM key, with its role: ``{name: role}``; a key in two roles stands once."""
        tpm = self.runtime_data.tpm
        roles = [(ek, "ek") for ek in tpm.eks] + [(tpm.iak, "iak"), (tpm.idevid, "idevid")]
        return {name(key.public).hex(): role for key, role in reversed(roles)}

    def ek_names(self) -> tuple[str, ...]:
        """Names of the EKs in hex, in their order."""
        return tuple(name(ek.public).hex() for ek in self.runtime_data.tpm.eks)

    def ek_set(self) -> str:
        """What identifies the TPM: SHA-256 over its sorted EK Names, hex."""
        return hashlib.sha256("\n".join(sorted(self.ek_names())).encode("ascii")).hexdigest()
