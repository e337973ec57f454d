"""A TPM that can be reached: its certificates out of NV memory, and a quote by its IAK for a nonce.

What comes from there counts for no more than files from anybody. Places: TCG "TPM 2.0 Keys for Device Identity and
Attestation" 1.0, section 7.3; TCG EK Credential Profile 2.6, annex B.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

from tpm2_pytss import ESAPI, ESYS_TR, TPML_PCR_SELECTION, TPMT_SIG_SCHEME, TCTILdr, TSS2_Exception
from tpm2_pytss.constants import TPM2_ALG

from ca_service.export.quote.pcrs import BANKS, PcrValues, digest_size
from ca_service.export.quote.subject import Quote, named_ek, read_view
from ca_service.export.relying import LARGEST_CERTIFICATE
from ca_service.judgment import BadRequest, NotFound, Unavailable
from ca_service.residency.quote import PcrSelection, Quoted, QuoteInfo
from vtpm.wire.templates import Role, templates

_IAK: Final = templates(Role.IAK)[0]
_IDEVID: Final = templates(Role.IDEVID)[0]
_NUMBERS: Final = tuple(str(number) for number in range(24))
_NOTHING_THERE: Final = 0x18B  # TPM_RC_HANDLE of the first handle
_LAYER: Final = 0xFF0000  # zero in what the TPM itself has answered
_CHUNK: Final = 1024
_LIST: Final = 8
_TRIES: Final = 5
_WAITS, _WAIT_S = 20, 0.5


class LiveTpm:
    """A TPM, for the time of `opened`.

    Args:
        tpm: how to speak to it.
        sleep: lets so many seconds pass.
    """

    def __init__(self, tpm: ESAPI, sleep: Callable[[float], None]) -> None:
        self._tpm = tpm
        self._sleep = sleep

    def iak(self) -> bytes | None:
        """The IAK certificate in NV memory; None if there is none."""
        return self._certificate(_IAK.nv_index)

    def idevid(self) -> bytes | None:
        """The IDevID certificate in NV memory; None if there is none."""
        return self._certificate(_IDEVID.nv_index)

    def ek(self, iak: bytes | None) -> bytes | None:
        """The EK certificate in NV memory that the IAK certificate names, else the first one; None if there is none."""
        found = [der for one in templates(Role.EK) if (der := self._certificate(one.nv_index)) is not None]
        named = None if iak is None else named_ek(read_view(iak))
        wanted = [der for der in found if hashlib.sha256(der).hexdigest() == named]
        return next(iter(wanted or found), None)

    def quote(self, nonce: bytes, selections: Sequence[PcrSelection]) -> Quote:
        """A quote by the IAK, with the values that it is about.

        A PCR may be extended between the quote and the reading; and for some seconds after the TPM has lost power its
        clock is not safe. Then it is asked again, for a while.

        Raises:
            NotFound: there is no key at the IAK's handle.
            Unavailable: the TPM refuses.
        """
        with _asking("quoting"):
            iak = self._handle(_IAK.persistent)
            if iak is None:
                raise NotFound(
                    f"the TPM has no key at 0x{_IAK.persistent:08x}, where its IAK belongs",
                    remedy="Boot it anew: a vTPM puts the key there again.",
                )
            waits, tries = _WAITS, _TRIES
            while True:
                found = self._one_quote(iak, nonce, selections)
                info = Quoted.read(found.attest).info
                if info is not None and not info.safe and waits:
                    self._sleep(_WAIT_S)
                    waits -= 1
                    continue
                tries -= 1
                if info is None or not tries or _are_quoted(found, info):
                    return found

    def _one_quote(self, iak: ESYS_TR, nonce: bytes, selections: Sequence[PcrSelection]) -> Quote:
        own_scheme = TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL)
        wanted = TPML_PCR_SELECTION.parse(_text(selections))
        attest, signature = self._tpm.quote(iak, wanted, nonce, own_scheme)
        return Quote(bytes(attest), bytes(signature.marshal()), self._values(selections))

    def _values(self, selections: Sequence[PcrSelection]) -> PcrValues:
        banks: dict[str, dict[int, bytes]] = {}
        for one in selections:
            bank = BANKS[one.hash_algorithm]
            for at in range(0, len(one.pcrs), _LIST):
                numbers = one.pcrs[at : at + _LIST]
                part = _text([PcrSelection(one.hash_algorithm, numbers)])
                *_, digests = self._tpm.pcr_read(TPML_PCR_SELECTION.parse(part))
                values = [bytes(digest) for digest in digests]
                # A TPM without that bank reads nothing, and quotes nothing of it.
                if [len(value) for value in values] == [digest_size(bank)] * len(numbers):
                    banks.setdefault(bank, {}).update(zip(numbers, values, strict=True))
        return PcrValues(banks)

    def _handle(self, number: int) -> ESYS_TR | None:
        """What is at a handle or NV index; None if nothing is."""
        try:
            return self._tpm.tr_from_tpmpublic(number)
        except TSS2_Exception as error:
            if error.rc == _NOTHING_THERE:
                return None
            raise

    def _certificate(self, index: int) -> bytes | None:
        """What is in an NV index; None if nothing is, or nothing that everybody may read: it is no certificate then."""
        with _asking(f"reading its certificate at 0x{index:08x}"):
            handle = self._handle(index)
            if handle is None:
                return None
            size = int(self._tpm.nv_read_public(handle)[0].nvPublic.dataSize)
            if not 0 < size <= LARGEST_CERTIFICATE:
                return None
            parts = range(0, size, _CHUNK)
            try:
                return b"".join(bytes(self._tpm.nv_read(handle, min(_CHUNK, size - at), at)) for at in parts)
            except TSS2_Exception as error:
                if error.rc & _LAYER:
                    raise
                return None


@contextmanager
def opened(tcti: str, sleep: Callable[[float], None] = time.sleep) -> Iterator[LiveTpm]:
    """Reach a TPM.

    Args:
        tcti: as for tpm2-tools, for example ``device:/dev/tpmrm0`` or ``swtpm:host=127.0.0.1,port=2321``.
        sleep: lets so many seconds pass.

    Raises:
        Unavailable: there is no TPM.
    """
    with ExitStack() as stack:
        with _asking("being reached"):
            loaded = stack.enter_context(TCTILdr.parse(tcti))
            tpm = stack.enter_context(ESAPI(loaded))
        yield LiveTpm(tpm, sleep)


def read_selection(text: str) -> tuple[PcrSelection, ...]:
    """Read a list of PCRs as tpm2-tools write it: ``sha256:0,1,7+sha1:all``.

    Raises:
        BadRequest: it is none; the path is ``pcr-list``.
    """
    ids = {name: number for number, name in BANKS.items()}
    found: dict[str, tuple[int, ...]] = {}
    for part in text.split("+"):
        bank, _, numbers = part.partition(":")
        words = list(_NUMBERS) if numbers == "all" else numbers.split(",")
        if bank not in ids or bank in found or not set(words) <= set(_NUMBERS):
            raise BadRequest(
                "pcr-list",
                f"{part!r} is no list of PCRs, or the second of its bank",
                remedy="Write sha256:0,1,7 or sha256:all; several banks with + between them.",
            )
        found[bank] = tuple(sorted({int(word) for word in words}))
    return tuple(PcrSelection(ids[bank], numbers) for bank, numbers in found.items())


def _text(selections: Sequence[PcrSelection]) -> str:
    return "+".join(f"{BANKS[one.hash_algorithm]}:{','.join(map(str, one.pcrs))}" for one in selections)


def _are_quoted(found: Quote, info: QuoteInfo) -> bool:
    hash_algorithm = int.from_bytes(found.signature[2:4], "big")
    values = found.pcrs
    return isinstance(values, PcrValues) and values.digest(info.selections, hash_algorithm) == info.pcr_digest


@contextmanager
def _asking(doing: str) -> Iterator[None]:
    try:
        yield
    except TSS2_Exception as error:
        raise Unavailable(f"the TPM failed while {doing}: {error}", code="tpm") from None
