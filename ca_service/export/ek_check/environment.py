"""What keylime hands over: the EK in three forms, two of which a hostile machine has chosen."""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from ca_service.judgment import BadRequest
from vtpm.wire.public_area import parse_public

LONGEST_TEXT: Final = 16 * 1024
"""Characters of a variable; a certificate of this CA has 2,732 in Base64."""

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
_HEAD: Final = 2
"""Octets of the length before a TPMT_PUBLIC in a TPM2B_PUBLIC (TPM 2.0 Library, Part 2, section 12.2.5)."""


@dataclass(frozen=True)
class Shown:
    """What the tenant knows of an agent's EK.

    Attributes:
        agent: the agent's id, for messages, in printable ASCII.
        certificate: what is said to be the EK certificate's DER.
        key: DER SubjectPublicKeyInfo of the EK, as keylime has made it of `public`.
        public: DER SubjectPublicKeyInfo of the EK in the TPM2B_PUBLIC that the agent registered.
    """

    agent: str
    certificate: bytes = field(repr=False)
    key: bytes = field(repr=False)
    public: bytes = field(repr=False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read ``AGENT_UUID``, ``EK_CERT``, ``EK`` and ``EK_TPM``.

        Raises:
            BadRequest: one of the last three is missing, too long, or of another form; the path names it.
        """
        return cls(
            agent=printable(environment.get("AGENT_UUID", ""))[:64],
            certificate=_certificate(_text(environment, "EK_CERT")),
            key=_key(_text(environment, "EK")),
            public=_public(_text(environment, "EK_TPM")),
        )


def printable(text: str) -> str:
    """With a question mark for all that is no printable ASCII: keylime logs what is printed."""
    return "".join(c if " " <= c <= "~" else "?" for c in text)


def _text(environment: Mapping[str, str], name: str) -> str:
    text = environment.get(name, "").strip()
    if not text:
        problem = "the agent has none" if name == "EK_CERT" and name in environment else "is not set"
        raise BadRequest(name, f"{problem}; keylime's tenant sets it from what the agent registered")
    if len(text) > LONGEST_TEXT:
        raise BadRequest(name, f"has more than {LONGEST_TEXT} characters")
    return text


def _decoded(text: str, name: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()).encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise BadRequest(name, "is no Base64") from None


def _certificate(text: str) -> bytes:
    """Base64 of DER, as the registrar keeps it, or PEM, of which the first certificate counts, as in keylime."""
    if _BEGIN in text:
        _, _, rest = text.partition(_BEGIN)
        text, end, _ = rest.partition(_END)
        if not end:
            raise BadRequest("EK_CERT", "has PEM that does not end")
    return _decoded(text, "EK_CERT")


def _key(text: str) -> bytes:
    try:
        key = load_pem_public_key(text.encode("ascii"))
        return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise BadRequest("EK", "is no public key in PEM") from None


def _public(text: str) -> bytes:
    sized = _decoded(text, "EK_TPM")
    if len(sized) < _HEAD or int.from_bytes(sized[:_HEAD], "big") != len(sized) - _HEAD:
        raise BadRequest("EK_TPM", "is no TPM2B_PUBLIC: its length is wrong")
    try:
        return parse_public(sized[_HEAD:], "EK_TPM").spki()
    except ValueError as error:
        raise BadRequest("EK_TPM", f"is no TPM2B_PUBLIC: {printable(str(error))}") from None
