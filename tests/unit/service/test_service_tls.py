"""TLS files: what is refused, what is doubtful, and what is spoken."""

import ssl
import warnings
from datetime import UTC, datetime, timedelta

import pytest
from small_service import Spec, connect

from ca_service.judgment import BadRequest
from ca_service.service import Tls, TlsFiles


@pytest.fixture
def files(authority):
    certificate, key = authority("server-ca").issue("server", dns=["localhost"])
    certificate.chmod(0o644)
    key.chmod(0o600)
    return certificate, key


class TestRefused:
    def test_the_file_that_cannot_be_read_is_named(self, files, tmp_path):
        certificate, key = files
        for pair, option in (
            ((tmp_path / "none", key), "--x-cert"),
            ((certificate, tmp_path / "none"), "--x-key"),
        ):
            with pytest.raises(BadRequest) as refusal:
                TlsFiles(*pair, option="--x").context()
            assert (refusal.value.path, "No such file" in refusal.value.detail) == (option, True)

    def test_a_key_of_another(self, files, authority):
        _, other = authority("another-ca").issue("other", dns=["localhost"])
        with pytest.raises(BadRequest, match="KEY_VALUES_MISMATCH") as refusal:
            TlsFiles(files[0], other).context()
        assert refusal.value.path == "--tls-cert and --tls-key"

    def test_what_is_in_force_stays(self, files):
        tls = Tls(TlsFiles(*files))
        before = tls.context
        files[0].write_text("no certificate")
        with pytest.raises(BadRequest):
            tls.renew()
        assert tls.context is before


class TestConcerns:
    def concerns(self, files, hours: float = 0.0, **given) -> list[str]:
        """The certificate is good for an hour from now."""
        return TlsFiles(*files, **given).concerns(datetime.now(UTC) + timedelta(hours=hours))

    def test_an_end_in_sight(self, files):
        (concern,) = self.concerns(files)
        assert "renew it" in concern

    @pytest.mark.parametrize("hours", [-1.5, 1.5])
    def test_a_certificate_that_clients_refuse(self, files, hours):
        (concern,) = self.concerns(files, hours)
        assert "clients refuse it" in concern

    def test_files_that_others_can_read_or_write(self, files, authority):
        files[1].chmod(0o644)
        assert any("can read the file of --tls-key" in each for each in self.concerns(files))
        files[1].chmod(0o640)
        assert len(self.concerns(files)) == 1
        ca = authority("operators").file
        for mode, others in ((0o644, False), (0o664, True), (0o646, True)):
            ca.chmod(mode)
            found = self.concerns(files, clients=ca, option="--operator")
            assert any("may write the file of --operator-ca" in each for each in found) == others

    def test_files_that_are_gone_meanwhile(self, files):
        files[1].unlink()
        assert self.concerns(files) == ["--tls-cert and --tls-key cannot be looked at any more"]


def test_what_is_spoken(serve, authority):
    """TLS 1.2 and later; 1.3 for operators, whose right to come is looked at each time."""
    ca = authority("server-ca")
    pair, alice = ca.issue("server", dns=["localhost"]), ca.issue("alice", "alice")
    server = serve(Spec(tls=(*pair, None)), Spec(tls=(*pair, ca.file)))

    def shake(port: int, version: ssl.TLSVersion) -> tuple[str | None, bool]:
        """What was spoken, and whether there is a ticket to come back with."""
        context = ssl.create_default_context(cafile=ca.file)
        context.minimum_version = context.maximum_version = version
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.load_cert_chain(*alice)
        with connect(port) as plain, context.wrap_socket(plain, server_hostname="localhost") as secure:
            secure.sendall(b"GET /who HTTP/1.1\r\nHost: ca\r\n\r\n")
            assert secure.recv(1 << 16).startswith(b"HTTP/1.1 200")
            return secure.version(), secure.session is not None and secure.session.has_ticket

    enrolment, operation = server.ports
    assert shake(enrolment, ssl.TLSVersion.TLSv1_2)[0] == "TLSv1.2"
    assert shake(operation, ssl.TLSVersion.TLSv1_3) == ("TLSv1.3", False)
    old = ssl.TLSVersion.TLSv1_1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for port, version in ((enrolment, old), (operation, ssl.TLSVersion.TLSv1_2)):
            with pytest.raises(OSError, match=r"(?i)version"):
                shake(port, version)
