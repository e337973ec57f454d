"""The commands without a server: what they print, and how they end."""

import fcntl
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ca_service.cli.channel import operator_socket
from ca_service.cli.place import user_name
from ca_service.policy import example_document

RESOURCE = "default/vtpm/guest-a"


def rows(here, *words):
    done = here(*words, "--json")
    assert (done.code, done.err) == (0, "")
    return json.loads(done.out)


@pytest.fixture
def config(tmp_path, stage):
    path = tmp_path / "ceremony.toml"
    path.write_text(stage.CONFIG)
    return path


@pytest.fixture
def policy_file(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text("schema = 1\n[grant]\nmax_age_s = 60\n")
    return path


class TestInit:
    def test_a_new_ca_works_at_once(self, here, tmp_path, config):
        done = here("init", tmp_path / "ca", "--config", config)
        assert (done.code, done.err) == (0, "")
        assert "simulation CA test-ca" in done.out
        assert "offline" in done.out
        listed = rows(here, "ca", "list", "--dir", tmp_path / "ca")
        assert [row["role"] for row in listed] == ["root", "ek", "devid", "ephemeral"]
        assert here("audit", "verify", "--dir", tmp_path / "ca").code == 0
        again = here("init", tmp_path / "ca", "--config", config)
        assert (again.code, again.out) == (1, "")
        assert "no empty directory" in again.err

    def test_json(self, here, tmp_path, config):
        transcript = rows(here, "init", tmp_path / "ca", "--config", config)
        assert transcript["mode"] == "simulation"

    def test_bad_configurations_make_nothing(self, here, tmp_path, config):
        for content in (b"", b"\xff\xfe\x00", b"mode = ", b'mode = "wild"', b"#" * 100_000):
            config.write_bytes(content)
            done = here("init", tmp_path / "ca", "--config", config)
            assert (done.code, done.out) == (2, "")
        for path in (tmp_path / "none.toml", tmp_path, "", config / "x"):
            assert here("init", tmp_path / "ca", "--config", path).code == 2
        assert not (tmp_path / "ca").exists()

    def test_a_file_in_the_place_of_the_directory(self, here, config):
        assert here("init", config, "--config", config).code == 2
        assert here("init", config / "below", "--config", config).code == 3
        assert here("init", "", "--config", config).code == 2

    @pytest.mark.parametrize(
        "env",
        [
            {"VTPM_CA_PASSPHRASE_FILE": None},
            {"VTPM_CA_PASSPHRASE_FILE": ""},
            {"VTPM_CA_PASSPHRASE_FILE": "/dev/null"},
            {"VTPM_CA_PASSPHRASE_FILE": "/nowhere"},
            {"VTPM_CA_PASSPHRASE_FILE": "/"},
        ],
    )
    def test_without_a_passphrase_there_is_no_ca(self, here, tmp_path, config, env):
        done = here("init", tmp_path / "ca", "--config", config, env=env)
        assert (done.code, done.out) == (2, "")
        assert not (tmp_path / "ca").exists()


class TestPolicy:
    def test_apply_show_log(self, here, empty, policy_file):
        assert "no policy was ever applied" in here("policy", "log", "--dir", empty).out
        assert here("policy", "show", "--dir", empty).code == 1
        first = here("policy", "apply", policy_file, "--dir", empty)
        assert (first.code, "version 1 is in force (digest" in first.out) == (0, True)
        assert "nothing changed" in here("policy", "apply", policy_file, "--dir", empty).out
        assert here("policy", "show", "--dir", empty).out == policy_file.read_text()
        (row,) = rows(here, "policy", "log", "--dir", empty)
        assert (row["version"], row["applied_by"]) == (1, user_name(os.getuid()))
        assert here("policy", "show", "--version", "7", "--dir", empty).code == 1
        assert here("policy", "show", "--version", "0", "--dir", empty).code == 2

    def test_diff_and_rollback(self, here, empty, policy_file, tmp_path):
        here("policy", "apply", policy_file, "--dir", empty)
        less = tmp_path / "less.toml"
        less.write_text(re.sub(r"(?m)^max_age_s = \d+$", "max_age_s = 59", policy_file.read_text()))
        told = here("policy", "diff", less, "--dir", empty).out.splitlines()
        assert told[0].endswith("less.toml admits less than version 1")
        assert told[1:] == ["  narrows  grant: lowers the greatest age of a grant, in seconds: 60 -> 59"]
        assert here("policy", "apply", less, "--dir", empty, "--base", "0").code == 1
        assert told[1] in here("policy", "apply", less, "--dir", empty, "--base", "1").out
        assert "admits more than version 2" in here("policy", "diff", "--to", "1", "--dir", empty).out
        assert "version 3 is in force" in here("policy", "rollback", "1", "--dir", empty).out
        assert "admits the same as" in here("policy", "diff", "--from", "1", "--to", "3", "--dir", empty).out
        assert here("policy", "diff", "--dir", empty).code == 2
        assert here("policy", "diff", less, "--to", "1", "--dir", empty).code == 2

    def test_one_that_waits_and_one_that_is_to_come(self, here, empty, policy_file, tmp_path):
        """On one machine there is one operator, whoever he calls himself."""
        text = policy_file.read_text() + '[approval]\nwidening = "two"\n'
        policy_file.write_text(text)
        first = here("policy", "apply", policy_file, "--dir", empty)
        assert (first.code, "version 1 waits for approval" in first.out) == (0, True)
        assert "another operator" in first.out.splitlines()[-1]
        assert here("policy", "show", "--dir", empty).code == 1
        refused = here("policy", "approve", "1", "--dir", empty)
        assert (refused.code, "so another operator must approve it" in refused.err) == (1, True)
        assert here("policy", "approve", "2", "--dir", empty).code == 1
        assert here("policy", "approve", "0", "--dir", empty).code == 2
        assert "version 1 is withdrawn" in here("policy", "withdraw", "1", "--dir", empty).out
        policy_file.write_text(text.replace('"two"', '"one"'))
        told = here("policy", "apply", policy_file, "--dir", empty, "--at", "2099-01-01T00:00:00+01:00")
        assert "version 2 comes in force at 2098-12-31T23:00:00Z" in told.out
        assert here("policy", "apply", policy_file, "--dir", empty, "--at", "soon").code == 2
        (_, withdrawn, scheduled) = here("policy", "log", "--dir", empty).out.splitlines()
        assert f"withdrawn by {user_name(os.getuid())}" in withdrawn
        assert "comes in force at 2098-12-31T23:00:00Z" in scheduled
        (row, _) = rows(here, "policy", "log", "--dir", empty)
        assert (row["state"], [each["verdict"] for each in row["verdicts"]]) == ("withdrawn", ["withdraw"])
        policy_file.write_text(text.replace('"two"', '"one"').replace("schema = 1", "schema = 1\n# now"))
        told = here("policy", "apply", policy_file, "--dir", empty, "--json")
        assert json.loads(told.out)["notes"] == [
            "version 2, which was to come in force at 2098-12-31T23:00:00Z, is dropped by this"
        ]

    def test_who_applied_it_is_not_the_environments_to_say(self, here, empty, policy_file):
        here("policy", "apply", policy_file, "--dir", empty, env={"LOGNAME": "mallory", "USER": "mallory"})
        assert "mallory" not in here("policy", "log", "--dir", empty).out

    def test_check_needs_no_ca(self, here, policy_file):
        done = here("policy", "check", policy_file)
        assert (done.code, done.err) == (0, "")
        assert re.search(r"unsafe +none", done.out)
        assert rows(here, "policy", "check", policy_file)["unsafe"] == []

    @pytest.mark.parametrize("verb", ["check", "apply"])
    def test_a_document_that_leaves_a_question_open(self, here, empty, policy_file, verb):
        where = ("--dir", empty) if verb == "apply" else ()
        policy_file.write_text(
            f'schema = 1\n[[launch]]\nname = "svsm"\nmeasurement = "{"11" * 48}"\ncapabilities = []\n'
            'products = ["Milan"]\nunconstrained = ["id-key", "author-key"]\n'
        )
        done = here("policy", verb, policy_file, *where)
        assert (done.code, done.out) == (1, "")
        assert (
            'launch[0].host_data: must be stated, or "host-data" named in unconstrained (entry "svsm"), '
            "and 6 more open questions" in done.err
        )
        assert 'launch[0].image_ids: must be stated, or "image-id" named' in done.err.splitlines()[2]
        assert len(done.err.splitlines()) == 1 + 6 + 1
        assert "policies/README.md" in done.err

    def test_check_names_launches_and_platforms(self, here, policy_file):
        policy_file.write_text(example_document("simulation.toml"))
        assert re.search(r"platform +simulated", here("policy", "check", policy_file).out)
        shown = rows(here, "policy", "check", policy_file)
        assert (shown["launch"], shown["platform"]) == ([], ["simulated"])
        assert [warning.partition(":")[0] for warning in shown["warnings"]] == [
            "platform simulated has no crl_max_age_days"
        ]

    @pytest.mark.parametrize("verb", ["check", "apply"])
    def test_bad_documents(self, here, empty, tmp_path, policy_file, verb):
        where = ("--dir", empty) if verb == "apply" else ()
        expected = {b"schema = ": 1, b"schema = 9": 1, b"": 1, b"\xff\x00\xfe": 2, b"#" * (17 << 20): 2}
        for content, code in expected.items():
            policy_file.write_bytes(content)
            done = here("policy", verb, policy_file, *where)
            assert (done.code, done.out) == (code, ""), content[:10]
            assert done.err.startswith("vtpm-ca: ")
        for path in (tmp_path / "none", tmp_path, "", "/dev/zero", "\udcff"):
            assert here("policy", verb, path, *where).code == 2

    def test_a_document_with_its_own_line_ends_is_kept_as_it_is(self, here, empty, policy_file):
        policy_file.write_bytes("schema = 1\r\n# \N{EURO SIGN}\r\n".encode())
        here("policy", "apply", policy_file, "--dir", empty)
        assert rows(here, "policy", "show", "--dir", empty)["text"].encode() == policy_file.read_bytes()


class TestLists:
    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            (("instance", "list"), "no instance yet"),
            (("cert", "list"), "no certificate yet"),
            (("decision", "list"), "no decision yet"),
            (("alarm", "list"), "no alarm"),
        ],
    )
    def test_empty(self, here, empty, words, sentence):
        assert here(*words, "--dir", empty).out == sentence + "\n"
        assert rows(here, *words, "--dir", empty) == []

    def test_filled(self, here, ca):
        for words, count in (
            (("instance", "list"), 1),
            (("cert", "list"), 3),
            (("decision", "list"), 2),
            (("alarm", "list"), 1),
            (("ca", "list"), 4),
        ):
            lines = here(*words, "--dir", ca).out.splitlines()
            assert len(lines) == count + 1
            assert len(rows(here, *words, "--dir", ca)) == count
            on_screen = here(*words, "--dir", ca, env={"COLUMNS": "120"}).out.splitlines()
            assert max(map(len, on_screen)) <= 120
            joined = "".join(on_screen).replace(" ", "")
            assert len(joined) == len("".join(lines).replace(" ", ""))

    def test_limits(self, here, ca):
        assert len(rows(here, "cert", "list", "--limit", "2", "--dir", ca)) == 2
        for limit in ("0", "-1", "x", "100001", "9" * 5000):
            assert here("cert", "list", "--limit", limit, "--dir", ca).code == 2

    def test_a_root_list_that_is_lost_is_seen(self, here, ca):
        assert here("ca", "list", "--dir", ca).err == ""
        (ca / "crl" / "root.crl").unlink()
        done = here("ca", "list", "--json", "--dir", ca)
        assert (done.code, len(json.loads(done.out))) == (0, 4)
        assert done.err.startswith("WARNING crl/root.crl is not the root's newest")

    def test_the_root_as_pem(self, here, ca):
        assert here("ca", "list", "--root-pem", "--dir", ca).out == (ca / "certs" / "root.pem").read_text()


class TestShow:
    def test_a_decision_is_readable_in_120_columns(self, here, ca):
        refused = next(r for r in rows(here, "decision", "list", "--dir", ca) if r["verdict"] == "refused")
        done = here("decision", "show", refused["id"], "--all", "--dir", ca, env={"COLUMNS": "120"})
        assert done.code == 0
        lines = done.out.splitlines()
        assert max(map(len, lines)) <= 120
        assert any(re.match(rf"FAILED +{re.escape(refused['rule'])} +\S", line) for line in lines)
        shown = rows(here, "decision", "show", refused["id"], "--dir", ca)
        assert all(finding["rule"] in done.out for finding in shown["trace"])
        narrow = here("decision", "show", refused["id"], "--dir", ca, env={"COLUMNS": "80"})
        assert max(map(len, narrow.out.split("\n\n")[1].splitlines())) <= 80

    def test_a_certificate(self, here, ca):
        serial = rows(here, "cert", "list", "--dir", ca)[0]["serial"]
        done = here("cert", "show", serial, "--dir", ca)
        assert done.out.endswith("-----END CERTIFICATE-----\n")
        assert f"serial      {serial}\n" in done.out

    def test_an_instance(self, here, ca):
        done = here("instance", "show", "org-kbs", RESOURCE, "--dir", ca, env={"COLUMNS": "120"})
        assert "idevid" in done.out
        assert max(map(len, done.out.splitlines())) <= 120

    def test_what_is_not_there(self, here, ca):
        for words in (
            ("decision", "show", "0" * 32),
            ("cert", "show", "00"),
            ("instance", "show", "org-kbs", "a/b/c"),
        ):
            done = here(*words, "--dir", ca)
            assert (done.code, done.out) == (1, "")
        for words in (
            ("cert", "show", "zz"),
            ("decision", "show", "\udcff"),
            ("instance", "show", "org-kbs", "x"),
            ("decision", "show", ""),
        ):
            assert here(*words, "--dir", ca).code == 2


class TestChanges:
    def test_revoke(self, here, ca):
        serial = rows(here, "cert", "list", "--dir", ca)[0]["serial"]
        dry = here("cert", "revoke", serial, "--dir", ca, env={"VTPM_CA_PASSPHRASE_FILE": None})
        assert (dry.code, "dry run" in dry.out, serial in dry.out) == (0, True, True)
        assert len(rows(here, "cert", "list", "--dir", ca)) == 3
        done = here("cert", "revoke", serial, "--reason", "keyCompromise", "--yes", "--dir", ca)
        assert (done.code, "revoked" in done.out) == (0, True)
        assert len(rows(here, "cert", "list", "--dir", ca)) == 2
        again = here("cert", "revoke", serial, "--yes", "--dir", ca)
        assert (again.code, "no live certificate" in again.out) == (0, True)
        assert here("cert", "revoke", serial, "--reason", "boredom", "--dir", ca).code == 2

    def test_reset(self, here, ca):
        words = ("instance", "reset", "org-kbs", RESOURCE, "--dir", ca)
        dry = here(*words)
        assert (dry.code, "dry run" in dry.out, dry.out.count("issued")) == (0, True, 4)
        done = rows(here, *words, "--yes", "--cause", "moved")
        assert (done["done"], len(done["revoked"])) == (True, 3)
        assert here(*words, "--yes").code == 1

    def test_publish(self, here, empty):
        assert [row["number"] for row in rows(here, "crl", "publish", "--dir", empty)] == [2, 2, 2]
        assert [row["number"] for row in rows(here, "crl", "publish", "--dir", empty)] == [3, 3, 3]

    def test_passphrases(self, here, empty, tmp_path):
        assert here("crl", "publish", "--dir", empty, env={"VTPM_CA_PASSPHRASE_FILE": None}).code == 2
        wrong = {"VTPM_CA_PASSPHRASE_FILE": None, "VTPM_CA_PASSPHRASE": "open sesame"}
        done = here("crl", "publish", "--dir", empty, env=wrong)
        assert (done.code, "wrong passphrase" in done.err, "sesame" in done.err) == (1, True, False)
        readable = tmp_path / "passphrase"
        readable.write_text("open sesame")
        readable.chmod(0o644)
        done = here("crl", "publish", "--dir", empty, env={"VTPM_CA_PASSPHRASE_FILE": str(readable)})
        assert (done.code, "chmod" in done.err) == (2, True)


class TestKeylime:
    def test_export_and_check(self, here, empty, tmp_path):
        store = tmp_path / "store"
        words = ("export", "keylime", store, "--dir", empty)
        assert here(*words, "--check").code == 1
        assert not store.exists()
        done = here(*words)
        assert (done.code, len(list(store.iterdir()))) == (0, 2)
        assert here(*words, "--check").code == 0
        assert here(*words, "--role", "ek", "--check").code == 1
        # Without this setting keylime's agent cannot use what is good for its servers.
        assert 'iak_idevid_template = "H-2"' in done.out
        assert f"tpm_cert_store = {store}" in done.out
        next(store.iterdir()).write_text("something else")
        report = rows_of_export(here(*words, "--check", "--json"))
        assert report["in_order"] is False
        (setting,) = report["agent_settings"]
        assert (setting["option"], setting["value"]) == ("iak_idevid_template", "H-2")
        assert here(*words).code == 0

    def test_a_dry_run_does_nothing_and_is_no_failure(self, here, empty, tmp_path):
        store = tmp_path / "store"
        words = ("export", "keylime", store, "--dir", empty, "--role", "devid")
        done = here(*words, "--dry-run", "--json")
        report = json.loads(done.out)
        assert (done.code, report["checked_only"], len(report["written"])) == (0, True, 1)
        files = [(entry["host"], entry["option"], entry["value"]) for entry in report["settings"]]
        assert ("registrar", "tpm_cert_store", str(store)) in files
        assert report["warnings"] == []
        assert not store.exists()
        assert "would write" in here(*words, "--dry-run").out
        assert here(*words, "--dry-run", "--check").code == 2
        store.mkdir()
        (store / "broken.pem").write_bytes(b"\xff")
        assert here(*words, "--dry-run").code == 1

    def test_a_hazard_is_named(self, here, empty, tmp_path):
        (tmp_path / "broken.pem").write_bytes(b"\xff")
        done = here("export", "keylime", tmp_path, "--dir", empty)
        assert (done.code, "HAZARD broken.pem" in done.err) == (1, True)

    def test_bad_destinations(self, here, empty, tmp_path):
        file = tmp_path / "file"
        file.touch()
        assert here("export", "keylime", file, "--dir", empty).code == 2
        assert here("export", "keylime", "", "--dir", empty).code == 2
        assert here("export", "keylime", file / "below", "--dir", empty).code == 3
        assert here("export", "keylime", tmp_path / "s", "--role", "root", "--dir", empty).code == 2


def rows_of_export(done):
    assert done.code == 1
    return json.loads(done.out)


class TestTheDirectory:
    def test_three_ways_to_name_it(self, here, ca, tmp_path):
        wrong = {"VTPM_CA_DIR": str(tmp_path)}
        assert here("cert", "list", env={"VTPM_CA_DIR": str(ca)}).code == 0
        assert here("--dir", ca, "cert", "list", env=wrong).code == 0
        assert here("cert", "list", "--dir", ca, env=wrong).code == 0
        assert here("--dir", tmp_path, "cert", "list", "--dir", ca).code == 0
        assert here("cert", "list", "--dir", "", env={"VTPM_CA_DIR": str(ca)}).code == 0
        done = here("cert", "list")
        assert (done.code, "VTPM_CA_DIR" in done.err) == (2, True)
        assert here("cert", "list", env={"VTPM_CA_DIR": ""}).code == 2

    @pytest.mark.parametrize(
        "words",
        [("cert", "list"), ("ca", "list"), ("serve",), ("crl", "publish"), ("export", "keylime", "x")],
    )
    def test_no_ca_there(self, here, tmp_path, words):
        (tmp_path / "file").touch()
        for directory in (
            tmp_path,
            tmp_path / "none",
            tmp_path / "file",
            tmp_path / "file" / "x",
            "/dev/null",
        ):
            done = here(*words, "--dir", directory)
            assert (done.code, done.out) == (2, "")
            assert "is not the directory of a CA" in done.err
        assert list(tmp_path.iterdir()) == [tmp_path / "file"]

    @pytest.mark.parametrize(
        ("name", "content"),
        [("ca.toml", b"\xff\x00"), ("ca.toml", b"version = 7"), ("certs/root.pem", b""), ("ca.toml", None)],
    )
    def test_a_damaged_ca(self, here, ca, name, content):
        (ca / name).unlink()
        if content is None:
            (ca / name).mkdir()
        else:
            (ca / name).write_bytes(content)
        done = here("cert", "list", "--dir", ca)
        assert (done.code in (1, 2), done.out) == (True, "")

    def test_a_damaged_key(self, here, ca):
        for path in (ca / "private").iterdir():
            path.write_bytes(b"\x00\xff")
        done = here("crl", "publish", "--dir", ca)
        assert (done.code in (1, 2), done.out) == (True, "")
        (ca / "private" / "ek-default.sealed").unlink()
        assert here("crl", "publish", "--dir", ca).code in (1, 2)

    def test_the_database(self, here, ca):
        database = ca / "ca.sqlite3"
        content = database.read_bytes()
        database.unlink()
        done = here("cert", "list", "--dir", ca)
        assert (done.code, "missing" in done.err, database.exists()) == (3, True, False)
        database.write_bytes(content[:4096] + os.urandom(len(content) - 4096))
        assert here("cert", "list", "--dir", ca).code == 3
        database.write_bytes(b"not a database" * 999)
        assert here("cert", "list", "--dir", ca).code == 3
        assert here("serve", "--dir", ca).code == 3
        assert here("cert", "list", "--dir", ca, env={"VTPM_CA_DATABASE": "nonsense://"}).code == 2

    def test_a_database_elsewhere_is_not_forgotten(self, here, ca):
        (ca / "run" / "server.json").write_text('{"tls":false,"own_database":false}')
        done = here("cert", "list", "--dir", ca)
        assert (done.code, "VTPM_CA_DATABASE" in done.err) == (3, True)
        elsewhere = {"VTPM_CA_DATABASE": f"sqlite:///{ca}/ca.sqlite3"}
        assert here("cert", "list", "--dir", ca, env=elsewhere).code == 0


class TestBusy:
    def test_a_lock_without_an_answer(self, here, ca):
        with (ca / "run" / "server.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            done = here("cert", "list", "--dir", ca)
            assert (done.code, "another process" in done.err) == (3, True)
        assert here("cert", "list", "--dir", ca).code == 0

    def test_a_socket_without_an_answer(self, here, ca, monkeypatch):
        monkeypatch.setattr("ca_service.cli.channel._TIMEOUT_S", 0.2)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(operator_socket(ca)))
            listener.listen()
            done = here("cert", "list", "--dir", ca)
            assert (done.code, "does not answer" in done.err) == (3, True)
        assert here("cert", "list", "--dir", ca).code == 0

    def test_a_path_too_long_for_a_socket(self, here, ca):
        deep = ca.parent / ("d" * 120)
        ca.rename(deep)
        assert here("cert", "list", "--dir", deep).code == 0
        done = here("serve", "--dir", deep)
        assert (done.code, "too long" in done.err) == (2, True)


class TestStreams:
    """What a shell may do to a command's output."""

    def test_a_reader_who_goes_away(self, process, ca):
        reader, writer = os.pipe()
        os.close(reader)
        done = process("cert", "list", "--json", "--dir", ca, stdout=writer)
        os.close(writer)
        assert (done.returncode, done.stderr) == (3, "")

    def test_a_full_disk(self, process, ca):
        with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
            done = process("cert", "list", "--dir", ca, stdout=full)
        assert done.returncode == 3
        assert done.stderr.startswith("vtpm-ca: the output cannot be written")

    def test_closed_streams(self, process, ca):
        for numbers in ((1,), (0, 1, 2)):

            def close(numbers=numbers):
                for number in numbers:
                    os.close(number)

            done = process("cert", "list", "--dir", ca, preexec_fn=close)
            assert done.returncode == 0
            assert (ca / "run" / "server.lock").read_bytes() == b""
        done = process("cert", "show", "00", "--dir", ca, preexec_fn=lambda: os.close(2))
        assert done.returncode == 1

    def test_other_locales(self, process, ca):
        for name in ("C", "de_DE.ISO-8859-1"):
            done = process("policy", "show", "--dir", ca, env={"LC_ALL": name, "PYTHONUTF8": "0"})
            assert (done.returncode, done.stderr) == (0, "")

    def test_hostile_text_does_not_steer_the_terminal(self, here, ca, stage):
        store = stage.open_store(f"sqlite:///{ca}/ca.sqlite3")
        with store.write() as tx:
            tx.alarms.add("clone", "x", '{"rule":"\\u001b[2J\\u202e"}', stage.now())
        store.close()
        out = here("alarm", "list", "--dir", ca).out
        assert "\x1b" not in out
        assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in out
        assert "\\x1b[2J" in out

    def test_both_sides_of_an_alarm_can_be_told_apart(self, here, ca, stage):
        store = stage.open_store(f"sqlite:///{ca}/ca.sqlite3")
        with store.write() as tx:
            detail = {"newcomer": {"kbs": "a", "salt": ""}, "holders": [{"kbs": "b"}, {"kbs": "c"}]}
            tx.alarms.add("clone", "x", json.dumps(detail), stage.now())
        store.close()
        out = here("alarm", "list", "--dir", ca).out
        assert "newcomer (kbs a, salt -), holders (kbs b), (kbs c)" in out
        assert here("alarm", "list", "--kind", "clone", "--dir", ca).out == out
        assert here("alarm", "list", "--kind", "rollback", "--dir", ca).out == "no alarm\n"
        assert here("alarm", "list", "--kind", "clones", "--dir", ca).code == 2


def test_usage_errors(here):
    for words in ((), ("nothing",), ("cert",), ("cert", "list", "--nothing"), ("cert", "show"), ("--dir",)):
        done = here(*words)
        assert (done.code, done.out) == (2, "")
        assert done.err


def test_an_error_of_ours_shows_no_traceback_and_no_text(here, ca, monkeypatch):
    def broken(*_):
        raise RuntimeError("the secret is 1234")

    monkeypatch.setattr("ca_service.cli.direct.perform", broken)
    done = here("cert", "list", "--dir", ca)
    assert (done.code, "internal error: RuntimeError" in done.err, "1234" in done.err) == (3, True, False)


def test_the_installed_command(ca):
    done = subprocess.run(
        [Path(sys.executable).with_name("vtpm-ca"), "cert", "list", "--json", "--dir", ca],
        capture_output=True,
        check=False,
    )
    assert (done.returncode, len(json.loads(done.stdout))) == (0, 3)
