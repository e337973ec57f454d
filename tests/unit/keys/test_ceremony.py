"""The ceremony: whole or not at all, and nothing in clear."""

import base64
import itertools
import json
import os
import stat
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from asn1crypto import pem
from asn1crypto import x509 as asn1

from ca_service.judgment import BadRequest, Conflict, Unavailable
from ca_service.keys import CeremonyConfig, load_authority, load_public, load_root, run_ceremony
from ca_service.profiles import LintFailed

REPOSITORY = Path(__file__).parents[3]
NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)
PASSPHRASE = b"correct horse battery staple"
ROLES = ("ek", "devid", "ephemeral")


def certificate(path):
    _, _, der = pem.unarmor(path.read_bytes())
    return asn1.Certificate.load(der, strict=True)


def test_openssl_verifies_the_hierarchy(pristine):
    certs = pristine / "certs"
    command = ["openssl", "verify", "-x509_strict", "-CAfile", certs / "root.pem"]
    for role in ROLES:
        result = subprocess.run([*command, certs / f"{role}-default.pem"], capture_output=True, check=False)
        assert result.returncode == 0, result.stderr
    assert sorted(p.name for p in certs.iterdir()) == sorted(
        ["root.pem", *(f"{r}-default.pem" for r in ROLES)]
    )


@pytest.mark.parametrize(
    ("stem", "name", "path_length"),
    [
        ("root", "SIMULATION vTPM Root CA", 1),
        ("ek-default", "SIMULATION vTPM EK CA", 0),
        ("devid-default", "SIMULATION vTPM DevID CA", 0),
        ("ephemeral-default", "SIMULATION vTPM Ephemeral CA", 0),
    ],
)
def test_a_second_reader_sees_what_was_asked_for(pristine, stem, name, path_length):
    read = certificate(pristine / "certs" / f"{stem}.pem")
    assert read.subject.native == {"organization_name": "Example Organisation", "common_name": name}
    assert read.basic_constraints_value.native == {"ca": True, "path_len_constraint": path_length}
    assert read.key_usage_value.native == {"key_cert_sign", "crl_sign"}
    assert read.public_key["algorithm"]["parameters"].native == "secp384r1"
    assert read["signature_algorithm"]["algorithm"].native == "sha384_ecdsa"
    assert read["tbs_certificate"]["validity"]["not_after"].dump() == b"\x18\x0f99991231235959Z"
    root = certificate(pristine / "certs" / "root.pem")
    assert read.issuer == root.subject
    if stem != "root":
        authority = read.authority_key_identifier_value.native
        assert authority["key_identifier"] == root.key_identifier
        assert authority["authority_cert_issuer"] is None
        (point,) = read.crl_distribution_points_value.native
        assert point["distribution_point"] == [f"http://127.0.0.1:8443/crl/{root.key_identifier.hex()}/0.crl"]


def test_each_ca_has_a_key_of_its_own(pristine):
    keys = {certificate(p).public_key.dump() for p in (pristine / "certs").iterdir()}
    assert len(keys) == 4


def test_permissions(pristine):
    modes = {str(p.relative_to(pristine)): stat.S_IMODE(p.stat().st_mode) for p in pristine.rglob("*")}
    assert stat.S_IMODE(pristine.stat().st_mode) == 0o700
    for name, mode in modes.items():
        if name in ("private", "offline", "run"):
            assert mode == 0o700, name
        elif name.startswith(("private/", "offline/")):
            assert mode == 0o600, name
        else:
            assert mode in (0o755, 0o644), name
    sealed = {n for n in modes if n.endswith(".sealed")}
    assert sealed == {
        "offline/root.sealed",
        "private/activation.sealed",
        "private/log.sealed",
        "private/nonce.sealed",
        *(f"private/{role}-default.sealed" for role in ROLES),
    }


def test_no_secret_lies_in_clear(pristine):
    authority, root = load_authority(pristine, PASSPHRASE), load_root(pristine, PASSPHRASE)
    secrets = [authority.nonce_key, authority.activation_key, PASSPHRASE]
    for signer in (root.signer, *(issuer.signer for issuer in authority.issuers)):
        number = signer._private_key.private_numbers().private_value
        secrets.append(number.to_bytes(48, "big"))
    files = {p: p.read_bytes() for p in pristine.rglob("*") if p.is_file()}
    assert len(files) > 10
    for path, data in files.items():
        assert b"PRIVATE KEY" not in data
        for secret in secrets:
            forms = (
                secret,
                secret.hex().encode(),
                base64.b64encode(secret)[:-4],
                base64.urlsafe_b64encode(secret)[:-4],
            )
            assert not any(form in data for form in forms), path


def test_the_transcript_names_what_was_made(tmp_path, config, perform):
    transcript = perform(tmp_path / "ca", config)
    stored = json.loads((tmp_path / "ca" / "transcript.json").read_bytes())
    assert stored == transcript.to_json()
    assert [c["role"] for c in stored["certificates"]] == ["root", *ROLES]
    assert stored["at"] == "2026-08-01T12:00:00Z"
    for entry, stem in zip(stored["certificates"], ("root", *(f"{r}-default" for r in ROLES)), strict=True):
        read = certificate(tmp_path / "ca" / "certs" / f"{stem}.pem")
        assert entry["sha256"] == read.sha256.hex()
        assert entry["skid"] == read.key_identifier.hex()
    assert stored["ca_id"] == f"vtpm-ca:{stored['certificates'][0]['skid']}"


def test_serials_share_the_prefix_of_this_ca(pristine):
    prefix = load_public(pristine).serial_prefix
    serials = {certificate(p).serial_number for p in (pristine / "certs").iterdir()}
    assert len(serials) == 4
    assert {s >> 128 for s in serials} == {prefix}


def test_a_production_ca_says_nothing_of_simulation(tmp_path, perform):
    text = (
        'mode = "production"\norganization = "Org"\npublication_url = "https://ca.example"\nca_id = "my-ca"\n'
    )
    perform(tmp_path / "ca", CeremonyConfig.from_toml(text))
    public = load_public(tmp_path / "ca")
    assert (public.mode, public.ca_id) == ("production", "my-ca")
    for path in (tmp_path / "ca" / "certs").iterdir():
        assert "SIMULATION" not in certificate(path).subject.human_friendly


def test_a_bounded_ca_is_nested(tmp_path, perform):
    text = """
    mode = "simulation"
    organization = "Org"
    publication_url = "http://ca.example"
    [validity]
    kind = "bounded"
    root_days = 100
    issuing_days = 100
    device_days = 30
    """
    perform(tmp_path / "ca", CeremonyConfig.from_toml(text))
    public = load_public(tmp_path / "ca")
    ends = {p.stem: certificate(p).not_valid_after for p in (tmp_path / "ca" / "certs").iterdir()}
    assert {str(e.date()) for e in ends.values()} == {"2026-11-09"}
    issuer = public.issuer("ek")
    assert str(public.device_validity(NOW, issuer).not_after.date()) == "2026-08-31"
    late = datetime(2026, 11, 1, tzinfo=UTC)
    assert public.device_validity(late, issuer).not_after == issuer.certificate.not_valid_after_utc


class TestAllOrNothing:
    def test_an_existing_ca_is_never_touched(self, ca, config, perform):
        before = {p: p.read_bytes() for p in ca.rglob("*") if p.is_file()}
        with pytest.raises(Conflict) as caught:
            perform(ca, config)
        assert caught.value.code == "exists"
        assert {p: p.read_bytes() for p in ca.rglob("*") if p.is_file()} == before

    def test_nor_is_anything_else_that_is_there(self, tmp_path, config, perform):
        (tmp_path / "file").write_text("x")
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "x").write_text("x")
        (tmp_path / "link").symlink_to(tmp_path / "nowhere")
        for name in ("file", "full", "link"):
            with pytest.raises(Conflict):
                perform(tmp_path / name, config)
        assert not (tmp_path / "nowhere").exists()

    def test_an_empty_directory_will_do(self, tmp_path, config, perform):
        (tmp_path / "ca").mkdir()
        perform(tmp_path / "ca", config)
        assert load_public(tmp_path / "ca").mode == "simulation"

    def test_parents_are_made_and_only_their_owner_writes_them(self, tmp_path, config, perform):
        mask = os.umask(0)
        try:
            perform(tmp_path / "a" / "b" / "ca", config)
        finally:
            os.umask(mask)
        assert load_public(tmp_path / "a" / "b" / "ca")
        assert [stat.S_IMODE((tmp_path / path).stat().st_mode) for path in ("a", "a/b")] == [0o755] * 2

    def test_the_root_of_a_file_system_is_refused_before_any_key_is_made(self, tmp_path, config, monkeypatch):
        """Such as the volume of a container: nothing takes its name."""
        (tmp_path / "volume").mkdir()
        monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "volume")
        with pytest.raises(Conflict, match="root of a file system") as caught:
            run_ceremony(tmp_path / "volume", config, PASSPHRASE, clock=lambda: NOW, entropy=None)
        assert caught.value.code == "exists"
        assert str(tmp_path / "volume" / "ca") in caught.value.remedy
        assert [path.name for path in tmp_path.iterdir()] == ["volume"]

    def test_a_ceremony_that_fails_anywhere_leaves_nothing(self, tmp_path, config, perform):
        draws = 0

        def counting(size):
            nonlocal draws
            draws += 1
            return os.urandom(size)

        perform(tmp_path / "whole", config, entropy=counting)
        assert draws > 10
        for last in range(1, draws):
            counter = itertools.count()

            def failing(size, counter=counter, last=last):
                if next(counter) == last:
                    raise RuntimeError("the source of entropy is gone")
                return os.urandom(size)

            with pytest.raises(RuntimeError):
                perform(tmp_path / "broken", config, entropy=failing)
            assert [p.name for p in tmp_path.iterdir()] == ["whole"]

    def test_what_finishes_it_belongs_to_it(self, tmp_path, config, perform):
        def finish(authority, root):
            assert authority.issuer("ek")
            (authority.directory / "database").write_text("x")
            return []

        perform(tmp_path / "ca", config, finish=finish)
        assert (tmp_path / "ca" / "database").exists()

        def failing(authority, root):
            finish(authority, root)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            perform(tmp_path / "other", config, finish=failing)
        assert [p.name for p in tmp_path.iterdir()] == ["ca"]

    def test_a_killed_ceremony_leaves_no_ca_and_no_key_in_clear(self, tmp_path):
        script = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from ca_service.keys import CeremonyConfig, run_ceremony
config = CeremonyConfig(mode="simulation", organization="O", publication_url="http://x")
kill = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
run_ceremony(Path(sys.argv[1]), config, b"secret", clock=lambda: datetime.now(UTC), entropy=os.urandom, finish=kill)
"""
        result = subprocess.run(
            [sys.executable, "-c", script, tmp_path / "ca"], cwd=REPOSITORY, capture_output=True, check=False
        )
        assert result.returncode == -9, result.stderr
        assert not (tmp_path / "ca").exists()
        (left,) = tmp_path.iterdir()
        assert left.name.startswith(".ca.ceremony-")
        assert stat.S_IMODE(left.stat().st_mode) == 0o700
        assert not any(b"PRIVATE KEY" in p.read_bytes() for p in left.rglob("*") if p.is_file())

    def test_two_at_once_make_one(self, tmp_path, config, perform):
        def rival(*_):
            perform(tmp_path / "ca", config)
            return []

        with pytest.raises(Conflict):
            perform(tmp_path / "ca", config, finish=rival)
        assert [p.name for p in tmp_path.iterdir()] == ["ca"]
        assert load_authority(tmp_path / "ca", PASSPHRASE)

    def test_a_place_that_cannot_be_written_is_said_so(self, tmp_path, config, perform):
        (tmp_path / "file").write_text("x")
        with pytest.raises(Unavailable) as caught:
            perform(tmp_path / "file" / "ca", config)
        assert caught.value.code == "storage"


class TestConfiguration:
    def test_the_examples_are_good(self):
        for mode in ("simulation", "production"):
            text = (REPOSITORY / "policies" / f"ceremony-{mode}.toml").read_text()
            assert CeremonyConfig.from_toml(text).mode == mode

    @pytest.mark.parametrize(
        ("change", "path"),
        [
            ({"mode": None}, "ceremony.mode"),
            ({"mode": "test"}, "ceremony.mode"),
            ({"organization": ""}, "ceremony.organization"),
            ({"organization": "x" * 65}, "ceremony.organization"),
            ({"organization": "Ö"}, "ceremony.organization"),
            ({"organization": "a\nb"}, "ceremony.organization"),
            ({"publication_url": "ftp://x"}, "ceremony.publication_url"),
            ({"publication_url": "http://x/"}, "ceremony.publication_url"),
            ({"publication_url": "http://x?q"}, "ceremony.publication_url"),
            ({"publication_url": "http://u:p@x"}, "ceremony.publication_url"),
            ({"publication_url": "http:///x"}, "ceremony.publication_url"),
            ({"publication_url": "http://a b"}, "ceremony.publication_url"),
            ({"publication_url": "http://" + "x" * 60}, "ceremony.publication_url"),
            ({"ca_id": ""}, "ceremony.ca_id"),
            ({"ca_id": "a b"}, "ceremony.ca_id"),
            ({"surprise": 1}, "ceremony.surprise"),
            ({"validity": {"kind": "bounded"}}, "ceremony.validity"),
            ({"validity": {"device_days": 3}}, "ceremony.validity"),
            (
                {"validity": {"kind": "bounded", "root_days": 1, "issuing_days": 2, "device_days": 1}},
                "ceremony.validity",
            ),
            (
                {"validity": {"kind": "bounded", "root_days": 3, "issuing_days": 2, "device_days": 0}},
                "ceremony.validity.device_days",
            ),
            ({"mode": "production", "organization": "Simulation Ltd"}, "ceremony"),
        ],
    )
    def test_each_member_is_judged(self, change, path):
        values = {"mode": "simulation", "organization": "O", "publication_url": "http://x"} | change
        with pytest.raises(BadRequest) as caught:
            CeremonyConfig.from_toml(toml({k: v for k, v in values.items() if v is not None}))
        assert caught.value.path == path

    def test_broken_toml_is_located(self):
        with pytest.raises(BadRequest, match="line 2"):
            CeremonyConfig.from_toml('mode = "simulation"\norganization = Org\n')

    def test_a_name_that_no_certificate_takes_is_refused_before_anything_is_there(self, tmp_path, perform):
        config = CeremonyConfig(mode="simulation", organization="x" * 64, publication_url="http://x")
        try:
            perform(tmp_path / "ca", config)
        except LintFailed:
            assert not list(tmp_path.iterdir())
        else:
            assert load_public(tmp_path / "ca").organization == "x" * 64


def toml(values):
    plain = {k: v for k, v in values.items() if not isinstance(v, dict)}
    text = "".join(f"{k} = {json.dumps(v, ensure_ascii=False)}\n" for k, v in plain.items())
    for name in values.keys() - plain.keys():
        text += f"[{name}]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in values[name].items())
    tomllib.loads(text)
    return text
