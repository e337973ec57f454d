"""The verdict on a quote: read what was given, or ask the TPM, judge, and lay out what was found."""

import hashlib
import tomllib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.serialization import Encoding

from ca_service.cli.files import read_bytes, read_start
from ca_service.export.ek_check.supply import Fetch
from ca_service.export.quote import AttestationKey, ExpectedPcrs, Quote, QuoteVerdict, verify_quote
from ca_service.export.quote.description import describe
from ca_service.export.quote.fetching import Fetched, fetch_lists
from ca_service.export.quote.live import opened, read_selection
from ca_service.export.quote.pcrs import LARGEST_PCR_FILE, selection_of
from ca_service.export.relying import Kind, ProvenanceRule, Trust
from ca_service.export.relying.files import blocks
from ca_service.judgment import BadRequest
from ca_service.residency.quote import PcrSelection

_MAX_CONFIG: Final = 1024 * 1024
_NONCE_SIZE: Final = 32
_ALL: Final = "sha256:all"


@dataclass(frozen=True)
class Basis:
    """What the relying party has decided.

    Attributes:
        root: file of the CA's root.
        issuers: folder of issuing CAs' certificates.
        crls: folder of revocation lists; None if there is none.
        rule: file that says which provenance counts; None for any.
        expected: file with good PCR values; None for any.
        at: the time to verify at, aware.
        ephemeral: whether certificates of the Ephemeral CA count.
        fetch: gets lists from where the certificates say; None if those in `crls` are all.
    """

    root: Path
    issuers: Path
    crls: Path | None
    rule: Path | None
    expected: Path | None
    at: datetime
    ephemeral: bool
    fetch: Fetch | None


@dataclass(frozen=True)
class Certificates:
    """Files of the TPM's certificates; None for one that is not given."""

    iak: Path | None
    ek: Path | None
    idevid: Path | None


@dataclass(frozen=True)
class QuoteFiles:
    """Files of a quote, and the nonce that it was made for.

    Attributes:
        attest: TPMS_ATTEST.
        signature: signature over it.
        pcrs: values of the quoted PCRs.
        ak: public area of an attestation key, the IAK's statement about it, and the signature of that; None if the IAK
            itself has signed.
        nonce: octets.
    """

    attest: Path
    signature: Path
    pcrs: Path
    ak: tuple[Path, Path, Path] | None
    nonce: bytes


def answer_files(basis: Basis, certificates: Certificates, files: QuoteFiles) -> dict[str, Any]:
    """The verdict on a quote from files, as plain values.

    Raises:
        BadRequest: a file cannot be opened, or one of `basis` is not what it should be.
    """
    judge = _Judge.of(basis)
    quote = Quote(
        *(read_start(path, LARGEST_PCR_FILE) for path in (files.attest, files.signature, files.pcrs))
    )
    ak = None
    if files.ak is not None:
        ak = AttestationKey(*(read_start(path, LARGEST_PCR_FILE) for path in files.ak))
    iak, ek, idevid = (
        _certificate(path) for path in (certificates.iak, certificates.ek, certificates.idevid)
    )
    return judge(quote, files.nonce, iak or b"", ek, idevid, ak)


def answer_tpm(
    basis: Basis, certificates: Certificates, tcti: str, pcr_list: str | None, entropy: Callable[[int], bytes]
) -> dict[str, Any]:
    """The verdict on a TPM that quotes now, for a fresh nonce, as plain values.

    Raises:
        BadRequest: as `answer_files`, or `pcr_list` is no list of PCRs.
        NotFound: the TPM has no IAK.
        Unavailable: the TPM cannot be reached, or refuses.
    """
    judge = _Judge.of(basis)
    selections = _selections(pcr_list, judge.expected)
    nonce = entropy(_NONCE_SIZE)
    with opened(tcti) as tpm:
        iak = tpm.iak() if certificates.iak is None else _certificate(certificates.iak)
        ek = tpm.ek(iak) if certificates.ek is None else _certificate(certificates.ek)
        idevid = tpm.idevid() if certificates.idevid is None else _certificate(certificates.idevid)
        quote = tpm.quote(nonce, selections)
    return judge(quote, nonce, iak or b"", ek, idevid, None)


@dataclass(frozen=True)
class _Judge:
    basis: Basis
    trust: Trust
    rule: ProvenanceRule | None
    expected: ExpectedPcrs | None

    @classmethod
    def of(cls, basis: Basis) -> "_Judge":
        """Read what the relying party has decided, before anything else is looked at."""
        return cls(
            basis,
            Trust.load(basis.root, basis.issuers, () if basis.crls is None else basis.crls),
            None if basis.rule is None else _rule(basis.rule),
            None if basis.expected is None else _expected(basis.expected),
        )

    def __call__(
        self,
        quote: Quote,
        nonce: bytes,
        iak: bytes,
        ek: bytes | None,
        idevid: bytes | None,
        ak: AttestationKey | None,
    ) -> dict[str, Any]:
        given: dict[Kind, bytes | None] = {"iak": iak, "ek": ek, "idevid": idevid}
        with warnings.catch_warnings():
            # What is odd about a stranger's certificate is no news.
            warnings.simplefilter("ignore")
            lists = Fetched(self.trust, ())
            if self.basis.fetch is not None:
                present = {kind: der for kind, der in given.items() if der is not None}
                lists = fetch_lists(present, self.trust, self.basis.fetch)
            verdict = verify_quote(
                quote,
                nonce=nonce,
                iak=iak,
                trust=lists.trust,
                at=self.basis.at,
                ek=ek,
                idevid=idevid,
                ak=ak,
                rule=self.rule,
                expected=self.expected,
                ephemeral=self.basis.ephemeral,
            )
        return self._laid_out(verdict, "iak" if ak is None else "ak", lists.problems)

    def _laid_out(self, verdict: QuoteVerdict, signer: str, unfetched: Sequence[str]) -> dict[str, Any]:
        root = self.trust.root.public_bytes(Encoding.DER)
        beside = {
            "at": self.basis.at.isoformat(),
            "mode": self.trust.mode,
            "root_sha256": hashlib.sha256(root).hexdigest(),
            "signer": signer,
            "unfetched": list(unfetched),
            "asked": {"pcrs": self.expected is not None, "provenance": self.rule is not None},
        }
        found = describe(verdict)
        head = {name: found.pop(name) for name in ("verdict", "reason", "detail")}
        return {**head, **beside, **found}


def _selections(pcr_list: str | None, expected: ExpectedPcrs | None) -> tuple[PcrSelection, ...]:
    if pcr_list is None and expected is not None:
        return selection_of(expected.banks)
    return read_selection(pcr_list or _ALL)


def _certificate(path: Path | None) -> bytes | None:
    """DER out of a file in DER, or the first certificate in one in PEM, whose chain may follow; else the file itself.

    What is neither is judged as it stands.
    """
    if path is None:
        return None
    content = read_start(path, LARGEST_PCR_FILE)
    try:
        return next(blocks(content, "CERTIFICATE", str(path)))
    except (BadRequest, StopIteration):
        return content


def _rule(path: Path) -> ProvenanceRule:
    try:
        table = tomllib.loads(read_bytes(path, _MAX_CONFIG).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadRequest(str(path), f"is no TOML: {error}") from None
    rule = table.pop("provenance", None)
    if table or not isinstance(rule, dict):
        raise BadRequest(
            str(path), "must hold the table [provenance] and nothing else", remedy="See docs/quotes.md."
        )
    try:
        return ProvenanceRule.from_table(rule)
    except BadRequest as error:
        raise BadRequest(str(path), error.detail, remedy=error.remedy) from None


def _expected(path: Path) -> ExpectedPcrs:
    try:
        return ExpectedPcrs.read(read_bytes(path, _MAX_CONFIG))
    except BadRequest as error:
        if error.path == str(path):
            raise
        raise BadRequest(str(path), error.detail, remedy=error.remedy) from None
