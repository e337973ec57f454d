"""Is this number a public key that a TPM could have made? Cheap tests that catch nonsense and known bad generators."""

import math
from collections.abc import Callable
from functools import cache

from vtpm.wire.public_area import ECC_CURVES, PublicArea

_SMALL_PRIMES_BELOW = 752
_FERMAT_ROUNDS = 110
_ROCA_LARGEST = 167


def weakness(area: PublicArea) -> str | None:
    """What is wrong with a public key, as the end of a sentence; None if nothing was found.

    ECC: full public key validation of SP 800-56A Rev. 3, section 5.6.2.3.3: the coordinates have full length and lie in
    the field, and the point lies on its curve. It cannot be the point at infinity, which has no coordinates; and since
    these curves have cofactor 1, every other point has the right order. RSA: the modulus has exactly the stated size,
    is odd, has no factor below 752, is no product of two close primes (Fermat, 110 rounds) and does not bear the mark
    of Infineon's generator (ROCA, CVE-2017-15361); the exponent is 65537.

    Keys that are known to others are not found so; for them there is the block list.
    """
    if area.kind == "ecc":
        return _ecc_weakness(area)
    return _rsa_weakness(area)


def _ecc_weakness(area: PublicArea) -> str | None:
    curve = ECC_CURVES[area.curve]
    if set(map(len, area.unique)) != {curve.size}:
        return f"has coordinates that are not {curve.size} bytes long"
    x, y = area.numbers()
    if max(x, y) >= curve.prime:
        return "has coordinates outside the field of its curve"
    return None if curve.has(x, y) else "is not on its curve"


def _rsa_weakness(area: PublicArea) -> str | None:
    (modulus,) = area.numbers()
    if len(area.unique[0]) * 8 != area.bits or modulus.bit_length() != area.bits:
        return f"has a modulus that is not exactly {area.bits} bits long"
    if area.exponent not in (0, 65537):
        return "has an exponent other than 65537"
    for is_weak, text in _WEAK_MODULI:
        if is_weak(modulus):
            return text
    return None


def _primes_below(limit: int) -> list[int]:
    sieve = bytearray([1]) * limit
    sieve[:2] = b"\x00\x00"
    for n in range(2, math.isqrt(limit) + 1):
        if sieve[n]:
            sieve[n * n :: n] = bytes(len(range(n * n, limit, n)))
    return [n for n in range(limit) if sieve[n]]


def _is_even(modulus: int) -> bool:
    return modulus % 2 == 0


def _has_small_factor(modulus: int) -> bool:
    product = _small_primes_product()
    return math.gcd(modulus % product, product) != 1


@cache
def _small_primes_product() -> int:
    return math.prod(_primes_below(_SMALL_PRIMES_BELOW))


def _close_factors(modulus: int) -> bool:
    """Fermat's method, a few rounds: finds factors that differ by little more than the fourth root of the modulus.

    With factors p and q, middle = (p + q) / 2 and middle^2 - modulus = ((p - q) / 2)^2, which is to be a square.
    """
    middle = math.isqrt(modulus - 1) + 1
    rounds = _EVERY_ROUND
    for factor, squares in _square_rounds():
        rounds &= squares[modulus % factor] >> middle % factor
    while rounds:
        distance = (rounds & -rounds).bit_length() - 1
        rest = (middle + distance) ** 2 - modulus
        if math.isqrt(rest) ** 2 == rest:
            return True
        rounds &= rounds - 1
    return False


_EVERY_ROUND = (1 << _FERMAT_ROUNDS) - 1


@cache
def _square_rounds() -> tuple[tuple[int, tuple[int, ...]], ...]:
    """For each of some small numbers: in which rounds of Fermat's method the rest may be a square modulo that number.

    One mask for each remainder of the modulus; its bit n is for a middle that leaves n. Together they spare 99 of 100
    rounds, because what is a square is one modulo every number.
    """
    rows = []
    for factor in (64, 63, 65, 11):
        squares = {n * n % factor for n in range(factor)}
        masks = []
        for modulus in range(factor):
            once = [(middle * middle - modulus) % factor in squares for middle in range(factor)]
            bits = (once[n % factor] for n in range(factor + _FERMAT_ROUNDS))
            masks.append(sum(bit << n for n, bit in enumerate(bits)))
        rows.append((factor, tuple(masks)))
    return tuple(rows)


@cache
def _roca_residues() -> tuple[tuple[int, frozenset[int]], ...]:
    """For each odd prime up to 167, the residues that powers of 65537 take."""
    rows = []
    for prime in _primes_below(_ROCA_LARGEST + 1)[1:]:
        residues, power = set(), 1
        while power not in residues:
            residues.add(power)
            power = power * 65537 % prime
        rows.append((prime, frozenset(residues)))
    return tuple(rows)


def _has_roca_mark(modulus: int) -> bool:
    """Whether the modulus is a power of 65537 modulo every small prime (Nemec et al., CCS 2017).

    A random modulus is so by chance about once in 2^27.
    """
    return all(modulus % prime in residues for prime, residues in _roca_residues())


_WEAK_MODULI: tuple[tuple[Callable[[int], bool], str], ...] = (
    (_is_even, "has an even modulus"),
    (_has_small_factor, "has a modulus with a small factor"),
    (_close_factors, "has a modulus of two close factors"),
    (_has_roca_mark, "comes from a generator with a known weakness (ROCA)"),
)
