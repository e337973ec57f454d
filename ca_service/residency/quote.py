"""TPMS_ATTEST of type Quote, by a reader of our own: a relying party gets it from anybody, and no byte of it reaches C.

Structures: TPM 2.0 Library, Part 2, sections 10.12.12 (TPMS_ATTEST), 10.12.4 (TPMS_QUOTE_INFO), 10.11.1
(TPMS_CLOCK_INFO) and 10.9.7 (TPML_PCR_SELECTION).
"""

from dataclasses import dataclass, field
from typing import Final, Self

from ca_service.residency.attest import HEAD, MAGIC, head_of
from ca_service.residency.octets import Octets

ATTEST_QUOTE: Final = 0x8018
"""TPM_ST_ATTEST_QUOTE."""

MAX_QUOTE: Final = 1024
"""Largest structure that is looked at, in octets; a quote of all PCRs of four banks has some 220."""

MAX_BANKS: Final = 16
"""TPM2_NUM_PCR_BANKS."""

_MAX_NAME: Final = 66  # the largest hash and its TPM_ALG_ID
_MAX_DATA: Final = 66
_MAX_DIGEST: Final = 64
_MAX_SELECT: Final = 4


@dataclass(frozen=True)
class PcrSelection:
    """The chosen PCRs of one bank.

    Attributes:
        hash_algorithm: TPM_ALG_ID of the bank's hash.
        pcrs: numbers of the PCRs, ascending; none if the TPM has no such bank.
    """

    hash_algorithm: int
    pcrs: tuple[int, ...]


@dataclass(frozen=True)
class QuoteInfo:
    """The inside of a TPMS_ATTEST of type Quote.

    Attributes:
        qualified_signer: Qualified Name of the signing key.
        extra_data: the caller's qualifying data.
        clock: milliseconds during which the TPM has had power.
        reset_count: how often it has been reset since its last TPM2_Clear.
        restart_count: how often it has been resumed or restarted since its last reset.
        safe: whether no higher clock can have been reported before.
        firmware: the TPM's firmware version, 64 bits.
        selections: the quoted PCRs, in the order in which they went into the digest.
        pcr_digest: digest over their values, by the hash of the signature.
    """

    qualified_signer: bytes
    extra_data: bytes
    clock: int
    reset_count: int
    restart_count: int
    safe: bool
    firmware: int
    selections: tuple[PcrSelection, ...]
    pcr_digest: bytes


@dataclass(frozen=True)
class Quoted:
    """A TPMS_ATTEST: the octets, the two fields in front, and the rest if it is exactly one of type Quote.

    `magic` and `type` are None where the octets end before them.
    """

    raw: bytes = field(repr=False)
    magic: int | None
    type: int | None
    info: QuoteInfo | None

    @classmethod
    def read(cls, raw: bytes) -> Self:
        """Read whatever is there; never raises."""
        magic, type_ = head_of(raw)
        if magic != MAGIC or type_ != ATTEST_QUOTE or len(raw) > MAX_QUOTE:
            return cls(raw, magic, type_, None)
        try:
            return cls(raw, magic, type_, _quote_info(Octets(raw[HEAD:])))
        except ValueError:
            return cls(raw, magic, type_, None)


def _quote_info(octets: Octets) -> QuoteInfo:
    """What follows magic and type, to the last octet; each value has one encoding. Raises ValueError."""
    info = QuoteInfo(
        qualified_signer=octets.sized(_MAX_NAME),
        extra_data=octets.sized(_MAX_DATA),
        clock=octets.number(8),
        reset_count=octets.number(4),
        restart_count=octets.number(4),
        safe=octets.flag(),
        firmware=octets.number(8),
        selections=read_selections(octets),
        pcr_digest=octets.sized(_MAX_DIGEST),
    )
    octets.end()
    return info


def read_selections(octets: Octets) -> tuple[PcrSelection, ...]:
    """A TPML_PCR_SELECTION.

    Raises:
        ValueError: it is cut off, or has more banks or PCRs than there are.
    """
    count = octets.number(4)
    if count > MAX_BANKS:
        raise ValueError("more banks than there are")
    found = []
    for _ in range(count):
        bank, size = octets.number(2), octets.number(1)
        if size > _MAX_SELECT:
            raise ValueError("more PCRs than there are")
        found.append(PcrSelection(bank, selected(octets.take(size))))
    return tuple(found)


def selected(mask: bytes) -> tuple[int, ...]:
    """Numbers of the PCRs in a pcrSelect, ascending (Part 2, section 10.6.1)."""
    return tuple(n for n in range(8 * len(mask)) if mask[n // 8] >> n % 8 & 1)
