"""A stand-in for keylime's agent: what rust-keylime does with a TPM and with the network, in pull mode.

It registers a TPM's EK, IAK and IDevID with their certificates, lets the IAK certify a fresh AK below the EK, answers
the registrar's challenge, and gives quotes to tenant and verifier over TLS with client certificates. Left out are
payloads, IMA and measured-boot logs. Sources: keylime's API 2.x; TPM 2.0 Library, Part 3.
"""

import base64
import hashlib
import hmac
import http.server
import json
import ssl
import struct
import tempfile
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from tpm2_pytss import (
    ESAPI,
    ESYS_TR,
    TPM2B_ENCRYPTED_SECRET,
    TPM2B_ID_OBJECT,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPML_DIGEST_VALUES,
    TPML_PCR_SELECTION,
    TPMT_HA,
    TPMT_SIG_SCHEME,
    TPMU_HA,
    TCTILdr,
    TSS2_Exception,
)
from tpm2_pytss.constants import TPM2_ALG

from vtpm.tpm.esapi import flushing, policy_session
from vtpm.wire.templates import Role, Template, template

_NULL_SCHEME = TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL)
_ATTRIBUTES = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign"
_USER_WITH_AUTH = 0x00000040
_BINDING_PCR = 16
_NV_CHUNK = 1024
_MAGIC = struct.pack(">II", 0xBADCC0DE, 1)
_LIMIT_S = 30


@dataclass(frozen=True)
class Registration:
    """What an agent tells the registrar; each field as it travels, None for one that is left out."""

    ek_tpm: str
    ekcert: str
    aik_tpm: str
    iak_tpm: str | None
    iak_cert: str | None
    idevid_tpm: str | None
    idevid_cert: str | None
    iak_attest: str | None
    iak_sign: str | None


class AgentTpm:
    """A TPM as its guest reaches it, through a TCTI of the kind ``swtpm:host=...,port=...``.

    `port` is where the TPM's commands go. The AK is made once and loaded for each use, as the agent does.
    """

    REFUSED = TSS2_Exception
    """What a command raises that the TPM refuses."""

    def __init__(self, port: int, ek: str = "L-1", devid: str = "H-3") -> None:
        self.move(port)
        self._guard = threading.Lock()
        self._templates = {
            Role.EK: template(Role.EK, ek),
            Role.IAK: template(Role.IAK, devid),
            Role.IDEVID: template(Role.IDEVID, devid),
        }
        self._ak = self._new_ak()

    def move(self, port: int) -> None:
        """The TPM answers elsewhere, for example after a reboot."""
        self._port = port

    @contextmanager
    def _tpm(self) -> Iterator[ESAPI]:
        with self._guard, TCTILdr("swtpm", f"host=127.0.0.1,port={self._port}") as tcti, ESAPI(tcti) as tpm:
            yield tpm

    @staticmethod
    @contextmanager
    def _ek_session(tpm: ESAPI, ek: Template) -> Iterator[ESYS_TR]:
        if ek.attributes & _USER_WITH_AUTH:
            yield ESYS_TR.PASSWORD
            return
        with policy_session(tpm, ek.name_alg) as session:
            tpm.policy_secret(ESYS_TR.ENDORSEMENT, session)
            yield session

    def _persistent(self, tpm: ESAPI, role: Role) -> ESYS_TR:
        return tpm.tr_from_tpmpublic(self._templates[role].persistent)

    def _new_ak(self):
        public = TPM2B_PUBLIC.parse("rsa2048:rsassa-sha256:null", objectAttributes=_ATTRIBUTES)
        with self._tpm() as tpm, self._ek_session(tpm, self._templates[Role.EK]) as session:
            ek = self._persistent(tpm, Role.EK)
            private, made, *_ = tpm.create(ek, TPM2B_SENSITIVE_CREATE(), public, session1=session)
        return private, made

    @contextmanager
    def _loaded_ak(self, tpm: ESAPI) -> Iterator[ESYS_TR]:
        with self._ek_session(tpm, self._templates[Role.EK]) as session:
            handle = tpm.load(self._persistent(tpm, Role.EK), *self._ak, session1=session)
        with flushing(tpm, handle):
            yield handle

    def public(self, role: Role) -> bytes:
        """TPM2B_PUBLIC of EK, IAK or IDevID."""
        with self._tpm() as tpm:
            return bytes(tpm.read_public(self._persistent(tpm, role))[0].marshal())

    def certificate(self, role: Role) -> bytes:
        """What the key's NV index holds; a guest reads it with the index's own empty authorisation."""
        with self._tpm() as tpm:
            index = tpm.tr_from_tpmpublic(self._templates[role].nv_index)
            size = int(tpm.nv_read_public(index)[0].nvPublic.dataSize)
            parts = range(0, size, _NV_CHUNK)
            return b"".join(bytes(tpm.nv_read(index, min(_NV_CHUNK, size - at), at)) for at in parts)

    def certify_ak(self, qualifier: bytes) -> tuple[bytes, bytes]:
        """TPMS_ATTEST and TPMT_SIGNATURE by the IAK over the AK."""
        with self._tpm() as tpm, self._loaded_ak(tpm) as ak:
            iak = self._persistent(tpm, Role.IAK)
            attest, signature = tpm.certify(ak, iak, qualifier, _NULL_SCHEME)
            return bytes(attest), bytes(signature.marshal())

    def ak_public(self) -> bytes:
        return bytes(self._ak[1].marshal())

    def activate(self, blob: bytes) -> bytes:
        """The secret in a TPM2B_ID_OBJECT followed by a TPM2B_ENCRYPTED_SECRET."""
        credential, used = TPM2B_ID_OBJECT.unmarshal(blob)
        secret, _ = TPM2B_ENCRYPTED_SECRET.unmarshal(blob[used:])
        ek = self._templates[Role.EK]
        with self._tpm() as tpm, self._loaded_ak(tpm) as ak, self._ek_session(tpm, ek) as session:
            recovered = tpm.activate_credential(
                ak, self._persistent(tpm, Role.EK), credential, secret, session2=session
            )
            return bytes(recovered)

    def quote(self, nonce: bytes, mask: int, bound: bytes) -> str:
        """A quote of SHA-256 PCRs as keylime reads it; PCR 16 is made to hold the digest of `bound`."""
        wanted = [n for n in range(24) if (mask | 1 << _BINDING_PCR) >> n & 1]
        selection = TPML_PCR_SELECTION.parse("sha256:" + ",".join(map(str, wanted)))
        digest = TPMT_HA(hashAlg=TPM2_ALG.SHA256, digest=TPMU_HA(sha256=hashlib.sha256(bound).digest()))
        with self._tpm() as tpm, self._loaded_ak(tpm) as ak:
            tpm.pcr_reset(ESYS_TR.PCR16)
            tpm.pcr_extend(ESYS_TR.PCR16, TPML_DIGEST_VALUES([digest]))
            attest, signature = tpm.quote(ak, selection, nonce, _NULL_SCHEME)
            values = []
            for number in wanted:
                one = TPML_PCR_SELECTION.parse(f"sha256:{number}")
                values.append(bytes(tpm.pcr_read(one)[2][0]))
        parts = (bytes(attest), bytes(signature.marshal()), _pcr_blob(wanted, values))
        return "r" + ":".join(base64.b64encode(part).decode() for part in parts)


def _pcr_blob(numbers: list[int], values: list[bytes]) -> bytes:
    """PCR selection and values as tpm2-tools leave them in memory: little-endian, padded to 16 banks."""
    chosen = sum(1 << number for number in numbers)
    blob = struct.pack("<IHB4sx", 1, TPM2_ALG.SHA256, 3, chosen.to_bytes(4, "little")) + bytes(15 * 8)
    groups = [values[at : at + 8] for at in range(0, len(values), 8)]
    blob += struct.pack("<I", len(groups))
    for group in groups:
        filled = group + [b""] * (8 - len(group))
        blob += struct.pack("<I", len(group))
        blob += b"".join(struct.pack("<H64s", len(value), value) for value in filled)
    return blob


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Agent:
    """One agent: an id, a TPM, and a server for quotes while it is used as a context manager."""

    def __init__(self, agent_id: str, tpm: AgentTpm, registrar: str, trusted_ca: Path) -> None:
        self.id = agent_id
        self.tpm = tpm
        self._registrar = f"{registrar}/v2.6/agents/{agent_id}"
        self._trusted_ca = trusted_ca
        self.quotes = 0
        key = rsa.generate_private_key(65537, 2048)
        self._public_key = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self._certificate, self._tls = _tls_identity(key, trusted_ca)
        self._server: http.server.ThreadingHTTPServer | None = None

    # -- registrar ----------------------------------------------------------------------------------------------

    def registration(self) -> Registration:
        """The honest one."""
        qualifier = hashlib.sha256(self.id.encode()).digest()
        attest, signature = self.tpm.certify_ak(qualifier)
        public = {role: _text(self.tpm.public(role)) for role in Role}
        ek = x509.load_der_x509_certificate(self.tpm.certificate(Role.EK))
        return Registration(
            ek_tpm=public[Role.EK],
            ekcert=ek.public_bytes(serialization.Encoding.PEM).decode(),
            aik_tpm=_text(self.tpm.ak_public()),
            iak_tpm=public[Role.IAK],
            iak_cert=_text(self.tpm.certificate(Role.IAK)),
            idevid_tpm=public[Role.IDEVID],
            idevid_cert=_text(self.tpm.certificate(Role.IDEVID)),
            iak_attest=_text(attest),
            iak_sign=_text(signature),
        )

    def register(self, stated: Registration | None = None, **changes: str | None) -> requests.Response:
        """Ask the registrar; with `changes` the honest registration has other fields."""
        body = vars(replace(stated or self.registration(), **changes))
        address = {"ip": "127.0.0.1", "port": self.port, "mtls_cert": self._certificate.decode()}
        return requests.post(
            self._registrar, json={**body, **address}, verify=str(self._trusted_ca), timeout=_LIMIT_S
        )

    def activate(self, reply: requests.Response) -> requests.Response:
        """Prove to the registrar that the TPM with this EK holds this AK."""
        blob = base64.b64decode(reply.json()["results"]["blob"])
        assert blob.startswith(_MAGIC)
        return self.answer_challenge(self.tpm.activate(blob[len(_MAGIC) :]))

    def answer_challenge(self, recovered: bytes) -> requests.Response:
        """Tell the registrar that this was in the challenge."""
        secret = base64.b64encode(recovered)
        tag = hmac.new(secret, self.id.encode(), hashlib.sha384).hexdigest()
        return requests.put(
            self._registrar, json={"auth_tag": tag}, verify=str(self._trusted_ca), timeout=_LIMIT_S
        )

    def join(self) -> None:
        """Registration and activation, both of which must succeed."""
        reply = self.register()
        assert reply.status_code == 200, reply.text
        activated = self.activate(reply)
        assert activated.status_code == 200, activated.text

    # -- tenant and verifier ------------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """Where it serves; 0 while it does not."""
        return 0 if self._server is None else int(self._server.server_address[1])

    def __enter__(self) -> Self:
        agent = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, results = agent.answer(self.path)
                body = json.dumps({"code": status, "status": "", "results": results}).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            def finish_request(self, request, client_address) -> None:
                # In the request's own thread: a client that does not speak holds up nobody.
                request.settimeout(_LIMIT_S)
                try:
                    with agent._tls.wrap_socket(request, server_side=True) as secured:
                        self.RequestHandlerClass(secured, client_address, self)
                except OSError:
                    pass  # the client went away, or is none of keylime's

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()
        self._server = None

    def answer(self, target: str) -> tuple[int, dict[str, object]]:
        """What a GET of this path and query is answered with."""
        url = urllib.parse.urlsplit(target)
        query = dict(urllib.parse.parse_qsl(url.query))
        if url.path == "/version":
            return 200, {"supported_version": "2.2"}
        if not url.path.endswith(("/quotes/identity", "/quotes/integrity")):
            return 404, {}
        quote = self.tpm.quote(query["nonce"].encode(), int(query.get("mask", "0x0"), 16), self._public_key)
        self.quotes += 1
        results = {
            "quote": quote,
            "hash_alg": "sha256",
            "enc_alg": "rsa",
            "sign_alg": "rsassa",
            "boottime": 1,
        }
        if query.get("partial") != "1":
            results["pubkey"] = self._public_key.decode()
        return 200, results


def _tls_identity(key: rsa.RSAPrivateKey, trusted_ca: Path) -> tuple[bytes, ssl.SSLContext]:
    """The self-signed certificate that the agent registers, and the context of its server."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "agent")])
    at = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        name,
        name,
        key.public_key(),
        x509.random_serial_number(),
        at - timedelta(hours=1),
        at + timedelta(hours=1),
    )
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(trusted_ca))
    context.verify_mode = ssl.CERT_REQUIRED
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with tempfile.NamedTemporaryFile() as file:
        file.write(private + certificate)
        file.flush()
        context.load_cert_chain(file.name)
    return certificate, context
