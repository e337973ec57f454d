"""Values of PCRs: as values, and in the files that tpm2-tools write (`tpm2_quote -o`, `tpm2_pcrread -o`).

None of these files is signed; what is in them counts only if its digest is the quoted one. Formats: tpm2-tools, files
lib/pcr.c and tools/tpm2_quote.c; TPM 2.0 Library, Part 2, section 10.9.5 (TPML_DIGEST).
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from ca_service.judgment import BadRequest
from ca_service.residency.octets import Octets
from ca_service.residency.quote import MAX_BANKS, PcrSelection, read_selections, selected

BANKS: Final[Mapping[int, str]] = MappingProxyType(
    {0x0004: "sha1", 0x000B: "sha256", 0x000C: "sha384", 0x000D: "sha512"}
)
"""TPM_ALG_ID to the name of the bank."""

LARGEST_PCR_FILE: Final = 64 * 1024
"""Octets; all PCRs of four banks make 8,648 at most."""

_SIZES: Final = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}
_LAST: Final = 31
_MOST_LISTS: Final = 32  # TPM2_MAX_PCRS
_LIST: Final = 8  # digests in a TPML_DIGEST
_SELECTION_HEAD, _SELECTION, _DIGEST, _BUFFER = 4, 8, 2 + 64, 64


@dataclass(frozen=True)
class PcrValues:
    """PCRs and their values.

    Attributes:
        banks: name of a bank (``sha1``, ``sha256``, ``sha384``, ``sha512``) to number of a PCR (0 to 31) to its value,
            as long as the bank's digests.

    Raises:
        BadRequest: there is another bank, number or length; the path names it.
    """

    banks: Mapping[str, Mapping[int, bytes]]

    def __post_init__(self) -> None:
        for bank, values in self.banks.items():
            for number, value in values.items():
                check_value(bank, number, value, "pcrs")
        frozen = {
            bank: MappingProxyType({number: values[number] for number in sorted(values)})
            for bank, values in self.banks.items()
            if values
        }
        object.__setattr__(self, "banks", MappingProxyType(frozen))

    def __iter__(self) -> Iterator[tuple[str, int, bytes]]:
        return (
            (bank, number, value) for bank, values in self.banks.items() for number, value in values.items()
        )

    def value(self, bank: str, number: int) -> bytes | None:
        """The value of a PCR; None if it is not among them."""
        return self.banks.get(bank, {}).get(number)

    def digest(self, selections: Sequence[PcrSelection], hash_algorithm: int) -> bytes | None:
        """What a TPM quotes of these values: the digest over all that are selected, in that order.

        Args:
            selections: PCRs, of banks whose values are here.
            hash_algorithm: TPM_ALG_ID.

        Returns:
            the digest (Part 3, section 18.4); None if a value is missing, or the hash is unknown.
        """
        if hash_algorithm not in BANKS:
            return None
        found = hashlib.new(BANKS[hash_algorithm])
        for bank, number in chosen(selections):
            value = self.value(bank, number)
            if value is None:
                return None
            found.update(value)
        return found.digest()

    def to_json(self) -> dict[str, dict[str, str]]:
        """As plain values: bank to number to hex."""
        return {
            bank: {str(n): value.hex() for n, value in found.items()} for bank, found in self.banks.items()
        }


def digest_size(bank: str) -> int:
    """Octets of a value in a bank; raises KeyError for another."""
    return _SIZES[bank]


def check_value(bank: str, number: int, value: bytes, path: str) -> None:
    """Whether there can be such a PCR with such a value.

    Raises:
        BadRequest: there cannot; the path names it.
    """
    if bank not in _SIZES:
        raise BadRequest(f"{path}.{bank}", "is no bank", remedy=f"There are {', '.join(_SIZES)}.")
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= _LAST:
        raise BadRequest(f"{path}.{bank}.{number}", f"is no PCR: there are 0 to {_LAST}")
    if len(value) != _SIZES[bank]:
        raise BadRequest(
            f"{path}.{bank}.{number}", f"must have {_SIZES[bank]} octets, {2 * _SIZES[bank]} hex digits"
        )


def chosen(selections: Sequence[PcrSelection]) -> Iterator[tuple[str, int]]:
    """Bank and number of each selected PCR in their order; banks that we do not know have a name in hex."""
    for one in selections:
        name = BANKS.get(one.hash_algorithm, f"0x{one.hash_algorithm:04x}")
        for number in one.pcrs:
            yield name, number


def selection_of(banks: Mapping[str, Iterable[int]]) -> tuple[PcrSelection, ...]:
    """The selection of these PCRs, by names of banks; raises KeyError for another bank."""
    ids = {name: number for number, name in BANKS.items()}
    return tuple(PcrSelection(ids[bank], tuple(sorted(numbers))) for bank, numbers in banks.items())


def read_pcrs(content: bytes, selections: Sequence[PcrSelection]) -> PcrValues:
    """Read a file of PCR values in any of the formats of tpm2-tools: `serialized`, `marshaled`, or bare `values`.

    Args:
        content: the file, from anybody.
        selections: which PCRs a file of bare values holds: those that were quoted.

    Raises:
        BadRequest: it is none of them, or gives one PCR two values.
    """
    if len(content) > LARGEST_PCR_FILE:
        raise BadRequest("pcrs", f"has more than {LARGEST_PCR_FILE} octets")
    for read in (_serialized, _marshaled):
        try:
            return _joined(*read(content))
        except ValueError:
            continue
    try:
        return _joined(selections, _bare(content, selections))
    except ValueError:
        raise BadRequest(
            "pcrs",
            "is no file of PCR values as tpm2_quote or tpm2_pcrread write it, or not of the quoted PCRs",
            remedy="Take the file of tpm2_quote -o, or that of tpm2_pcrread -o with the same list of PCRs.",
        ) from None


def _joined(selections: Sequence[PcrSelection], digests: Sequence[bytes]) -> PcrValues:
    """Raises ValueError if they do not belong together."""
    places = list(chosen(selections))
    if not places or len(places) != len(digests):
        raise ValueError("has more or fewer values than PCRs")
    banks: dict[str, dict[int, bytes]] = {}
    for (bank, number), value in zip(places, digests, strict=True):
        if len(value) != _SIZES.get(bank) or banks.setdefault(bank, {}).setdefault(number, value) != value:
            raise ValueError("has a value of the wrong length, or two for one PCR")
    return PcrValues(banks)


def _bare(content: bytes, selections: Sequence[PcrSelection]) -> list[bytes]:
    octets = Octets(content)
    digests = [octets.take(_SIZES.get(bank, 0)) for bank, _ in chosen(selections)]
    octets.end()
    return digests


def _marshaled(content: bytes) -> tuple[tuple[PcrSelection, ...], list[bytes]]:
    octets = Octets(content)
    selections = read_selections(octets)
    return selections, _lists(octets, lambda: octets.number(4), lambda: octets.sized(_BUFFER))


def _serialized(content: bytes) -> tuple[tuple[PcrSelection, ...], list[bytes]]:
    """Structures of a C library as they lie in memory, little-endian: arrays at full length, padding between."""
    octets = Octets(content)

    def number(size: int) -> int:
        return int.from_bytes(octets.take(size), "little")

    def digest() -> bytes:
        size, buffer = number(2), octets.take(_BUFFER)
        if size > _BUFFER:
            raise ValueError("is longer than may be")
        return buffer[:size]

    count = number(4)
    entries = [octets.take(_SELECTION) for _ in range(MAX_BANKS)]
    if count > MAX_BANKS or any(entry[2] > 4 for entry in entries[:count]):  # noqa: PLR2004 - TPM2_PCR_SELECT_MAX
        raise ValueError("more banks or PCRs than there are")
    selections = tuple(
        PcrSelection(int.from_bytes(entry[:2], "little"), selected(entry[3 : 3 + entry[2]]))
        for entry in entries[:count]
    )
    return selections, _lists(octets, lambda: number(4), digest, filled=_LIST)


def _lists(
    octets: Octets, number: Callable[[], int], digest: Callable[[], bytes], *, filled: int = 0
) -> list[bytes]:
    """TPML_DIGESTs, how many they are before them; each with room for `filled` digests, or as many as it has."""
    found: list[bytes] = []
    lists = number()
    if lists > _MOST_LISTS:
        raise ValueError("more lists than there are")
    for _ in range(lists):
        count = number()
        if count > _LIST:
            raise ValueError("more digests than a list holds")
        digests = [digest() if i < count else octets.take(_DIGEST) for i in range(filled or count)]
        found += digests[:count]
    octets.end()
    return found
