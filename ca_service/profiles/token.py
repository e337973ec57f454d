"""The proof that exact to-be-signed bytes have passed the lint; signing demands one, and uses it up."""

import hashlib
import threading

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from ca_service.judgment import Conflict
from ca_service.profiles.device import patch_slot

_MINT = object()


class LintPassed:
    """Says that exact bytes under an exact issuer have passed; good for one signature.

    Only `lint` makes one. It holds the linted bytes, and gives out what is to be signed: just these, with the slot, if
    there is one, filled by the digest of the EK certificate that is shown at redemption.

    Attributes:
        profile: of the draft.
        issuer: the issuer's certificate, by whose name and key the draft was judged; None for a self-signed root.
    """

    def __init__(
        self,
        mint: object,
        *,
        profile: str,
        tbs: bytes,
        slot: int | None,
        issuer_key: ec.EllipticCurvePublicKey,
        issuer: x509.Certificate | None,
    ) -> None:
        if mint is not _MINT:
            raise TypeError("only the lint can say that a draft has passed")
        self.profile = profile
        self.issuer = issuer
        self._tbs = tbs
        self._slot = slot
        self._issuer_key = issuer_key
        self._used = False
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"LintPassed({self.profile}, sha256={hashlib.sha256(self._tbs).hexdigest()[:16]})"

    def redeem(
        self, tbs: bytes, issuer_key: ec.EllipticCurvePublicKey, *, ek_certificate: bytes | None = None
    ) -> bytes:
        """Use the token up for these bytes and this issuer.

        Args:
            tbs: the draft's bytes.
            issuer_key: public half of the key that is about to sign.
            ek_certificate: DER of the signed EK certificate, if the linted draft had a slot for its digest.

        Returns:
            What is to be signed.

        Raises:
            Conflict: the token is used, or was given for other bytes or another issuer (code ``lint-token``).
                Any attempt uses it up.
        """
        with self._lock:
            used, self._used = self._used, True
        if used:
            raise Conflict("the lint's token was used already", code="lint-token")
        if issuer_key != self._issuer_key:
            raise Conflict("the lint's token is for another issuer", code="lint-token")
        if tbs != self._tbs:
            raise Conflict("the bytes to be signed are not those that passed the lint", code="lint-token")
        if (self._slot is None) != (ek_certificate is None):
            raise Conflict(
                "an EK certificate is wanted exactly for drafts with a slot for its digest", code="lint-token"
            )
        if self._slot is None or ek_certificate is None:
            return tbs
        return patch_slot(tbs, self._slot, hashlib.sha256(ek_certificate).hexdigest())


def mint(
    *,
    profile: str,
    tbs: bytes,
    slot: int | None,
    issuer_key: ec.EllipticCurvePublicKey,
    issuer: x509.Certificate | None,
) -> LintPassed:
    """Make a token; for the lint alone."""
    return LintPassed(_MINT, profile=profile, tbs=tbs, slot=slot, issuer_key=issuer_key, issuer=issuer)
