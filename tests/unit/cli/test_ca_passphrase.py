"""`vtpm-ca ca passphrase`, and what a server makes of it."""

import json
import signal
import urllib.request

import pytest

NEW = "another horse and its battery"


@pytest.fixture
def new(tmp_path):
    path = tmp_path / "new-passphrase"
    path.touch(mode=0o600)
    path.write_text(NEW + "\n")
    return path


@pytest.fixture
def change(here, ca, new):
    def run(*words, **env):
        return here(
            "ca", "passphrase", "--dir", ca, *words, env={"VTPM_CA_NEW_PASSPHRASE_FILE": str(new), **env}
        )

    return run


def test_a_server_starts_with_the_new_one_and_not_with_the_old_one(serve, here, ca, change, new, tmp_path):
    running = serve(ca)
    done = change()
    assert (done.code, done.err) == (0, "")
    assert f"{ca}/private/nonce.sealed has the new passphrase" in done.out
    assert f"{ca}/offline/root.sealed has the new passphrase" in done.out
    assert NEW not in done.out
    # The one that runs has its keys.
    assert here("crl", "publish", "--dir", ca).code == 0
    assert running.end(signal.SIGTERM) == 0
    refused = here("serve", "--dir", ca, "--bind", "127.0.0.1:8443")
    assert refused.code == 1
    assert "wrong passphrase" in refused.err
    started = type(running)(None, ca, tmp_path / "new.log", new)
    try:
        assert here("cert", "list", "--dir", ca).code == 0
    finally:
        assert started.end(signal.SIGTERM) == 0
        started.process.stdout.close()


def test_a_rollover_before_the_restart_is_mended_by_it(serve, here, ca, change, new, tmp_path):
    running = serve(ca)
    assert change().code == 0
    with_new = {"VTPM_CA_PASSPHRASE_FILE": str(new)}
    prepared = here("ca", "prepare", "--dir", ca, env=with_new)
    assert prepared.code == 1
    assert "wrong passphrase" in prepared.err
    # Machines enrol as before.
    with urllib.request.urlopen(
        urllib.request.Request(f"http://127.0.0.1:{running.port}/v1/nonces", method="POST")
    ) as answer:
        assert answer.status == 201
    assert running.end(signal.SIGTERM) == 0
    assert here("ca", "activate", "--dir", ca, env=with_new).code == 0
    listed = json.loads(here("ca", "list", "--dir", ca, "--json", env=with_new).out)
    assert [entry["state"] for entry in listed if entry["generation"] == 2] == ["active", "active"]


def test_once_more(change):
    assert change().code == 0
    done = change("--json")
    assert done.code == 0
    found = json.loads(done.out)
    assert found["changed"] == []
    assert found["root_kept"] is None
    assert len(found["kept"]) == 7


@pytest.mark.parametrize(
    ("env", "code", "says"),
    [
        ({"VTPM_CA_NEW_PASSPHRASE_FILE": None}, 2, "VTPM_CA_NEW_PASSPHRASE_FILE or VTPM_CA_NEW_PASSPHRASE"),
        ({"VTPM_CA_NEW_PASSPHRASE_FILE": None, "VTPM_CA_NEW_PASSPHRASE": ""}, 2, "is not set"),
        ({"VTPM_CA_PASSPHRASE_FILE": None, "VTPM_CA_PASSPHRASE": NEW}, 1, "the new one is the old one"),
        ({"VTPM_CA_PASSPHRASE_FILE": None, "VTPM_CA_PASSPHRASE": "wrong"}, 1, "wrong passphrase"),
        (
            {"VTPM_CA_ROOT_PASSPHRASE": "own", "VTPM_CA_NEW_ROOT_PASSPHRASE": "own"},
            1,
            "the new one is the old one",
        ),
    ],
)
def test_what_is_refused_changes_nothing(change, ca, env, code, says):
    before = {path: path.read_bytes() for path in ca.rglob("*.sealed")}
    done = change(**env)
    assert (done.code, done.out) == (code, "")
    assert says in done.err
    assert {path: path.read_bytes() for path in ca.rglob("*.sealed")} == before


@pytest.mark.parametrize(("mode", "text"), [(0o644, NEW), (0o620, NEW), (0o600, ""), (0o600, "\n")])
def test_a_file_that_others_read_or_that_is_empty(change, ca, new, mode, text):
    new.write_text(text)
    new.chmod(mode)
    before = (ca / "private" / "nonce.sealed").read_bytes()
    done = change()
    assert (done.code, done.out) == (2, "")
    assert str(new) in done.err
    assert (ca / "private" / "nonce.sealed").read_bytes() == before


def test_a_root_on_a_medium_with_a_passphrase_of_its_own_needs_a_new_one_of_its_own(change, ca, tmp_path):
    (tmp_path / "medium").mkdir(mode=0o700)
    key = (ca / "offline" / "root.sealed").rename(tmp_path / "medium" / "root.sealed")
    done = change("--root-key", key, VTPM_CA_ROOT_PASSPHRASE="own")
    assert done.code == 2
    assert "VTPM_CA_NEW_ROOT_PASSPHRASE" in done.err
    assert change("--root-key", key).code == 0
    # Now it has its own.
    second = {"VTPM_CA_PASSPHRASE_FILE": None, "VTPM_CA_PASSPHRASE": NEW}
    third = {"VTPM_CA_NEW_PASSPHRASE_FILE": None, "VTPM_CA_NEW_PASSPHRASE": "third"}
    done = change("--root-key", key, **second, **third, VTPM_CA_NEW_ROOT_PASSPHRASE="the root's own")
    assert done.code == 0
    done = change(
        "--root-key",
        key,
        VTPM_CA_PASSPHRASE_FILE=None,
        VTPM_CA_PASSPHRASE="third",
        VTPM_CA_ROOT_PASSPHRASE="the root's own",
        VTPM_CA_NEW_ROOT_PASSPHRASE="another",
    )
    assert done.code == 0
    assert f"{key} has the new passphrase" in done.out
