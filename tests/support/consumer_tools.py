"""Programs of others that read and judge certificates: OpenSSL, GnuTLS's certtool, pkilint.

Each says of a certificate what a cell of the table in docs/consumers.md says: `PASS`, ``refused: why``, or
`NOT_FOR_IT` if the program is not asked about such a certificate.
"""

import json
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from every_certificate import EveryCertificate, Issued

PASS = "pass"
NOT_FOR_IT = "not for it"

PKILINT = Path(__file__).parents[2] / ".venv-pkilint" / "bin" / "python"
_TIMEOUT_S = 60
_OCSP_SIGNING = "1.3.6.1.5.5.7.3.9"


def refused(why: str) -> str:
    return f"refused: {why}"


def run(*words: object, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A program's end, with all that it said in `stdout`; certificates hold bytes that are no text."""
    return subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        timeout=_TIMEOUT_S,
        check=False,
    )


def list_pem(der: bytes) -> bytes:
    return x509.load_der_x509_crl(der).public_bytes(Encoding.PEM)


def certificate_pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


class Files:
    """What the programs are given: the CAs, the lists, and certificates as they are needed.

    ``lists.pem`` has all revocation lists, ``chain.pem`` the issuing CAs.
    """

    def __init__(self, folder: Path, every: EveryCertificate) -> None:
        folder.mkdir()
        self.folder, self.every = folder, every
        for one in (*every.issued, *every.revoked):
            self.put(f"{name_of(one)}.pem", one.pem())
        self.put("lists.pem", b"".join(list_pem(der) for der in every.lists.values()))
        cas = [one for one in every.issued if one.profile == "issuing-ca"]
        self.put("chain.pem", b"".join(one.pem() for one in cas))
        self.root = self.put("root.pem", every.root.certificate.public_bytes(Encoding.PEM))

    def put(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path

    def of(self, one: Issued) -> Path:
        return self.folder / f"{name_of(one)}.pem"

    def ca(self, role: str) -> Path:
        kind = "root-ca" if role == "root" else "issuing-ca"
        return self.folder / f"{kind}-{role}.pem"

    def list_of(self, role: str, shard: int = 0) -> Path:
        return self.put(f"{role}-{shard}-list.pem", list_pem(self.every.lists[role, shard]))


def name_of(one: Issued) -> str:
    """A file's name: good and revoked certificates can be alike but for the serial number."""
    return f"{one.id}-{one.certificate.serial_number:x}" if one.device else one.id


# What both readers must show of a certificate of a kind, each in its own words. The first word is OpenSSL's.
_SHOWN = {
    "Key Usage": ("Key Usage: critical", "Key Usage (critical)"),
    "AKI": ("Authority Key Identifier", "Authority Key Identifier (not critical)"),
    "SKI": ("Subject Key Identifier", "Subject Key Identifier (not critical)"),
    "AIA": ("CA Issuers - URI:http://ca.test/ca/", "Access Location URI: http://ca.test/ca/"),
    "OCSP": ("OCSP - URI:http://ca.test/ocsp", "Access Location URI: http://ca.test/ocsp"),
    "CDP": ("URI:http://ca.test/crl/", "URI: http://ca.test/crl/"),
    "sign": ("Digital Signature", "Digital signature."),
    "encipher": ("Key Encipherment", "Key encipherment."),
    "agree": ("Key Agreement", "Key agreement."),
    "certify": ("Certificate Sign, CRL Sign", "CRL signing."),
    "no CA": ("CA:FALSE", "Certificate Authority (CA): FALSE"),
    "CA": ("CA:TRUE, pathlen:0", "Path Length Constraint: 0"),
    "root": ("CA:TRUE", "Certificate Authority (CA): TRUE"),
    "TPM": ("DirName:/2.23.133.2.1=id:49424D00", "2.23.133.2.1=#"),
    "critical name": ("Alternative Name: critical", "Alternative Name (critical)"),
    "name": ("X509v3 Subject Alternative Name: \n", "Alternative Name (not critical)"),
    "module": ("othername: 1.3.6.1.5.5.7.8.4", "otherName OID: 1.3.6.1.5.5.7.8.4"),
    "permanent": ("othername: Permanent Identifier", "otherName OID: 1.3.6.1.5.5.7.8.3"),
    "EK": ("2.23.133.8.1", "2.23.133.8.1"),
    "AIK": ("2.23.133.8.3", "2.23.133.8.3"),
    "directory": ("Subject Directory Attributes", "extension 2.5.29.9 (not critical)"),
    "resident": ("Policy: 2.23.133.11.1.1", "2.23.133.11.1.1"),
    "fixed": ("Policy: 2.23.133.11.1.2", "2.23.133.11.1.2"),
    "restricted": ("Policy: 2.23.133.11.1.3", "2.23.133.11.1.3"),
    "responder": ("Extended Key Usage: critical", "Key Purpose (critical)"),
    "no check": ("OCSP No Check", "1.3.6.1.5.5.7.48.1.5"),
    "device": ("vTPM", "vTPM"),
}
_DEVICE = ("AKI", "SKI", "AIA", "OCSP", "CDP", "Key Usage")
_IDENTITY = (*_DEVICE, "sign", "resident", "permanent")
_CONTENT = {
    "ek": (*_DEVICE, "no CA", "TPM", "critical name", "EK", "directory"),
    "iak": (*_IDENTITY, "restricted", "AIK", "module", "name", "device"),
    "iak-webauthn": (*_IDENTITY, "restricted", "AIK", "TPM", "critical name"),
    "idevid": (*_IDENTITY, "fixed", "module", "name", "device"),
    "ocsp": ("AKI", "SKI", "Key Usage", "sign", "responder", "no check"),
    "issuing-ca": ("AKI", "SKI", "AIA", "CDP", "Key Usage", "certify", "CA"),
    "root-ca": ("SKI", "Key Usage", "certify", "root"),
}
_KEYS = {
    "RSA-2048": ("Public-Key: (2048 bit)", "Algorithm: RSA"),
    "RSA-3072": ("Public-Key: (3072 bit)", "Algorithm: RSA"),
    "P-256": ("NIST CURVE: P-256", "Curve:\tSECP256R1"),
    "P-384": ("NIST CURVE: P-384", "Curve:\tSECP384R1"),
    "P-521": ("NIST CURVE: P-521", "Curve:\tSECP521R1"),
}


def _unshown(one: Issued, said: str, reader: int, further: Iterable[str]) -> list[str]:
    """What a reader should have shown and has not."""
    wanted = [_SHOWN[word][reader] for word in _CONTENT[one.profile]] + [_KEYS[one.key][reader]]
    if one.profile == "ek":
        wanted.append(_SHOWN["encipher" if one.key.startswith("RSA") else "agree"][reader])
    return [text for text in (*wanted, *further) if text not in said]


class OpenSsl:
    """``openssl x509``, ``verify``, ``crl`` and ``ocsp``."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def judge(self, one: Issued) -> str:
        """The table's cell: it is read whole, and verified with lists and all strictness that fits it."""
        if one.profile == "root-ca":
            return self._both(self.read(one), self.verify(one, "-x509_strict", lists=False))
        if one.profile == "ocsp":
            # It stands on no list, and says so (RFC 6960, section 4.2.2.2.1).
            found = self.verify(one, "-x509_strict", "-purpose", "ocsphelper", lists=False)
            return self._both(self.read(one), found, self.ask(one))
        found = self.verify(one, "-x509_strict", "-crl_check_all", "-check_ss_sig", *self._policy(one))
        return self._both(self.read(one), found, *([self.ask(one)] if one.device else []))

    def _both(self, *verdicts: str) -> str:
        return next((verdict for verdict in verdicts if verdict != PASS), PASS)

    def _policy(self, one: Issued) -> tuple[str, ...]:
        """With the policies that the certificate states, where it states any."""
        if one.profile in ("iak", "iak-webauthn", "idevid"):
            return ("-policy_check", "-policy", "2.23.133.11.1.1")
        return ()

    def read(self, one: Issued) -> str:
        """Whether ``openssl x509 -text`` shows all that is in it."""
        path = self._files.of(one)
        said = run(
            "openssl", "x509", "-in", path, "-noout", "-text", "-pubkey", "-fingerprint", "-sha256"
        ).stdout
        own = one.certificate
        key = own.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        digest = own.fingerprint(hashes.SHA256()).hex(":").upper()
        end = own.not_valid_after_utc.strftime("Not After : %b %e %H:%M:%S %Y GMT")
        missing = _unshown(one, said, 0, (key, digest, end))
        return refused("does not show " + ", ".join(map(repr, missing))) if missing else PASS

    def verify(
        self,
        one: Issued | Path,
        *options: str,
        lists: bool | Path = True,
        root: Path | None = None,
        chain: Path | None = None,
        at: datetime | None = None,
    ) -> str:
        """``openssl verify`` with these options."""
        files = self._files
        moment = str(int((at or files.every.at).timestamp()))
        words = ["openssl", "verify", "-attime", moment, "-CAfile", root or files.root, *options]
        words += ["-untrusted", chain or files.folder / "chain.pem"]
        if lists:
            words += ["-CRLfile", files.folder / "lists.pem" if lists is True else lists]
        done = run(*words, files.of(one) if isinstance(one, Issued) else one)
        if done.returncode == 0:
            return PASS
        found = re.search(r"lookup: ?(.*)", done.stdout)
        return refused(found[1] if found else done.stdout)

    def ask(self, one: Issued, answer: bytes | None = None, root: Path | None = None) -> str:
        """What ``openssl ocsp`` reads from the CA's answer about a certificate; of a responder's, by that responder."""
        files = self._files
        about = next(x for x in files.every.devices if x.issuer == one.issuer) if not one.device else one
        path = files.put("answer", answer or files.every.answer(about))
        words = ["openssl", "ocsp", "-issuer", files.ca(about.issuer), "-sha256", "-cert", files.of(about)]
        words += ["-respin", path, "-no_nonce", "-CAfile", root or files.root]
        words += ["-verify_other", files.folder / "chain.pem"]
        words += ["-attime", str(int(files.every.at.timestamp()) + 1), "-validity_period", str(10**7)]
        said = run(*words).stdout
        if "Response verify OK" not in said:
            return refused(said)
        if "No Status found" in said:
            return refused("no status found")
        found = re.search(r"\.pem: (\w+)", said)
        status = found[1] if found else said
        return PASS if status == "good" else refused(f"certificate {status}")

    def read_list(self, der: bytes, role: str) -> str:
        """``openssl crl``: the signature of the CA of this role, and all that the list says."""
        path = self._files.put("list.crl", der)
        words = ["openssl", "crl", "-inform", "DER", "-in", path, "-CAfile", self._files.ca(role)]
        return run(*words, "-noout", "-text").stdout


class CertTool:
    """GnuTLS's ``certtool``, which cannot be told another time than the present."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def judge(self, one: Issued) -> str:
        """The table's cell: it is read whole, and verified with the lists that it names."""
        found = self.read(one)
        if found != PASS:
            return found
        purpose = ("--verify-purpose", _OCSP_SIGNING) if one.profile == "ocsp" else ()
        return self.verify(one, *purpose)

    def read(self, one: Issued) -> str:
        """Whether ``certtool -i`` shows all that is in it."""
        done = run("certtool", "-i", "--infile", self._files.of(one))
        if done.returncode:
            return refused(done.stdout.strip().splitlines()[0].removeprefix("import error: ").rstrip("."))
        own = one.certificate
        digest = own.fingerprint(hashes.SHA256()).hex()
        serial = f"Serial Number (hex): {own.serial_number:034x}"
        end = own.not_valid_after_utc.strftime("Not After: %a %b %d %H:%M:%S UTC %Y")
        missing = _unshown(one, done.stdout, 1, (digest, serial, end))
        return refused("does not show " + ", ".join(map(repr, missing))) if missing else PASS

    def reads(self, path: Path) -> bool:
        """Whether ``certtool -i`` reads a file in DER."""
        return run("certtool", "-i", "--inder", "--infile", path).returncode == 0

    def verify(
        self,
        one: Issued | bytes,
        *options: str,
        issuer: str = "",
        lists: Sequence[bytes] | None = None,
        root: Path | None = None,
    ) -> str:
        """``certtool --verify``: the certificate and its issuer, with the root's list and the one that it names.

        GnuTLS keeps one list of an issuer, whatever place the list says that it is of.
        """
        files = self._files
        issuer = issuer or (one.issuer if isinstance(one, Issued) else "")
        pem = one.pem() if isinstance(one, Issued) else one
        is_ca = isinstance(one, Issued) and one.profile in ("issuing-ca", "root-ca")
        chain = files.put("chain-of-one.pem", pem if is_ca else pem + files.ca(issuer).read_bytes())
        if lists is None:
            lists = [files.every.lists["root", 0]]
            if isinstance(one, Issued) and not is_ca and (named := self.named_list(one)):
                lists.append(named)
        path = files.put("lists-of-one.pem", b"".join(map(list_pem, lists)))
        words = ["certtool", "--verify", "--verify-profile", "medium", "--infile", chain, "--load-crl", path]
        done = run(*words, "--load-ca-certificate", root or files.root, *options)
        if done.returncode == 0 and "Chain verification output: Verified." in done.stdout:
            return PASS
        found = re.findall(r"NOT trusted\. *(.*)", done.stdout)
        return refused(" ".join(dict.fromkeys(part.strip() for part in found)) or done.stdout)

    def named_list(self, one: Issued) -> bytes | None:
        """The list that a certificate names; a responder's names none."""
        try:
            points = one.certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
        except x509.ExtensionNotFound:
            return None
        shard = int(re.search(r"/(\d+)\.crl$", points[0].full_name[0].value)[1])
        return self._files.every.lists[one.issuer, shard]

    def verify_list(self, der: bytes, role: str) -> str:
        """``certtool --verify-crl`` with the CA of this role."""
        path = self._files.put("list.pem", list_pem(der))
        done = run(
            "certtool", "--verify-crl", "--load-ca-certificate", self._files.ca(role), "--infile", path
        )
        if done.returncode == 0 and "Verification output: Verified." in done.stdout:
            return PASS
        found = re.search(r"NOT trusted\. *(.*)", done.stdout)
        return refused(found[1].strip() if found else done.stdout)

    def read_list(self, der: bytes) -> str:
        """``certtool --crl-info``: all that the list says."""
        return run("certtool", "--crl-info", "--infile", self._files.put("list.pem", list_pem(der))).stdout


# pkilint's own commands, one after another in one process: to start it takes longer than to judge.
_LINT = """\
import contextlib, importlib, io, json, sys
for line in sys.stdin:
    tool, *words = json.loads(line)
    said, complained = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
        code = importlib.import_module(f"pkilint.bin.{tool}").main(words)
    print(json.dumps([code, said.getvalue(), complained.getvalue()]), flush=True)
"""


class PkiLintMissing(Exception):
    """pkilint's environment is not there."""


class PkiLint:
    """pkilint's linters of certificates, chains, revocation lists and OCSP answers.

    `severity` is the least that is told of: what is a NOTICE or below is no objection.
    """

    _COMMON = ("-s", "WARNING", "-f", "JSON", "--document-format", "DER")

    def __init__(self, files: Files) -> None:
        if not PKILINT.exists():
            raise PkiLintMissing("run scripts/setup dev: it makes .venv-pkilint")
        self._files = files
        self._process = subprocess.Popen(
            [PKILINT, "-c", _LINT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=_TIMEOUT_S)

    def certificates(self, ders: dict[str, tuple[bytes, bytes | None]]) -> dict[str, str]:
        """A verdict for each certificate, and its place in a chain if its issuer's certificate is there as well."""
        jobs, owners = [], []
        for number, (name, (der, issuer)) in enumerate(ders.items()):
            own = self._files.put(f"lint-{number}.der", der)
            jobs.append(["lint_pkix_cert", "lint", *self._COMMON, str(own)])
            owners.append(name)
            if issuer is not None:
                above = self._files.put(f"lint-{number}-issuer.der", issuer)
                words = ["lint_pkix_signer_signee_cert_chain", "lint", *self._COMMON, str(above), str(own)]
                jobs.append(words)
                owners.append(name)
        verdicts: dict[str, str] = {}
        for name, verdict in zip(owners, self._lint(jobs), strict=True):
            if verdicts.get(name, PASS) == PASS:
                verdicts[name] = verdict
        return verdicts

    def lists(self) -> dict[tuple[str, int], str]:
        """A verdict for each revocation list."""
        jobs = []
        for (role, shard), der in self._files.every.lists.items():
            path = self._files.put(f"lint-{role}-{shard}.crl", der)
            kind = ("-t", "ARL" if role == "root" else "CRL", "-p", "PKIX")
            jobs.append(["lint_crl", "lint", *kind, *self._COMMON, str(path)])
        return dict(zip(self._files.every.lists, self._lint(jobs), strict=True))

    def answer(self, der: bytes) -> str:
        """A verdict for an OCSP answer."""
        path = self._files.put("lint-answer.der", der)
        return self._lint([["lint_ocsp_response", "lint", *self._COMMON, str(path)]])[0]

    def _lint(self, jobs: list[list[str]]) -> list[str]:
        return [self._ended(job) for job in jobs]

    def _ended(self, job: list[str]) -> str:
        print(json.dumps(job), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise AssertionError("pkilint's process has ended")
        return self._verdict(*json.loads(line))

    def _verdict(self, code: int, said: str, complained: str) -> str:
        if complained:
            # The path that stands in it is another in each run.
            return refused(complained.strip().rpartition(": ")[2])
        findings = [
            finding["code"]
            for result in json.loads(said)["results"]
            for finding in result["finding_descriptions"]
        ]
        if bool(code) != bool(findings):
            raise AssertionError(said)
        return refused(", ".join(dict.fromkeys(findings))) if findings else PASS


@dataclass(frozen=True)
class Programs:
    """All of them, on the same files."""

    openssl: OpenSsl
    certtool: CertTool
    pkilint: PkiLint


@contextmanager
def programs(files: Files) -> Iterator[Programs]:
    """The programs, of which pkilint is a process."""
    made = Programs(OpenSsl(files), CertTool(files), PkiLint(files))
    try:
        yield made
    finally:
        made.pkilint.close()
