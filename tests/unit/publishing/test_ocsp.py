"""What the CA answers about its certificates, judged by OpenSSL and read by a second parser."""

import base64
import hashlib
import subprocess
from dataclasses import replace
from datetime import timedelta
from urllib.parse import quote

import pytest
from asn1crypto import ocsp as asn1
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ca_service.api import Services, create_app
from ca_service.api.services import HttpLimits
from ca_service.audit import audit_folder, export_log
from ca_service.enrollment import Limits, revoke
from ca_service.enrollment.responders import OPEN_FOR, ensure_responders
from ca_service.judgment import Unavailable
from ca_service.operations.audit import audit_ca
from ca_service.operations.log_identity import log_key
from ca_service.profiles import OCSP_LIMIT
from ca_service.status import responder_key
from ca_service.store import CertificateState, IssuerState

REQUEST = "application/ocsp-request"
NEVER = 0x05 << 128 | 7


class Pki:
    """The files that OpenSSL wants, and what it is asked."""

    def __init__(self, folder, world, store):
        self.folder, self.world, self.store = folder, world, store
        self.put("root", world.authority.root.public_bytes(Encoding.PEM))
        for ca in world.authority.issuers:
            self.put(ca.role, ca.certificate.public_bytes(Encoding.PEM))
        self.put(
            "chain", b"".join((folder / name).read_bytes() for name in ("root", "ek", "devid", "ephemeral"))
        )

    def put(self, name, data):
        (self.folder / name).write_bytes(data)

    def request(self, issuer, serials, *options):
        words = [word for serial in serials for word in ("-serial", f"0x{serial:x}")]
        command = ["openssl", "ocsp", "-issuer", self.folder / issuer, *options, *words]
        command += ["-reqout", self.folder / "request"]
        subprocess.run(command, capture_output=True, check=True)
        return (self.folder / "request").read_bytes()

    def judge(self, issuer, serials, answer, *digest):
        """What `openssl ocsp` makes of a response to the last request, with the whole chain of the signer checked.

        It is asked twice, since it draws a nonce of its own for serial numbers: for the nonce, and for what is said.
        """
        self.put("answer", answer)
        words = [word for serial in serials for word in ("-serial", f"0x{serial:x}")]
        asked = [*digest, "-issuer", self.folder / issuer, *words, "-no_nonce"]
        return self._openssl("-reqin", self.folder / "request") + self._openssl(*asked)

    def _openssl(self, *words):
        command = [
            "openssl",
            "ocsp",
            *words,
            "-respin",
            self.folder / "answer",
            "-CAfile",
            self.folder / "root",
        ]
        command += ["-verify_other", self.folder / "chain"]
        # The time of the tests is not the machine's.
        command += ["-attime", str(int(self.world.time.timestamp()) + 1), "-validity_period", str(10**9)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr


@pytest.fixture
def pki(tmp_path, world, store):
    folder = tmp_path / "pki"
    folder.mkdir()
    return Pki(folder, world, store)


def post(client, der, path="/ocsp", mimetype=REQUEST):
    return client.post(path, data=der, content_type=mimetype)


def basic(answer):
    """The one part of a response that is signed, as a second parser reads it."""
    assert answer.status_code == 200
    assert answer.mimetype == "application/ocsp-response"
    parsed = asn1.OCSPResponse.load(answer.data, strict=True)
    assert parsed["response_status"].native == "successful"
    return parsed.basic_ocsp_response


def failure(answer):
    assert answer.status_code == 200
    assert answer.mimetype == "application/ocsp-response"
    parsed = asn1.OCSPResponse.load(answer.data, strict=True)
    assert parsed["response_bytes"].native is None
    return parsed["response_status"].native


def serial_of(row):
    return int(row.serial, 16)


@pytest.mark.parametrize("digest", ["-sha1", "-sha256"])
@pytest.mark.parametrize("nonce", ["-nonce", "-no_nonce"])
def test_good_revoked_and_unknown(client, store, world, eks, pki, digest, nonce):
    bad, good = map(serial_of, eks)
    at = world.time + timedelta(minutes=1)
    revoke(store, world.authority, eks[0].serial, at=at, reason="keyCompromise", cause="t", limits=Limits())
    asked = [good, bad, NEVER]
    request = pki.request("ek", asked, digest, nonce)
    said = pki.judge("ek", asked, post(client, request).data, digest)
    assert said.count("Response verify OK") == 2
    assert f"0x{good:x}: good" in said
    assert f"0x{bad:x}: revoked" in said
    assert "Reason: keyCompromise" in said
    assert "12:01:00 2026" in said
    assert f"0x{NEVER:x}: unknown" in said
    assert "nonce" not in said.lower()


def test_the_signer_is_delegated_by_the_issuer_and_nobody_else(client, world, store, eks, pki):
    serials = [serial_of(eks[1])]
    answer = post(client, pki.request("ek", serials)).data
    assert pki.judge("ek", serials, answer).count("Response verify OK") == 2
    # Another root; an answer that was changed; the answer to another request.
    pki.put("root", (pki.folder / "devid").read_bytes())
    assert "Response Verify Failure" in pki.judge("ek", serials, answer)
    pki.put("root", world.authority.root.public_bytes(Encoding.PEM))
    forged = bytearray(answer)
    forged[answer.index(bytes.fromhex("8000"))] = 0x82
    assert "Response Verify Failure" in pki.judge("ek", serials, bytes(forged))
    pki.request("ek", serials)
    assert "Nonce Verify error" in pki.judge("ek", serials, answer)


def test_a_second_parser_reads_what_was_meant(client, world, store, eks, pki):
    asked = [serial_of(eks[0]), NEVER]
    response = basic(post(client, pki.request("ek", asked, "-sha256", "-nonce")))
    data = response["tbs_response_data"]
    assert data["version"].native == "v1"
    (certificate,) = response["certs"]
    with store.read() as tx:
        (row,) = tx.responders.of_issuer(eks[0].issuer, CertificateState.ISSUED)
    assert certificate.dump() == row.der
    assert data["responder_id"].name == "by_key"
    assert data["responder_id"].native == certificate.public_key.sha1
    assert data["produced_at"].native == world.time
    for single, serial in zip(data["responses"], asked, strict=True):
        assert single["cert_id"]["serial_number"].native == serial
        assert single["this_update"].native == world.time
        assert single["next_update"].native == world.time + timedelta(hours=1)
    assert [single["cert_status"].name for single in data["responses"]] == ["good", "unknown"]
    sent = asn1.OCSPRequest.load((pki.folder / "request").read_bytes()).nonce_value.native
    assert response["tbs_response_data"]["response_extensions"][0]["extn_value"].parsed.native == sent
    signer = x509.load_der_x509_certificate(row.der)
    key = signer.public_key()
    key.verify(response["signature"].native, data.dump(), ec.ECDSA(hashes.SHA256()))
    assert signer.extensions.get_extension_for_class(x509.OCSPNoCheck)
    usage = signer.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    assert list(usage.value) == [x509.ExtendedKeyUsageOID.OCSP_SIGNING]
    assert signer.not_valid_after_utc - signer.not_valid_before_utc <= OCSP_LIMIT


def test_a_revocation_shows_at_once(client, store, world, eks, pki):
    serials = [serial_of(eks[0])]
    request = pki.request("ek", serials)
    assert ": good" in pki.judge("ek", serials, post(client, request).data)
    revoke(
        store, world.authority, eks[0].serial, at=world.time, reason="superseded", cause="t", limits=Limits()
    )
    assert ": revoked" in pki.judge("ek", serials, post(client, request).data)


def test_certificates_of_another_issuer(client, world, eks, pki):
    devid, ek = (world.authority.issuer(role).skid for role in ("devid", "ek"))
    serials = [serial_of(eks[0])]
    request = pki.request("devid", serials)
    # The DevID CA has issued nothing with that number.
    assert ": unknown" in pki.judge("devid", serials, post(client, request).data)
    assert failure(post(client, request, f"/ocsp/{ek}")) == "unauthorized"
    assert ": unknown" in pki.judge("devid", serials, post(client, request, f"/ocsp/{devid}").data)
    assert failure(post(client, pki.request("root", serials))) == "unauthorized"
    assert failure(post(client, request, "/ocsp/" + "00" * 20)) == "unauthorized"
    # Of two issuers, the first is answered for; about the other one its responder knows nothing.
    both = join(pki.request("ek", serials), request)
    statuses = [s["cert_status"].name for s in basic(post(client, both))["tbs_response_data"]["responses"]]
    assert statuses == ["good", "unknown"]


def join(*requests):
    parsed = [asn1.OCSPRequest.load(request) for request in requests]
    singles = [single for one in parsed for single in one["tbs_request"]["request_list"]]
    return asn1.OCSPRequest({"tbs_request": {"request_list": singles}}).dump()


class TestHttp:
    def url(self, der, skid=""):
        return f"/ocsp/{skid}{quote(base64.b64encode(der).decode(), safe='')}"

    def test_by_get_and_for_caches(self, client, world, eks, pki):
        serials = [serial_of(eks[0])]
        request = pki.request("ek", serials, "-no_nonce")
        for skid in ("", f"{world.authority.issuer('ek').skid}/"):
            answer = client.get(self.url(request, skid))
            assert ": good" in pki.judge("ek", serials, answer.data)
            control = answer.headers["Cache-Control"]
            assert control == "max-age=600, public, no-transform, must-revalidate"
            assert answer.last_modified == world.time
            assert answer.expires == world.time + timedelta(hours=1)
            assert answer.headers["ETag"] == f'"{hashlib.sha256(answer.data).hexdigest()}"'

    def test_slashes_in_base64(self, client, eks, pki):
        """Clients do not all escape them, and two may stand side by side."""
        request = pki.request("ek", [serial_of(eks[0])], "-no_nonce")
        nonce = b"\xff" * 32
        extension = {"extn_id": "nonce", "extn_value": asn1.OctetString(nonce)}
        loaded = asn1.OCSPRequest.load(request)
        loaded["tbs_request"]["request_extensions"] = [extension]
        encoded = base64.b64encode(loaded.dump(force=True)).decode()
        assert "//" in encoded
        answer = client.get(f"/ocsp/{encoded}")
        assert (
            basic(answer)["tbs_response_data"]["response_extensions"][0]["extn_value"].parsed.native == nonce
        )

    @pytest.mark.parametrize("option", ["-nonce", "unknown"])
    def test_no_cache_keeps_what_is_of_no_use_to_others(self, client, eks, pki, option):
        serials = [NEVER] if option == "unknown" else [serial_of(eks[0])]
        request = pki.request("ek", serials, "-nonce" if option == "-nonce" else "-no_nonce")
        assert client.get(self.url(request)).headers["Cache-Control"] == "no-store"
        assert post(client, request).headers["Cache-Control"] == "no-store"

    @pytest.mark.parametrize("encoded", ["!", "MA", "MAo", "%00", "MAAA", "a" * 3000])
    def test_what_is_no_request(self, client, encoded):
        assert failure(client.get(f"/ocsp/{encoded}")) == "malformed_request"

    def test_limits(self, client):
        assert failure(post(client, b"")) == "malformed_request"
        assert failure(post(client, b"\x30\x80" + bytes(4000))) == "malformed_request"
        for answer, status in (
            (post(client, bytes(4097)), 413),
            (post(client, b"", mimetype="application/json"), 415),
        ):
            assert (answer.status_code, answer.mimetype) == (status, "application/problem+json")
        assert client.put("/ocsp").status_code == 405

    def test_too_many_requests(self, store, enroller, eks, pki):
        limits = HttpLimits(requests_per_second=0.001, burst=1)
        client = create_app(Services(store, enroller, limits=limits)).test_client()
        request = pki.request("ek", [serial_of(eks[0])])
        basic(post(client, request))
        assert failure(post(client, request)) == "try_later"

    def test_a_ca_without_it(self, store, world):
        world.authority = replace(world.authority, publication=replace_ocsp(world))
        client = create_app(Services(store, world.enroller(store))).test_client()
        assert post(client, b"").status_code == 404

    def test_a_database_that_is_gone(self, client, store, eks, pki, monkeypatch):
        request = pki.request("ek", [serial_of(eks[0])])

        def gone():
            raise Unavailable("gone")

        monkeypatch.setattr(store, "read", gone)
        assert failure(post(client, request)) == "try_later"

        def broken():
            raise RuntimeError("a secret")

        monkeypatch.setattr(store, "read", broken)
        answer = post(client, request)
        assert failure(answer) == "internal_error"
        assert b"secret" not in answer.data


def replace_ocsp(world):
    return world.authority.publication.model_copy(update={"ocsp": False})


class TestResponders:
    def rows(self, store, world, state=CertificateState.ISSUED):
        with store.read() as tx:
            return [row for ca in world.authority.issuers for row in tx.responders.of_issuer(ca.skid, state)]

    def test_one_for_each_issuing_ca_and_no_more(self, store, world, enroller):
        before = self.rows(store, world)
        assert {row.issuer for row in before} == {ca.skid for ca in world.authority.issuers}
        assert len(before) == 3
        enroller.recover()
        world.enroller(store).recover()
        world.later(days=6)
        enroller.recover()
        assert self.rows(store, world) == before

    def test_the_next_one_at_half_of_its_life(self, client, store, world, enroller, eks, pki):
        world.later(days=8)
        enroller.recover()
        assert len(self.rows(store, world)) == 6
        serials = [serial_of(eks[0])]
        answer = post(client, pki.request("ek", serials))
        assert ": good" in pki.judge("ek", serials, answer.data)
        (certificate,) = basic(answer)["certs"]
        assert certificate.not_valid_before == world.time

    def test_a_retired_issuing_ca_gets_none_any_more(self, store, world, enroller, eks):
        with store.write() as tx:
            tx.issuers.move(eks[0].issuer, IssuerState.RETIRED, world.time)
        world.later(days=8)
        made = ensure_responders(enroller.desk)
        with store.read() as tx:
            issuers = {row.issuer for serial in made for row in tx.log.responders([serial]).values()}
        assert issuers == {ca.skid for ca in world.authority.issuers} - {eks[0].issuer}

    def test_a_clock_that_was_put_back(self, client, store, world, enroller, eks, pki):
        world.later(days=20)
        enroller.recover()
        world.later(days=-1)
        request = pki.request("ek", [serial_of(eks[0])])
        assert failure(post(client, request)) == "try_later"
        enroller.recover()
        assert ": good" in pki.judge("ek", [serial_of(eks[0])], post(client, request).data)

    def test_without_one_that_holds_the_answer_is_to_come_later(self, client, world, eks, pki):
        request = pki.request("ek", [serial_of(eks[0])])
        world.later(days=13, hours=23, minutes=30)
        data = basic(post(client, request))["tbs_response_data"]
        assert data["responses"][0]["next_update"].native == world.time + timedelta(minutes=30)
        world.later(minutes=30)
        assert failure(post(client, request)) == "try_later"

    def test_every_serial_is_issued_or_revoked(self, store, world):
        """A process dies around the signature: its serial goes on the list, and another one is made."""
        for point in ("before signing ocsp", "after signing ocsp"):
            world.later(days=8)
            ek = world.authority.issuer("ek").skid

            class Died(BaseException):
                pass

            def die(here, point=point):
                if here == point:
                    raise Died

            with pytest.raises(Died):
                world.enroller(store, die).recover()
            (left,) = self.rows(store, world, CertificateState.INTENDED)
            assert left.issuer == ek
            # It may still be at work.
            ensure_responders(world.enroller(store).desk)
            assert self.rows(store, world, CertificateState.INTENDED) == [left]
            world.time += OPEN_FOR + timedelta(seconds=1)
            ensure_responders(world.enroller(store).desk)
            assert self.rows(store, world, CertificateState.INTENDED) == []
            with store.read() as tx:
                assert tx.revocations.get(ek, left.serial) is not None
                crl = x509.load_der_x509_crl(tx.crls.latest(ek, left.shard).der)
            assert crl.get_revoked_certificate_by_serial_number(serial_of(left)) is not None
            assert world.time in {row.created_at for row in self.rows(store, world) if row.issuer == ek}

    def test_they_stand_in_the_log(self, store, world, enroller):
        report = audit_ca(world.authority, store)
        assert report.clean, report.to_json()
        with store.read() as tx:
            leaves = tx.log.about([("responder", row.serial) for row in self.rows(store, world)])
        assert len(leaves) == 3

    def test_they_are_exported_with_the_log(self, store, world, tmp_path):
        key, folder = log_key(world.authority), tmp_path / "export"
        with store.read() as tx:
            export_log(tx, key, folder, {ca.skid: b"pem" for ca in world.authority.issuers})
        assert audit_folder(folder, key).clean
        row = self.rows(store, world)[0]
        file = folder / "certificates" / f"{row.serial}.cer"
        assert file.read_bytes() == row.der
        file.write_bytes(b"another")
        assert audit_folder(folder, key).counts == {"certificate.altered": 1}

    @pytest.mark.parametrize(
        ("statement", "finding"),
        [
            ("UPDATE responders SET der = x'3000' WHERE serial = ?", "responder.altered"),
            ("DELETE FROM responders WHERE serial = ?", "responder.missing"),
            ("UPDATE responders SET issuer = 'ff' WHERE serial = ?", "responder.altered"),
        ],
    )
    def test_an_edit_by_sql_is_found(self, store, world, statement, finding):
        row = self.rows(store, world)[0]
        with store.write() as tx:
            tx.connection.exec_driver_sql(statement, (row.serial,))
        assert audit_ca(world.authority, store).counts == {finding: 1}

    def test_one_that_nobody_logged_is_found(self, store, world):
        row = replace(self.rows(store, world)[0], serial="05" * 17)
        with store.write() as tx:
            tx.responders.add(row)
        assert audit_ca(world.authority, store).counts == {"responder.unlogged": 1}

    def test_a_key_that_cannot_be_used_stops_nobody_else(self, store, world):
        first, *others = world.authority.issuers

        class Gone:
            def public_key(self):
                return first.signer.public_key()

            def sign(self, *_):
                raise Unavailable("the token is gone", code="token")

        world.authority = replace(world.authority, issuers=(replace(first, signer=Gone()), *others))
        world.later(days=8)
        made = ensure_responders(world.enroller(store).desk)
        assert len(made) == 2

    def test_each_certificate_has_a_key_of_its_own(self, world):
        keys = {
            responder_key(world.authority, skid, serial).private_numbers().private_value
            for skid in ("aa", "ab")
            for serial in ("01", "02")
        }
        assert len(keys) == 4
        other = replace(world.authority, activation_key=bytes(32))
        assert responder_key(other, "aa", "01").private_numbers().private_value not in keys


def test_new_certificates_say_where_to_ask(eks):
    certificate = x509.load_der_x509_certificate(eks[0].der)
    access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    places = {one.access_method: one.access_location.value for one in access}
    assert places[x509.AuthorityInformationAccessOID.OCSP] == "http://ca.test/ocsp"
