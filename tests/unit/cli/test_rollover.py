"""Rollover end to end: a running server, real enrolments over HTTP, and OpenSSL as the relying party."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import click
import enrollment_world as w
import operations_stage as s
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca_service import keys
from ca_service.cli.main import commands
from vtpm.wire.enrollment import CertificatesReply, Directory, NonceReply

BOOTS = [
    w.Boot(resource=f"default/vtpm/guest-{name}", secret=name.encode() * 32, salt=name.encode() * 16)
    for name in "xy"
]


@pytest.fixture(scope="module")
def tpms():
    return [w.SoftTpm(), w.SoftTpm()]


@pytest.fixture
def world(worked_ca, short):
    """A CA that has worked, with the platform and the KBS key of its TPMs, under a short path."""
    return s.world_in(shutil.copytree(worked_ca.directory, short / "w"), worked_ca.authority)


def ask(server, path: str, body: bytes | None = None) -> bytes:
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}{path}", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 - our own server
        return answer.read()


def refusal(server, path: str, body: bytes | None = None) -> dict[str, object]:
    with pytest.raises(urllib.error.HTTPError) as error:
        ask(server, path, body)
    with error.value as answer:
        return json.loads(answer.read())


def until(condition, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def enrol(world, server, tpm, boot) -> CertificatesReply:
    world.time = s.now()
    nonce = NonceReply.parse(ask(server, "/v1/nonces", b"")).nonce
    reply = ask(server, "/v1/enrollments", world.body(nonce, tpm, boot))
    if "challenges" in json.loads(reply):
        enrolment, answer = w.answer(tpm, reply)
        reply = ask(server, f"/v1/enrollments/{enrolment}/activation", answer)
    return CertificatesReply.parse(reply)


def again(boot: w.Boot, counter: int) -> w.Boot:
    return w.Boot(resource=boot.resource, secret=boot.secret, salt=boot.salt, counter=counter)


def pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


def key_id(der: bytes) -> str:
    certificate = x509.load_der_x509_certificate(der)
    return certificate.extensions.get_extension_for_class(
        x509.AuthorityKeyIdentifier
    ).value.key_identifier.hex()


def leaves(reply: CertificatesReply) -> list:
    return [*reply.ek, reply.iak, reply.idevid]


def openssl_verifies(server, folder, entry) -> bool:
    """Chain, signature and revocation by the list under the leaf's own distribution point."""
    skid = key_id(entry.certificate)
    crl = x509.load_der_x509_crl(ask(server, f"/crl/{skid}/0.crl")).public_bytes(Encoding.PEM)
    assert ask(server, f"/ca/{skid}.cer") == entry.chain[0]
    serial = x509.load_der_x509_certificate(entry.certificate).serial_number
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}/v1/certificates/{serial:034x}",
        headers={"Accept": "application/pem-certificate-chain"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 - our own server
        assert answer.read() == b"".join(map(pem, (entry.certificate, *entry.chain)))
    contents = {"leaf": pem(entry.certificate), "ca": pem(entry.chain[0]), "root": pem(entry.chain[-1])}
    for name, content in {**contents, "crl": crl}.items():
        (folder / name).write_bytes(content)
    command = ["openssl", "verify", "-x509_strict", "-crl_check", "-CRLfile", folder / "crl"]
    command += ["-CAfile", folder / "root", "-untrusted", folder / "ca", folder / "leaf"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_a_rollover_on_a_running_server(serve, here, world, tpms, tmp_path):  # noqa: PLR0915 - one story
    ca = world.directory / "ca"

    def ok(*words: object):
        done = here(*words, "--dir", ca, "--json")
        assert (done.code, done.err) == (0, "")
        return json.loads(done.out)

    def no(*words: object) -> str:
        done = here(*words, "--dir", ca)
        assert (done.code, done.out) == (1, "")
        return done.err

    def generations(store: str) -> set[str]:
        ok("export", "keylime", tmp_path / store)
        listed = {row["skid"][:16]: f"{row['role']} {row['generation']}" for row in ok("ca", "list")}
        return {listed[path.stem.rsplit("-", 1)[1]] for path in (tmp_path / store).iterdir()}

    server = serve(ca, "--workers", "2")
    first, second = tpms
    old = enrol(world, server, first, BOOTS[0])
    assert generations("store") == {"ek 1", "devid 1"}

    made = ok("ca", "prepare", "--root-key", ca / "offline" / "root.sealed")["changed"]
    assert [(row["role"], row["generation"], row["state"]) for row in made] == [
        ("ek", 2, "prepared"),
        ("devid", 2, "prepared"),
    ]
    new = {row["role"]: row["skid"] for row in made}
    assert "prepared already" in no("ca", "prepare")
    # Every worker publishes what nobody has signed with yet, and a consumer learns of it beforehand.
    for skid in new.values():
        assert list(x509.load_der_x509_crl(ask(server, f"/crl/{skid}/0.crl"))) == []
    assert here("export", "keylime", tmp_path / "store", "--check", "--dir", ca).code == 1
    assert generations("store") == {"ek 1", "ek 2", "devid 1", "devid 2"}
    assert here("export", "keylime", tmp_path / "store", "--check", "--dir", ca).code == 0
    assert {key_id(e.certificate) for e in leaves(enrol(world, server, first, again(BOOTS[0], 2)))} == {
        key_id(e.certificate) for e in leaves(old)
    }

    ok("ca", "activate")
    fresh = enrol(world, server, second, BOOTS[1])
    assert [key_id(entry.certificate) for entry in leaves(fresh)] == [new["ek"], new["devid"], new["devid"]]
    subjects = {x509.load_der_x509_certificate(r.ek[0].chain[0]).subject for r in (old, fresh)}
    assert len(subjects) == 2
    for entry in (*leaves(old), *leaves(fresh)):
        assert openssl_verifies(server, tmp_path, entry)
    assert generations("store") == {"ek 1", "ek 2", "devid 1", "devid 2"}
    directory = Directory.parse(ask(server, "/.well-known/vtpm-ca"))
    assert sorted((i.role, i.state) for i in directory.issuers) == [
        ("devid", "active"),
        ("devid", "old"),
        ("ek", "active"),
        ("ek", "old"),
        ("ephemeral", "active"),
        ("root", ""),
    ]

    ok("ca", "taint")
    replaced = enrol(world, server, first, again(BOOTS[0], 3))
    assert key_id(replaced.ek[0].certificate) == new["ek"]
    # A revocation under the former issuing CA shows on its own list.
    serial = x509.load_der_x509_certificate(old.iak.certificate).serial_number
    ok("cert", "revoke", f"{serial:034x}", "--yes")
    assert not openssl_verifies(server, tmp_path, old.iak)
    assert openssl_verifies(server, tmp_path, old.idevid)

    # Three of the first enrolment of this CA, two that were replaced and not revoked.
    assert "rest on what would be retired: 5" in no("ca", "retire", "--yes")
    assert "not 4" in no("ca", "retire", "--abandon", "4", "--yes")
    assert not ok("ca", "retire", "--abandon", "5")["done"]
    gone = ok("ca", "retire", "--abandon", "5", "--yes")
    assert (len(gone["abandoned"]), {row["state"] for row in gone["retired"]}) == (5, {"retired"})
    assert here("export", "keylime", tmp_path / "store", "--check", "--dir", ca).code == 1
    assert generations("store") == {"ek 2", "devid 2"}
    directory = Directory.parse(ask(server, "/.well-known/vtpm-ca"))
    assert sorted(i.state for i in directory.issuers) == ["", "active", "active", "active"]
    # Who still trusts it on his own can still see what it has revoked.
    assert openssl_verifies(server, tmp_path, old.idevid)
    assert json.loads(ask(server, "/readyz")) == {"status": "ready"}
    listed = here("ca", "list", "--dir", ca)
    assert server.end(signal.SIGTERM) == 0
    assert "Traceback" not in server.log.read_text()
    # Without the server the same is seen, and done.
    assert here("ca", "list", "--dir", ca) == listed
    blue = ok("ca", "prepare", "--pair", "blue", "--role", "ek")["changed"]
    assert [(row["pair"], row["generation"], row["state"]) for row in blue] == [("blue", 1, "prepared")]
    assert ok("ca", "activate", "--pair", "blue")["changed"][0]["state"] == "active"


def test_a_node_whose_directory_lacks_the_new_key(serve, here, world, tpms, short):
    ca, url = world.directory / "ca", world.url
    node = shutil.copytree(ca, short / "n")
    for words in (("ca", "prepare"), ("ca", "activate")):
        assert here(*words, "--dir", ca).code == 0
    server = serve(node, "--database", url)
    # The key that it lacks is one that it needs; what it can, it still does.
    assert refusal(server, "/readyz")["code"] == "issuer"
    world.time = s.now()
    nonce = NonceReply.parse(ask(server, "/v1/nonces", b"")).nonce
    enrolment, answer = w.answer(
        tpms[0], ask(server, "/v1/enrollments", world.body(nonce, tpms[0], BOOTS[0]))
    )
    problem = refusal(server, f"/v1/enrollments/{enrolment}/activation", answer)
    assert (problem["status"], problem["code"], problem["retryable"]) == (503, "issuer", True)
    listed = {
        i.url.rsplit("/", 1)[1]: i for i in Directory.parse(ask(server, "/.well-known/vtpm-ca")).issuers
    }
    active = [name for name, issuer in listed.items() if issuer.state == "active" and issuer.role == "ek"]
    assert x509.load_der_x509_certificate(ask(server, f"/ca/{active[0]}"))
    assert "copy what is new in certs/ and private/" in server.log.read_text()
    # Copied in the order that the log names, the node goes on without a restart.
    for folder in ("certs", "private"):
        shutil.copytree(ca / folder, node / folder, dirs_exist_ok=True)
    shutil.copy(ca / "ca.toml", node / "ca.toml.new")
    (node / "ca.toml.new").rename(node / "ca.toml")
    until(lambda: "was read anew" in server.log.read_text())
    reply = CertificatesReply.parse(ask(server, f"/v1/enrollments/{enrolment}/activation", answer))
    assert f"{key_id(reply.ek[0].certificate)}.cer" == active[0]
    assert json.loads(ask(server, "/readyz")) == {"status": "ready"}
    assert server.end(signal.SIGTERM) == 0


def test_what_the_root_revokes_was_given_up_before(here, ca, tmp_path):
    def revoke(skid: str, *words: str):
        return here("crl", "publish", "--root", "--revoke", skid, *words, "--dir", ca)

    def skid(generation: int) -> str:
        listed = json.loads(here("ca", "list", "--json", "--dir", ca).out)
        return next(r["skid"] for r in listed if (r["role"], r["generation"]) == ("ek", generation))

    words = ("--role", "ek", "--dir", ca)
    assert here("ca", "prepare", *words).code == 0
    for generation, word in ((1, "signs"), (2, "is prepared")):
        done = revoke(skid(generation), "--yes")
        assert (done.code, done.out) == (1, "")
        assert word in done.err
    assert here("ca", "activate", *words).code == 0
    assert "is old" in revoke(skid(1), "--yes").err
    assert here("ca", "taint", *words).code == 0
    assert "Dry run" in revoke(skid(1)).out
    assert revoke(skid(1), "--yes").code == 0
    assert here("export", "keylime", tmp_path / "store", *words).code == 0
    assert [path.name[-20:-4] for path in (tmp_path / "store").iterdir()] == [skid(2)[:16]]


def test_two_that_prepare_at_once_make_one(here, ca, monkeypatch):
    """The second has asked already when the first makes its own."""

    def load_root(directory: Path, passphrase: bytes, *rest: object):
        root = load_as_usual(directory, passphrase, *rest)
        if not made:
            made.extend(
                keys.prepare_issuing(
                    directory, root, ["ek"], passphrase=passphrase, clock=s.now, entropy=os.urandom
                )
            )
        return root

    load_as_usual = keys.load_root
    made: list[keys.PublicIssuer] = []
    monkeypatch.setattr("ca_service.keys.load_root", load_root)
    done = here("ca", "prepare", "--dir", ca)
    assert (done.code, done.out) == (1, "")
    assert "meanwhile" in done.err
    listed = json.loads(here("ca", "list", "--json", "--dir", ca).out)
    assert [row["skid"] for row in listed if row["generation"] == 2] == [made[0].skid]


def test_the_commands_of_the_document(monkeypatch, tmp_path):
    """Each line of the operator's page is a command with options that it has."""
    document = (Path(__file__).parents[3] / "docs" / "rollover.md").read_text()
    lines = [
        line for block in re.findall(r"```sh\n(.*?)```", document, re.DOTALL) for line in block.splitlines()
    ]
    lines += re.findall(r"`(vtpm-ca ca [^`]* --[^`]*)`", document)
    assert len(lines) > 10
    monkeypatch.setenv("VTPM_CA_DIR", str(tmp_path))
    for line in lines:
        program, *words = re.sub(r"\b[NM]\b", "1", line).split()
        assert program == "vtpm-ca"
        command, context = commands, click.Context(commands)
        while isinstance(command, click.Group):
            command = command.get_command(context, words.pop(0))
        command.make_context(line, words)
