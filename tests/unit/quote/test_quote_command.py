"""`vtpm-ca quote verify`: from files and on a TPM that can be reached, with its exit codes."""

import json
import sys
import time
from contextlib import ExitStack

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from quoting_tpm import NONCE, RealTpm
from relying_stage import AT, crl_place, loaded, new_signer, signed

from ca_service.cli import main
from ca_service.export.quote.live import LiveTpm, opened, read_selection
from ca_service.judgment import BadRequest, Unavailable
from ca_service.residency.quote import Quoted
from vtpm.tpm import GuestGateway, Swtpm

KINDS = ("iak", "ek", "idevid")


@pytest.fixture(scope="module")
def folder(scene, tmp_path_factory):
    """What a relying party has, and what a VM sends."""
    place, stage = tmp_path_factory.mktemp("party"), scene.stage
    for name in ("issuers", "crls"):
        (place / name).mkdir()
    (place / "root.pem").write_bytes(stage.root.certificate.public_bytes(Encoding.PEM))
    for i, issuer in enumerate(stage.issuers):
        (place / "issuers" / f"{i}.pem").write_bytes(issuer.public_bytes(Encoding.PEM))
    for name, der in stage.lists.items():
        (place / "crls" / f"{name}.crl").write_bytes(der)
    for kind in KINDS:
        (place / f"{kind}.der").write_bytes(getattr(stage, kind))
        (place / f"{kind}.pem").write_bytes(loaded(getattr(stage, kind)).public_bytes(Encoding.PEM))
    for name in ("attest", "signature", "pcrs"):
        (place / name).write_bytes(getattr(scene.quote, name))
    return place


@pytest.fixture
def verify(folder, monkeypatch, capsys):
    """Runs the command; what is None is left out. Gives exit code, output and errors."""

    def run(*words, **changes):
        options = {
            "root": folder / "root.pem",
            "issuers": folder / "issuers",
            "crls": folder / "crls",
            "at": AT.isoformat(),
        } | changes
        given = [
            (f"--{name.replace('_', '-')}", str(value))
            for name, value in options.items()
            if value is not None
        ]
        # Wide enough that nothing goes on in a further line.
        monkeypatch.setenv("COLUMNS", "300")
        monkeypatch.setattr(
            sys, "argv", ["vtpm-ca", "quote", "verify", *words, *(w for pair in given for w in pair)]
        )
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return int(end.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def files(folder):
    parts = {name: folder / name for name in ("attest", "signature", "pcrs")}
    return {**parts, "nonce": NONCE.hex(), "iak": folder / "iak.der", "ek": folder / "ek.pem"}


class TestFiles:
    def test_valid(self, verify, files):
        code, out, err = verify(**files)
        assert (code, err) == (0, "")
        assert out.startswith("VALID  ok: ")
        assert "SIMULATION" in out
        assert "certified    2026-11-23 12:00 UTC by Tests, SIMULATION vTPM EK CA" in out
        assert "resource default/vtpm/guest-a" in out
        assert "No PCR values were demanded" in out
        assert "FAILED" not in out

    def test_json(self, verify, files, scene):
        code, out, _ = verify("--json", **files, idevid=files["iak"].with_name("idevid.der"))
        found = json.loads(out)
        assert (code, found["verdict"], found["reason"], found["mode"]) == (0, "VALID", "ok", "simulation")
        assert list(found["certificates"]) == list(KINDS)
        assert found["provenance"]["measurement"] == scene.stage.world.launch.measurement.hex()
        assert found["pcrs"]["sha256"]["0"] == "00" * 32
        assert found["quote"]["nonce"] == NONCE.hex()
        assert {check["about"] for check in found["checks"]} == {*KINDS, "quote"}
        assert {check["verdict"] for check in found["checks"]} == {"passed"}

    @pytest.mark.parametrize("name", ["attest", "signature", "pcrs", "iak", "ek"])
    @pytest.mark.parametrize("content", [b"", b"junk", bytes(100_000), b"-----BEGIN CERTIFICATE-----\nx"])
    def test_any_octets_that_could_be_read(self, verify, files, tmp_path, name, content):
        (tmp_path / "junk").write_bytes(content)
        code, out, err = verify("--json", **files | {name: tmp_path / "junk"})
        assert (code, err) == (1, "")
        found = json.loads(out)
        assert (found["verdict"], found["pcrs"], found["provenance"]) == ("INVALID", None, None)

    def test_what_failed_is_told_with_what_was_wanted(self, verify, files):
        code, out, _ = verify(**files | {"nonce": "00" * 32})
        assert code == 1
        assert out.startswith("INVALID  quote.nonce: it was not made for this nonce")
        assert "expected " + "00" * 32 in out
        assert f"actual {NONCE.hex()}" in out

    def test_an_attestation_key_that_is_junk(self, verify, files):
        keys = dict.fromkeys(("ak", "ak_attest", "ak_signature"), files["pcrs"])
        code, out, _ = verify(**files, **keys)
        assert code == 1
        assert "quote.ak-form" in out

    def test_expected_values(self, verify, files, scene, tmp_path):
        value = scene.verify().pcrs.value("sha256", 7).hex()
        for name, text in (
            ("a.toml", f'[sha256]\n7 = ["{value}"]'),
            ("b.json", f'{{"sha256": {{"7": "{value}"}}}}'),
        ):
            (tmp_path / name).write_text(text)
            code, out, _ = verify(**files, expect_pcrs=tmp_path / name)
            assert code == 0
            assert "No PCR values were demanded" not in out
            (tmp_path / name).write_text(text.replace(value, "00" * 32))
            code, out, _ = verify(**files, expect_pcrs=tmp_path / name)
            assert code == 1
            assert "quote.pcrs" in out

    def test_a_rule(self, verify, files, tmp_path):
        path = tmp_path / "rule.toml"
        for resource, code in (("default/vtpm/*", 0), ("default/other/*", 1)):
            path.write_text(f'[provenance]\nresources = ["{resource}"]')
            found, out, _ = verify(**files, rule=path)
            assert found == code
            assert (code == 1) == ("iak relying.provenance-rule" in out)

    def test_a_file_with_its_chain(self, verify, files, folder, scene, tmp_path):
        (tmp_path / "chain.pem").write_bytes(
            (folder / "iak.pem").read_bytes() + (folder / "root.pem").read_bytes()
        )
        assert verify(**files | {"iak": tmp_path / "chain.pem"})[0] == 0

    def test_without_lists_nothing_counts(self, verify, files):
        code, out, _ = verify(**files, crls=None)
        assert code == 1
        assert "relying.revocation" in out


class TestFetching:
    @pytest.fixture
    def asked(self, monkeypatch, scene):
        """What is where in the web; the places that are asked."""
        web, asked = {}, []
        for kind, role in (("iak", "devid"), ("ek", "ek")):
            web[crl_place(loaded(getattr(scene.stage, kind)))] = scene.stage.lists[role]
        web[crl_place(scene.stage.issuer("ek").certificate)] = scene.stage.lists["root"]

        def fetch(url):
            asked.append(url)
            if url not in web:
                raise Unavailable(f"{url} answers 404", code="fetch")
            return web[url]

        monkeypatch.setattr("ca_service.cli.quote.fetched", fetch)
        return web, asked

    def test_each_list_once(self, verify, files, asked):
        web, places = asked
        assert verify("--fetch", **files, crls=None)[0] == 0
        assert sorted(places) == sorted(web)

    def test_nobody_is_asked_for_a_stranger(self, verify, files, asked, scene, tmp_path):
        stranger = signed(loaded(scene.stage.iak).tbs_certificate_bytes, new_signer())
        (tmp_path / "iak.der").write_bytes(stranger)
        code, _, _ = verify("--fetch", **files | {"iak": tmp_path / "iak.der", "ek": None}, crls=None)
        assert (code, asked[1]) == (1, [])

    @pytest.mark.parametrize("there", [None, b"junk", "devid"])
    def test_what_is_no_list_of_its_issuer(self, verify, files, asked, scene, there):
        web, _ = asked
        place = crl_place(loaded(scene.stage.ek))
        web[place] = scene.stage.lists[there] if isinstance(there, str) else there
        if there is None:
            del web[place]
        code, out, _ = verify("--fetch", "--json", **files, crls=None)
        found = json.loads(out)
        assert (code, found["reason"]) == (1, "relying.revocation")
        assert [problem for problem in found["unfetched"] if place in problem] == found["unfetched"] != []
        assert place in verify("--fetch", **files, crls=None)[1]

    def test_a_fetched_list_revokes(self, verify, files, asked, scene):
        web, _ = asked
        web[crl_place(loaded(scene.stage.iak))] = scene.stage.list_of(
            "devid", [loaded(scene.stage.iak).serial_number]
        )
        code, out, _ = verify("--fetch", **files)
        assert code == 1
        assert "was revoked" in out


class TestUsage:
    @pytest.mark.parametrize("name", ["root", "issuers", "attest", "signature", "pcrs", "nonce", "iak"])
    @pytest.mark.parametrize("value", [None, ""])
    def test_what_is_needed(self, verify, files, name, value):
        code, out, err = verify(**files | {name: value})
        assert (code, out) == (2, "")
        assert f"--{name}" in err

    @pytest.mark.parametrize("nonce", ["0", "xy", "00" * 65, "0x", "00 00"])
    def test_a_nonce_that_is_none(self, verify, files, nonce):
        code, _, err = verify(**files | {"nonce": nonce})
        assert code == 2
        assert "1 to 64 octets in hex" in err

    @pytest.mark.parametrize(
        "name", ["root", "issuers", "crls", "attest", "pcrs", "iak", "ek", "rule", "expect_pcrs"]
    )
    def test_a_file_that_is_not_there(self, verify, files, tmp_path, name):
        code, out, err = verify(**files | {name: tmp_path / "nothing"})
        assert (code, out) == (2, "")
        assert str(tmp_path / "nothing") in err

    @pytest.mark.parametrize("name", ["root", "rule", "expect_pcrs"])
    def test_what_the_party_itself_has_written_wrongly(self, verify, files, tmp_path, name):
        for content in (b"junk", b"\xff", b"[other]\nx = 1\n", b""):
            (tmp_path / "wrong").write_bytes(content)
            code, out, err = verify(**files | {name: tmp_path / "wrong"})
            assert (code, out) == (2, "")
            assert str(tmp_path / "wrong") in err

    def test_options_that_do_not_go_together(self, verify, files):
        for changes, word in (
            ({"tcti": "x"}, "--attest does not go with --tcti"),
            ({"pcr_list": "sha256:0"}, "--pcr-list does not go with files"),
            ({"ak": files["iak"]}, "--ak, --ak-attest and --ak-signature go together"),
        ):
            code, _, err = verify(**files | changes)
            assert code == 2
            assert word in err

    @pytest.mark.parametrize(
        "text", ["", "sha256", "sha256:", "sha256:24", "sha256:0+sha256:1", "md5:1", "sha256:00"]
    )
    def test_a_list_of_pcrs_that_is_none(self, text):
        with pytest.raises(BadRequest, match="pcr-list"):
            read_selection(text)


class TestLive:
    def test_all_from_the_tpm(self, verify, scene):
        code, out, _ = verify("--json", tcti=scene.tools.tcti)
        found = json.loads(out)
        assert (code, list(found["certificates"])) == (0, list(KINDS))
        assert found["quote"]["pcr_selection"] == {"sha256": list(range(24))}
        assert len(found["quote"]["nonce"]) == 64
        again = json.loads(verify("--json", tcti=scene.tools.tcti)[1])
        assert again["quote"]["nonce"] != found["quote"]["nonce"]

    def test_chosen_pcrs(self, verify, scene):
        code, out, _ = verify("--json", tcti=scene.tools.tcti, pcr_list="sha1:all+sha384:3,1")
        assert code == 0
        assert json.loads(out)["quote"]["pcr_selection"] == {"sha1": list(range(24)), "sha384": [1, 3]}

    def test_expected_pcrs_are_those_that_are_quoted(self, verify, scene, tmp_path):
        (tmp_path / "expected.toml").write_text(f'[sha256]\n7 = "{"00" * 32}"')
        code, out, _ = verify("--json", tcti=scene.tools.tcti, expect_pcrs=tmp_path / "expected.toml")
        found = json.loads(out)
        assert (code, found["reason"]) == (1, "quote.pcrs")
        assert found["quote"]["pcr_selection"] == {"sha256": [7]}

    def test_another_tpms_certificate(self, verify, scene, tmp_path):
        (tmp_path / "iak.der").write_bytes(scene.enrol("H-3").given["iak"])
        code, out, _ = verify("--json", tcti=scene.tools.tcti, iak=tmp_path / "iak.der")
        failed = {check["rule"] for check in json.loads(out)["checks"] if check["verdict"] == "failed"}
        assert code == 1
        assert {"quote.signature", "quote.signer", "quote.same-ek", "quote.same-idevid"} <= failed

    def test_of_several_ek_certificates_the_one_that_the_iaks_names(self, scene, monkeypatch):
        held = {0x01C00002: b"another", 0x01C0000A: scene.stage.ek}
        monkeypatch.setattr(LiveTpm, "_certificate", lambda _, index: held.get(index))
        live = LiveTpm(None, None)
        assert live.ek(scene.stage.iak) == scene.stage.ek
        assert live.ek(None) == live.ek(b"junk") == b"another"
        held.clear()
        assert live.ek(scene.stage.iak) is None

    @pytest.mark.parametrize("kind", KINDS)
    def test_an_empty_file_is_no_reason_to_ask_the_tpm(self, verify, scene, tmp_path, kind):
        (tmp_path / "empty").touch()
        code, out, _ = verify("--json", tcti=scene.tools.tcti, **{kind: tmp_path / "empty"})
        assert (code, json.loads(out)["reason"]) == (1, "relying.readable")

    @pytest.mark.parametrize("tcti", ["swtpm:host=127.0.0.1,port=1", "nonsense"])
    def test_no_tpm(self, verify, tcti):
        code, out, err = verify(tcti=tcti)
        assert (code, out) == (3, "")
        assert "the TPM failed while being reached" in err

    def test_a_clock_that_becomes_safe(self, scene, monkeypatch):
        """The quotes are a soft TPM's: a real one's clock would have to be made unsafe first."""
        soft, slept = scene.enrol("H-3"), []
        quotes = [soft.quote(safe=0), soft.quote(safe=0), soft.quote()]
        monkeypatch.setattr(LiveTpm, "_handle", lambda *_: 1)
        monkeypatch.setattr(LiveTpm, "_one_quote", lambda *_: quotes.pop(0))
        found = LiveTpm(None, slept.append).quote(NONCE, ())
        assert Quoted.read(found.attest).info.safe
        assert slept == [0.5, 0.5]
        quotes[:] = [soft.quote(safe=0)] * 30
        assert not Quoted.read(LiveTpm(None, slept.append).quote(NONCE, ()).attest).info.safe
        assert sum(slept) == 1 + 10

    @pytest.mark.slow
    def test_a_real_clock_after_power_was_lost(self):
        """No TPM2_Shutdown went before: the clock is safe once it has passed what may have been reported."""
        with ExitStack() as stack:
            tpm = RealTpm.made(stack, eks=("L-2",))
            again = stack.enter_context(Swtpm())
            again.power_on(tpm.swtpm.current_state())
            gateway = stack.enter_context(GuestGateway(again))
            slept = []
            live = stack.enter_context(
                opened(gateway.tcti, lambda step: (slept.append(step), time.sleep(step)))
            )
            found = live.quote(NONCE, read_selection("sha256:0"))
        info = Quoted.read(found.attest).info
        assert info.safe
        assert slept
        assert info.clock > 4000

    def test_a_pcr_that_was_extended_meanwhile(self, scene, monkeypatch):
        soft = scene.enrol("H-3")
        good = soft.quote()
        other = soft.quote(digest=bytes(48))
        quotes = [other, good]
        monkeypatch.setattr(LiveTpm, "_handle", lambda *_: 1)
        monkeypatch.setattr(LiveTpm, "_one_quote", lambda *_: quotes.pop(0))
        assert LiveTpm(None, None).quote(NONCE, ()) is good
        quotes[:] = [other] * 9
        assert LiveTpm(None, None).quote(NONCE, ()) is other
        assert len(quotes) == 4

    def test_what_is_no_certificate_of_everybody(self, verify, scene):
        """A guest's owner can define an index that the SVSM has left free, and let nobody read it."""
        run = scene.tools.run
        run("tpm2_nvdefine", "0x01C00014", "-s", "8", "-a", "ownerread|ownerwrite|policywrite")
        try:
            code, out, _ = verify("--json", tcti=scene.tools.tcti)
            assert (code, list(json.loads(out)["certificates"])) == (0, list(KINDS))
        finally:
            run("tpm2_nvundefine", "0x01C00014")

    def test_a_tpm_that_nobody_has_certified(self, verify, bare_tpm):
        code, _, err = verify(tcti=bare_tpm)
        assert code == 1
        assert "the TPM has no key at 0x81020001" in err
