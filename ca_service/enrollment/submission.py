"""A request to enrol, read but not yet judged."""

import hashlib
from collections.abc import Callable
from functools import lru_cache
from operator import is_
from typing import Any, Final, Self, TypeVar

from ca_service.evidence.profiles import Claims, read
from ca_service.evidence.snp import Collateral
from ca_service.judgment import BadRequest
from ca_service.residency import TpmEvidence
from vtpm.wire import certtable
from vtpm.wire.ear import EarToken
from vtpm.wire.enrollment import EnrollmentRequest
from vtpm.wire.errors import WireError
from vtpm.wire.frozen import frozen
from vtpm.wire.lazy import cached_property
from vtpm.wire.report import Report
from vtpm.wire.templates import name

T = TypeVar("T")

REMEMBERED: Final = 64
"""How many bodies are remembered, each with what it says: enough for the enrolments that are under way at once.

What was found about a submission is remembered with it, so this is the bound of that too."""


@frozen
class Submission:
    """Everything that one request body says; all of it well-formed, none of it believed.

    Attributes:
        body: the request as it was received.
        digest: SHA-256 of `body`, hex.
        request: the message.
        claims: what the report vouches for, if it does, as the evidence profile has it.
        report: the SNP report.
        offered: certificates and revocation lists that came along.
    """

    body: bytes
    digest: str
    request: EnrollmentRequest
    claims: Claims
    report: Report
    offered: Collateral

    @cached_property
    def _made(self) -> dict[str, tuple[tuple[object, ...], Any]]:
        # By kind: what it was made on, and what was made.
        return {}

    @classmethod
    @lru_cache(maxsize=REMEMBERED)
    def parse(cls, body: bytes) -> Self:
        """Read a request body; the last ones are remembered, because activation judges the same bytes once more.

        Raises:
            BadRequest: it is malformed; `path` names the member at fault.
        """
        try:
            request = EnrollmentRequest.parse(body)
            evidence = request.evidence
            claims = read(evidence)
            report = Report.parse(evidence.report, "evidence.report")
            offered = Collateral() if evidence.certificates is None else _offered(evidence.certificates)
        except WireError as error:
            raise BadRequest(error.path, error.problem) from error
        return cls(
            body=body,
            digest=hashlib.sha256(body).hexdigest(),
            request=request,
            claims=claims,
            report=report,
            offered=offered,
        )

    def once(self, kind: str, basis: tuple[object, ...], make: Callable[[], T]) -> T:
        """What is made of this submission on a basis: made once, until somebody asks on another basis.

        Args:
            kind: what is made.
            basis: all that it rests on besides the submission; the same only if these are the very same objects.
            make: makes it.
        """
        known = self._made.get(kind)
        if known is None or not all(map(is_, known[0], basis)):
            known = self._made[kind] = (basis, make())
        made: T = known[1]
        return made

    @property
    def nonce(self) -> str:
        """The CA's nonce in the evidence."""
        return self.claims.nonce

    def ear(self) -> EarToken | None:
        """The attestation token that came along; None if there is none that can be read.

        It is read only where a policy asks for one: other verifiers' tokens are no reason to refuse a request.
        """
        sent = self.request.evidence.ear
        try:
            return None if sent is None else EarToken.parse(sent)
        except WireError:
            return None

    @cached_property
    def tpm(self) -> TpmEvidence:
        """What is said about the TPM, and what it has signed itself."""
        data, sent = self.claims, self.request.certify
        return TpmEvidence(
            statement=data.tpm,
            qualifier=data.qualifier,
            attest=None if sent is None else sent.attest,
            signature=None if sent is None else sent.signature,
        )

    def ek_names(self) -> tuple[str, ...]:
        """Names of the EKs in hex, in their order."""
        return tuple(name(ek.public).hex() for ek in self.claims.tpm.eks)

    def ek_set(self) -> str:
        """What identifies the TPM: SHA-256 over its sorted EK Names, hex."""
        return self._ek_set

    @cached_property
    def _ek_set(self) -> str:
        return hashlib.sha256("\n".join(sorted(self.ek_names())).encode("ascii")).hexdigest()


@lru_cache(maxsize=REMEMBERED)
def _offered(table: bytes) -> Collateral:
    # A host sends the same along with all its machines.
    return Collateral.of_table(certtable.parse_table(table, "evidence.certificates"))
