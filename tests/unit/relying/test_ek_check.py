"""`vtpm-ca-ek-check` as keylime's tenant runs it: what it takes, what it refuses, and in which words."""

import base64
import hashlib
import http.server
import json
import os
import resource
import subprocess
import sys
import threading
from datetime import timedelta
from urllib.parse import unquote

import enrollment_world as w
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from relying_stage import AT, DAY, crl_place, loaded, pem_of, shown, tpm2b

from ca_service.export import export_keylime
from ca_service.export.ek_check.environment import LONGEST_TEXT
from ca_service.export.ek_check.program import World, run
from ca_service.export.ek_check.supply import ListCache, fetched
from ca_service.export.ek_check.writing import export_ek_check
from ca_service.judgment import Conflict, Unavailable
from ca_service.status.ocsp import parse_request

HOUR = timedelta(hours=1)
SCRIPT = "from ca_service.export.ek_check import main; main()"


def no_network(url):
    raise AssertionError(url)


class Site:
    """A host with the EK check: configuration, root, keylime's store as folder of issuers, and lists."""

    def __init__(self, folder, stage, at=AT):
        self.folder, self.stage, self.at = folder, stage, at
        self.fetch = no_network
        (folder / "crls").mkdir()
        (folder / "root.pem").write_bytes(stage.root.certificate.public_bytes(Encoding.PEM))
        export_keylime(folder / "store", stage.world.authority.issuers, None)
        self.put(root=stage.lists["root"], ek=stage.lists["ek"])
        self.configure('crls = "crls"')

    def put(self, **lists):
        for name, der in lists.items():
            (self.folder / "crls" / f"{name}.crl").write_bytes(der)

    def configure(self, *lines, root='root = "root.pem"', issuers='issuers = "store"'):
        (self.folder / "check.toml").write_text("\n".join((root, issuers, *lines)) + "\n")

    def environment(self, **changes):
        own = {"VTPM_CA_EK_CHECK_CONFIG": str(self.folder / "check.toml")}
        return own | shown(self.stage, **changes)

    def run(self, *arguments, **changes):
        status, line = run(arguments, World(self.environment(**changes), lambda: self.at, self.fetch))
        assert "\n" not in line
        assert line.isascii()
        assert line.isprintable()
        return status, line

    def refused(self, *words, **changes):
        status, line = self.run(**changes)
        assert status == 1
        assert line.startswith("vtpm-ca-ek-check: refused: ")
        for word in words:
            assert word in line


@pytest.fixture
def site(stage, tmp_path):
    return Site(tmp_path, stage)


class TestWhatKeylimeShows:
    def test_the_real_one(self, site):
        status, line = site.run()
        assert (status, line.split(" (")[0]) == (0, "vtpm-ca-ek-check: accepted: the EK certificate counts")

    def test_pem_of_which_the_first_counts(self, site, stage):
        pem = loaded(stage.ek).public_bytes(Encoding.PEM).decode()
        ca = stage.issuer("ek").certificate.public_bytes(Encoding.PEM).decode()
        assert site.run(EK_CERT=pem + ca)[0] == 0
        site.refused("relying.issuer", EK_CERT=ca + pem)
        site.refused("EK_CERT: has PEM that does not end", EK_CERT=pem[:-40])

    @pytest.mark.parametrize("name", ["EK_CERT", "EK", "EK_TPM"])
    def test_something_is_missing_or_junk(self, site, name):
        long = "A" * (LONGEST_TEXT + 1)
        for text in ("", " ", "\N{SNOWMAN}", "AAA", "AAAA", "-----BEGIN PUBLIC KEY-----", long, "\x1b[31m"):
            site.refused(**{name: text})
        environment = site.environment()
        del environment[name]
        status, line = run([], World(environment, lambda: AT, no_network))
        assert status == 1
        assert f"{name}: is not set" in line

    def test_another_tpms_key(self, site, stage):
        other = w.SoftTpm(
            keys=lambda template: (
                ec.generate_private_key(ec.SECP384R1()) if template.kind == "ecc" else w.new_key(template)
            )
        )
        key = other._ek.public_key()
        site.refused(
            "relying.ek: the certificate is another EK's than the one in EK_TPM",
            EK_TPM=tpm2b(other.ek.public),
        )
        site.refused("another EK's than the one in EK (", EK=pem_of(key))
        site.refused("relying.ek", EK=pem_of(key), EK_TPM=tpm2b(other.ek.public))

    def test_another_kind_of_certificate(self, site, stage):
        site.refused("relying.role", EK_CERT=base64.b64encode(stage.iak).decode())

    def test_a_tampered_one(self, site, stage):
        der = bytearray(stage.ek)
        der[300] ^= 1
        site.refused("relying.", EK_CERT=base64.b64encode(bytes(der)).decode())

    def test_what_the_agent_chose_is_printed_as_plain_text(self, site):
        _, line = site.run(AGENT_UUID="a\x1b[2Jb\n\N{SNOWMAN}" + "c" * 99)
        assert "(agent a?[2Jb??" + "c" * 56 + ")" in line

    @settings(max_examples=25)
    @given(
        text=st.text(max_size=80).filter(lambda t: "\0" not in t),
        name=st.sampled_from(["EK_CERT", "EK", "EK_TPM"]),
    )
    def test_any_text(self, stage, shared, text, name):
        shared.refused(**{name: text})


@pytest.fixture(scope="module")
def shared(stage, tmp_path_factory):
    return Site(tmp_path_factory.mktemp("shared"), stage)


class TestWhatTheListsSay:
    def test_revoked(self, site, stage):
        site.put(newer=stage.list_of("ek", [loaded(stage.ek).serial_number], number=2))
        site.refused("relying.revocation: the certificate was revoked on 2026-11-23")

    def test_expired_lists(self, site):
        site.at = AT + DAY + HOUR
        site.refused("relying.revocation: the revocation list for the certificate should have been replaced")

    def test_no_lists(self, site):
        (site.folder / "crls" / "ek.crl").unlink()
        site.refused("relying.revocation: there is no revocation list")

    def test_a_torn_list_refuses_all(self, site, stage):
        (site.folder / "crls" / "ek.crl").write_bytes(stage.lists["ek"][:-5])
        site.refused("ek.crl: is no revocation list")

    def test_a_list_in_pem(self, site, stage):
        pem = base64.encodebytes(stage.lists["ek"]).decode()
        (site.folder / "crls" / "ek.crl").write_text(
            f"-----BEGIN X509 CRL-----\n{pem}-----END X509 CRL-----\n"
        )
        assert site.run()[0] == 0

    def test_a_list_older_than_allowed(self, site):
        site.configure('crls = "crls"', "max_age_s = 60")
        assert site.run()[0] == 0
        site.at = AT + timedelta(seconds=61)
        site.refused("relying.revocation: the revocation list for the certificate is older than allowed")


class TestConfiguration:
    def test_relative_to_the_file_and_pinned(self, site, stage):
        digest = hashlib.sha256(stage.root.certificate.public_bytes(Encoding.DER)).hexdigest()
        site.configure('crls = "crls"', f'root_sha256 = "{digest}"')
        assert site.run()[0] == 0
        site.configure('crls = "crls"', f'root_sha256 = "{"0" * 64}"')
        site.refused("root.pem: is another root than the pinned one", digest)

    def test_a_root_of_the_same_names(self, site, impostor):
        (site.folder / "root.pem").write_bytes(impostor["root"].public_bytes(Encoding.PEM))
        site.refused("relying.chain")

    def test_another_certificate_as_root(self, site, stage):
        (site.folder / "root.pem").write_bytes(stage.issuer("ek").certificate.public_bytes(Encoding.PEM))
        site.refused("root.pem: is no root of a vTPM CA")

    def test_certificates_of_others_in_the_store(self, site, impostor):
        (site.folder / "store" / "other.pem").write_bytes(impostor["ca"].public_bytes(Encoding.PEM))
        assert site.run()[0] == 0

    @pytest.mark.parametrize(
        ("lines", "words"),
        [
            ((), "crls: is missing, and without lists nothing counts"),
            (('crls = "nowhere"',), "nowhere: cannot be read: No such file"),
            (("crls = 7",), "crls: must be a path"),
            (('crls = ""',), "crls: must be a path"),
            (('crls = "crls"', "fetch = true"), "cache: goes together with fetch = true"),
            (('crls = "crls"', 'cache = "c"'), "cache: goes together with fetch = true"),
            (('crls = "crls"', "refresh_s = 5"), "refresh_s: goes together with fetch = true"),
            (('crls = "crls"', "ocsp = 1"), "ocsp: must be true or false"),
            (('crls = "crls"', "ocsp = true", "max_age_s = 5"), "max_age_s: is about the issuing CA's list"),
            (('crls = "crls"', 'ephemeral = "no"'), "ephemeral: must be true or false"),
            (('crls = "crls"', "max_age_s = 0"), "max_age_s: must be a whole number of seconds"),
            (('crls = "crls"', "max_age_s = true"), "max_age_s: must be a whole number of seconds"),
            (('crls = "crls"', 'root_sha256 = "AB"'), "root_sha256: must be 64 lower-case hex digits"),
            (('crls = "crls"', 'rooot = "x"'), "rooot: is no member. There are root, "),
            (('crls = "crls"', "provenance = 7"), "provenance: must be a table"),
            (
                ('crls = "crls"', "[provenance]", "kbs_keys = []"),
                "provenance.kbs_keys: must be a list that is not empty",
            ),
            (
                ('crls = "crls"', "[provenance]", 'kbs_keys = ["x"]'),
                "provenance.kbs_keys[0]: is not of the right form",
            ),
            (
                ('crls = "crls"', "[provenance]", 'resources = ["a/b"]'),
                "provenance.resources[0]: is not of the right",
            ),
            (('crls = "crls"', "[provenance]", 'keys = ["x"]'), "provenance.keys: is no member"),
            (("crls =",), "is no TOML"),
        ],
    )
    def test_a_bad_member_is_named(self, site, lines, words):
        site.configure(*lines)
        site.refused(str(site.folder), words)

    def test_what_is_missing_is_named(self, site):
        for member in ("root", "issuers"):
            site.configure('crls = "crls"', **{member: ""})
            site.refused(f'{member}: is missing. Add {member} = "PATH".')
        (site.folder / "check.toml").unlink()
        site.refused("check.toml: the configuration cannot be read: No such file")

    def test_an_empty_variable_counts_as_absent(self, site):
        site.refused("/etc/keylime/vtpm-ca-ek-check.toml: the config", VTPM_CA_EK_CHECK_CONFIG="")

    def test_the_provenance_rule(self, site):
        site.configure('crls = "crls"', "[provenance]", 'resources = ["default/vtpm/*"]')
        assert site.run()[0] == 0
        site.configure('crls = "crls"', "[provenance]", 'resources = ["default/other/*"]')
        site.refused("relying.provenance-rule: the resource default/vtpm/guest-a is not allowed by the rule")

    def test_ephemeral_if_asked_for_only(self, site, stage):
        der = base64.b64encode(stage.ephemeral).decode()
        site.put(ephemeral=stage.lists["ephemeral"])
        (site.folder / "store" / "e.pem").write_bytes(
            stage.issuer("ephemeral").certificate.public_bytes(Encoding.PEM)
        )
        site.refused("relying.role: it is an ephemeral certificate", EK_CERT=der)
        site.configure('crls = "crls"', "ephemeral = true")
        assert site.run(EK_CERT=der)[0] == 0

    @given(content=st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode)))
    def test_any_bytes_as_configuration(self, shared, content):
        place = shared.folder / "any.toml"
        place.write_bytes(content)
        shared.refused(str(place), VTPM_CA_EK_CHECK_CONFIG=str(place))

    @settings(max_examples=40)
    @given(
        table=st.dictionaries(
            st.sampled_from(
                ["root", "issuers", "crls", "fetch", "cache", "refresh_s", "max_age_s", "ocsp", "ephemeral"]
            ),
            st.one_of(
                st.booleans(), st.integers(-5, 5), st.text(max_size=5), st.lists(st.integers(), max_size=2)
            ),
        )
    )
    def test_any_values_of_known_members(self, shared, table):
        place = shared.folder / "values.toml"
        place.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in table.items()))
        shared.refused(VTPM_CA_EK_CHECK_CONFIG=str(place))

    def test_check_config(self, site, impostor):
        status, line = site.run("--check-config")
        assert (status, line.split(": ", 2)[2]) == (
            0,
            "a simulation root, 2 issuing CAs of it, 2 revocation lists",
        )
        (site.folder / "store" / "posing.pem").write_bytes(impostor["ca"].public_bytes(Encoding.PEM))
        assert "2 issuing CAs of it" in site.run("--check-config")[1]
        site.at = AT + 2 * DAY
        assert site.run("--check-config")[0] == 1
        assert site.run("--quiet")[0] == 2


class TestTheFolderForAHost:
    def issuers(self, stage):
        return stage.world.authority.issuers

    def test_it_is_all_that_the_check_needs(self, stage, tmp_path):
        report = export_ek_check(tmp_path / "ek", stage.root.certificate, self.issuers(stage))
        assert [name.split("/")[0] for name in report.written] == [
            "issuers",
            "root.pem",
            "vtpm-ca-ek-check.toml",
        ]
        environment = shown(stage, VTPM_CA_EK_CHECK_CONFIG=str(tmp_path / "ek" / "vtpm-ca-ek-check.toml"))
        leaf, root = crl_place(loaded(stage.ek)), crl_place(stage.issuer("ek").certificate)
        network = Network(**{leaf: stage.lists["ek"], root: stage.lists["root"]})
        assert run([], World(environment, lambda: AT, network))[0] == 0
        assert run(["--check-config"], World(environment, lambda: AT, no_network))[0] == 0

    def test_the_operators_configuration_stays(self, stage, tmp_path):
        export_ek_check(tmp_path, stage.root.certificate, self.issuers(stage))
        configuration = tmp_path / "vtpm-ca-ek-check.toml"
        configuration.write_text("mine")
        retired = tmp_path / "issuers" / "vtpm-ca-ek-old-0123456789abcdef.pem"
        retired.write_bytes(stage.issuer("ek").certificate.public_bytes(Encoding.PEM))
        report = export_ek_check(tmp_path, stage.root.certificate, self.issuers(stage))
        assert (report.written, report.removed, report.kept) == ((), (f"issuers/{retired.name}",), True)
        assert configuration.read_text() == "mine"

    def test_another_cas_folder_is_left_alone(self, stage, impostor, tmp_path):
        export_ek_check(tmp_path, impostor["root"], self.issuers(stage))
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        with pytest.raises(Conflict, match="is another root"):
            export_ek_check(tmp_path, stage.root.certificate, self.issuers(stage))
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before

    def test_a_folder_that_cannot_be_written(self, stage, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(Unavailable, match="cannot be written"):
            export_ek_check(tmp_path / "file" / "below", stage.root.certificate, self.issuers(stage))


class Network:
    """What is published, by URL; counts what is asked for."""

    def __init__(self, **published):
        self.published, self.asked = published, []

    def __call__(self, url):
        self.asked.append(url)
        if url not in self.published:
            raise Unavailable(url)
        return self.published[url]


class TestFetching:
    def places(self, stage):
        return crl_place(loaded(stage.ek)), crl_place(stage.issuer("ek").certificate)

    @pytest.fixture
    def online(self, site, stage):
        leaf, root = self.places(stage)
        site.fetch = Network(**{leaf: stage.lists["ek"], root: stage.lists["root"]})
        site.configure("fetch = true", 'cache = "cache"')
        return site

    def aged(self, site, moment):
        for path in (site.folder / "cache").iterdir():
            os.utime(path, (moment.timestamp(),) * 2)

    def test_both_lists_are_fetched_once_and_kept(self, online, stage):
        assert online.run()[0] == 0
        assert set(online.fetch.asked) == set(self.places(stage))
        self.aged(online, AT)
        online.at = AT + HOUR
        assert online.run()[0] == 0
        assert len(online.fetch.asked) == 2
        online.at = AT + HOUR + timedelta(seconds=1)
        assert online.run()[0] == 0
        assert len(online.fetch.asked) == 4

    def test_a_kept_list_that_is_too_old_is_asked_for_at_once(self, online, stage):
        online.configure("fetch = true", 'cache = "cache"', "max_age_s = 600")
        assert online.run()[0] == 0
        self.aged(online, AT)
        online.at = AT + timedelta(seconds=601)
        online.refused("is older than allowed")
        leaf, _ = self.places(stage)
        assert online.fetch.asked[2:] == [leaf]
        online.fetch.published[leaf] = stage.list_of("ek", number=2, made=online.at)
        assert online.run()[0] == 0

    def test_a_newer_list_revokes(self, online, stage):
        assert online.run()[0] == 0
        self.aged(online, AT)
        online.at = AT + 2 * HOUR
        revoked = stage.list_of("ek", [loaded(stage.ek).serial_number], number=2, made=online.at)
        online.fetch.published[self.places(stage)[0]] = revoked
        online.refused("relying.revocation: the certificate was revoked")

    def test_the_network_is_down(self, online):
        assert online.run()[0] == 0
        online.fetch.published.clear()
        self.aged(online, AT)
        online.at = AT + 23 * HOUR
        assert online.run()[0] == 0
        online.at = AT + 25 * HOUR
        online.refused("should have been replaced")

    def test_the_network_was_never_up(self, online):
        online.fetch.published.clear()
        online.refused("there is no revocation list", *(f"; {url}" for url in online.fetch.asked))
        assert len(online.fetch.asked) == 2

    @pytest.mark.parametrize("what", ["junk", "older", "another's"])
    def test_a_hostile_network_spoils_no_cache(self, online, stage, what):
        leaf, _ = self.places(stage)
        newer = stage.list_of("ek", [loaded(stage.ek).serial_number], number=2)
        online.fetch.published[leaf] = newer
        online.refused("was revoked")
        answers = {
            "junk": (b"<html>", "is no revocation list of its issuer"),
            "older": (stage.list_of("ek", made=AT - HOUR), "is older than the one"),
            "another's": (stage.lists["devid"], "is no revocation list of its issuer"),
        }
        online.fetch.published[leaf], words = answers[what]
        self.aged(online, AT)
        online.at = AT + 2 * HOUR
        online.refused("was revoked", words)
        assert newer in [path.read_bytes() for path in (online.folder / "cache").iterdir()]

    def test_a_spoiled_cache_is_fetched_anew(self, online):
        assert online.run()[0] == 0
        for path in (online.folder / "cache").iterdir():
            path.write_bytes(b"torn")
        assert online.run()[0] == 0

    def test_a_cache_that_cannot_be_written(self, online):
        (online.folder / "cache").write_text("a file")
        online.refused("cache: cannot keep revocation lists")

    def test_strangers_send_us_nowhere(self, online, impostor):
        online.refused("relying.issuer", EK_CERT=base64.b64encode(impostor["own"]).decode())
        assert online.fetch.asked == []

    def test_ocsp(self, online, stage):
        online.configure("fetch = true", 'cache = "cache"', "ocsp = true")
        answers = {"good": stage.answer, "revoked": stage.ocsp(stage.ek, revoked_at=AT - DAY)}
        _, root = self.places(stage)

        def fetch(url):
            if url == root:
                return stage.lists["root"]
            encoded = unquote(url.removeprefix("http://ca.test/ocsp/"))
            (cert_id,) = parse_request(base64.b64decode(encoded, validate=True)).cert_ids
            assert cert_id.serial == loaded(stage.ek).serial_number
            assert cert_id.names(stage.issuer("ek").certificate)
            return answer

        online.fetch = fetch
        answer = answers["good"]
        assert online.run()[0] == 0
        answer = answers["revoked"]
        online.refused("relying.revocation: it was revoked on 2026-11-22")
        online.fetch = Network(**{root: stage.lists["root"]})
        online.refused("http://ca.test/ocsp/")

    def test_over_http(self, stage, tmp_path):
        """The real client: an answer, and a refusal for everything else."""

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200 if self.path == "/0.crl" else 302)
                self.send_header("Location", "/0.crl")
                self.end_headers()
                self.wfile.write(stage.lists["ek"])

            def log_message(self, *_):
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            try:
                base = f"http://127.0.0.1:{server.server_port}"
                cache = ListCache(tmp_path, HOUR, fetched)
                found = cache.list_at(f"{base}/0.crl", stage.issuer("ek").certificate, AT)
                assert found.der == stage.lists["ek"]
                for url in (f"{base}/moved", "file:///etc/passwd", "ldap://127.0.0.1/"):
                    with pytest.raises(Unavailable):
                        fetched(url)
            finally:
                server.shutdown()
                thread.join()


class TestTheProcess:
    """As keylime starts it: no arguments, no shell, its own working directory, one pipe for both streams."""

    def start(self, site, code=SCRIPT, **changes):
        environment = os.environ | site.environment(**changes)
        return subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=60,
        )

    def test_it_says_why(self, site):
        # The lists of the stage are not of today.
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = self.start(site)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 1
        assert done.stdout.decode().startswith("vtpm-ca-ek-check: refused: relying.")
        # About 0.4 s of one processor; the limit catches a start that loads the whole CA.
        assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 2

    def test_a_stranger_writes_no_second_line(self, site, stage):
        """The library warns of a serial number that is not positive, on the stream that keylime logs."""
        serial = loaded(stage.ek).serial_number.to_bytes(17, "big")
        odd = stage.ek.replace(b"\x02\x11" + serial, b"\x02\x11\xff" + serial[1:])
        assert odd != stage.ek
        done = self.start(site, EK_CERT=base64.b64encode(odd).decode())
        assert done.returncode == 1
        assert done.stdout.decode().splitlines()[1:] == []

    def test_what_it_does_not_load(self, site):
        heavy = {"sqlalchemy", "pydantic", "flask", "requests", "click", "ca_service.keys"}
        code = f"import sys\nfrom ca_service.export.ek_check import program\nprint(sorted({heavy} & set(sys.modules)))"
        assert self.start(site, code).stdout.decode() == "[]\n"
