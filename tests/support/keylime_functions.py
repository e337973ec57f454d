"""keylime's own functions, asked about many certificates in one process of keylime's environment.

To start its services takes ten seconds of a processor; what they decide about certificates, their functions decide in
one. The TPMs are `soft_tpm.SoftTpm`, so that software may pose as one.
"""

import base64
import copy
import hashlib
import json
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from keylime_services import BIN, Keylime
from soft_tpm import SoftTpm

from vtpm.wire.public_area import ALG_RSASSA, PublicArea, Scheme, Symmetric, pack_public

AGENT = "d432fbb3-d2f1-4a97-9ef7-75bd81c00000"
_PROGRAM = Path(__file__).with_name("inside_keylime.py")
_SHA256, _AK_ATTRIBUTES = 0x000B, 0x00050072
_MAGIC = struct.pack(">II", 0xBADCC0DE, 1)
_LIMIT_S = 120


def text(data: bytes) -> str:
    """Base64."""
    return base64.b64encode(data).decode()


def tpm2b(data: bytes) -> bytes:
    """With its length in front."""
    return struct.pack(">H", len(data)) + data


def attestation_key() -> bytes:
    """TPMT_PUBLIC of such a key as keylime's agent makes: RSA-2048, restricted, RSASSA with SHA-256."""
    modulus = rsa.generate_private_key(65537, 2048).public_key().public_numbers().n
    return pack_public(
        PublicArea(
            kind="rsa",
            name_alg="sha256",
            attributes=_AK_ATTRIBUTES,
            policy=b"",
            symmetric=Symmetric(),
            scheme=Scheme(ALG_RSASSA, _SHA256),
            bits=2048,
            curve=0,
            exponent=0,
            kdf=Scheme(),
            unique=(modulus.to_bytes(256, "big"),),
        )
    )


def registration(
    tpm: SoftTpm, ak: bytes, ek: bytes, iak: bytes | None = None, idevid: bytes | None = None
) -> dict[str, str]:
    """What an agent tells the registrar of a TPM, its attestation key, and certificates in DER.

    Without `iak` it tells nothing of IAK and IDevID.
    """
    told = {
        "agent_id": AGENT,
        "ek_tpm": text(tpm2b(tpm.ek.public)),
        "ekcert": text(ek),
        "aik_tpm": text(tpm2b(ak)),
        "ip": "127.0.0.1",
        "port": "9002",
        "mtls_cert": "disabled",
    }
    if iak is None or idevid is None:
        return told
    about_ak = copy.copy(tpm)
    about_ak.idevid = replace(tpm.idevid, public=ak)
    certified = about_ak.certify(hashlib.sha256(AGENT.encode()).digest())
    return told | {
        "iak_tpm": text(tpm2b(tpm.iak.public)),
        "iak_cert": text(iak),
        "idevid_tpm": text(tpm2b(tpm.idevid.public)),
        "idevid_cert": text(idevid),
        "iak_attest": text(certified.attest),
        "iak_sign": text(certified.signature),
    }


def opened(tpm: SoftTpm, ak: bytes, challenge: str) -> bytes:
    """What the TPM finds in the registrar's challenge; only the TPM with the EK finds it, for that AK."""
    blob = base64.b64decode(challenge)
    assert blob.startswith(_MAGIC)
    (size,) = struct.unpack_from(">H", blob, len(_MAGIC))
    end = len(_MAGIC) + 2 + size
    with_ak = copy.copy(tpm)
    with_ak.iak = replace(tpm.iak, public=ak)
    return with_ak.activate(blob[len(_MAGIC) : end], blob[end:])


@dataclass(frozen=True)
class Answer:
    """What keylime says: `taken`, and why not."""

    taken: bool
    why: str
    challenge: str | None = None


class KeylimeFunctions:
    """keylime with the configuration of `keylime_services`, in a folder of its own."""

    def __init__(self, folder: Path, store: Path) -> None:
        self._keylime, self._store = Keylime(folder, store), store
        self._keylime.configure()

    def registrar(self, told: dict[str, str], store: Path | None = None) -> dict[str, object]:
        """The question whether the registrar takes this, with this ``tpm_cert_store``."""
        return {"judge": "registration", "data": told, "store": str(store or self._store)}

    def tenant(self, ek: bytes, store: Path | None = None) -> dict[str, object]:
        """The question whether the tenant takes this EK certificate."""
        return {"judge": "tenant", "ekcert": text(ek), "agent": AGENT, "store": str(store or self._store)}

    def algorithm(self, named: str) -> dict[str, object]:
        """The question whether the tenant takes an EK of this algorithm, by the default of its lists."""
        return {"judge": "algorithm", "algorithm": named, "store": str(self._store)}

    def origin(self, certificate: bytes) -> dict[str, object]:
        """The question whether a certificate's names are those of a TPM."""
        return {"judge": "origin", "certificate": text(certificate), "store": str(self._store)}

    def column(self, name: str, content: bytes) -> dict[str, object]:
        """The question whether a column of the registrar's database holds this."""
        return {
            "judge": "column",
            "column": name,
            "characters": len(text(content)),
            "store": str(self._store),
        }

    def ask(self, questions: Sequence[dict[str, object]]) -> list[Answer]:
        """All questions, in one process."""
        done = subprocess.run(
            [BIN / "python", _PROGRAM],
            input=json.dumps(questions),
            env=self._keylime.environment(),
            cwd=self._keylime.folder,
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return [_answer(found) for found in json.loads(done.stdout)]


def _answer(found: dict) -> Answer:
    if "errors" in found:
        return Answer(not found["errors"], json.dumps(found["errors"]), found["challenge"])
    return Answer(found["accepted"], found.get("error", ""))
