import os
import stat
import subprocess
import sys
import threading

import pytest

from vtpm.errors import UsageError
from vtpm.kbs import Kbs, KbsError, files
from vtpm.wire.encoding import b64std, b64url
from vtpm.wire.grant import policy_digest

R = "default/vtpm/one"
MEASUREMENT = bytes(range(48))
STEPS = ("open", "fchmod", "fsync", "link", "unlink", "replace", "close")


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "kbs"


@pytest.fixture
def kbs(directory):
    return Kbs.create_or_open(directory, measurements=[MEASUREMENT])


def contents(directory):
    return {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_same_key_after_reopening(kbs, directory):
    assert Kbs.create_or_open(directory).public_jwk() == kbs.public_jwk()
    assert kbs.public_jwk().crv == "P-384"


def test_existing_policy_stays(kbs, directory):
    again = Kbs.create_or_open(directory, measurements=[bytes(48)])
    assert again.policy().measurements == {MEASUREMENT}


def test_policy_digest_is_that_of_the_file(kbs, directory):
    document = (directory / "policy.toml").read_bytes()
    assert kbs.policy().digest == policy_digest(document)
    (directory / "policy.toml").write_bytes(document + b"# edited\n")
    assert kbs.policy().digest == policy_digest(document + b"# edited\n") != policy_digest(document)


@pytest.mark.parametrize("as_given", [bytes, bytes.hex])
def test_allow_measurement(kbs, as_given):
    kbs.allow_measurement(as_given(bytes(48)))
    assert kbs.policy().measurements == {MEASUREMENT, bytes(48)}


def test_fresh_kbs_without_measurements_allows_nobody(tmp_path):
    assert Kbs.create_or_open(tmp_path / "empty").policy().measurements == frozenset()


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"measurements = []",
        b"simulated = true",
        b"measurements = []\nsimulated = 1",
        b"measurements = ['00']\nsimulated = true",
        b"measurements = [1]\nsimulated = true",
        b"measurements = []\nsimulated = true\nmeasurement = []",
        b"\xff",
        b"measurements = [",
    ],
)
def test_malformed_policy_is_refused(kbs, directory, document):
    (directory / "policy.toml").write_bytes(document)
    with pytest.raises(KbsError, match="release policy"):
        kbs.policy()


def test_missing_policy_is_refused_and_not_made_anew(kbs, directory):
    (directory / "policy.toml").unlink()
    with pytest.raises(KbsError, match="gone"):
        Kbs.create_or_open(directory, measurements=[MEASUREMENT]).policy()


def test_undeclared_resource_has_no_secret(kbs):
    assert kbs.secret(R) is None
    assert kbs.secret(R) is None


def test_generated_secret_is_made_once(kbs, directory):
    kbs.declare(R)
    first = kbs.secret(R)
    assert (first.origin, len(first.value)) == ("kbs-generated", 32)
    kbs.declare(R)
    assert Kbs.create_or_open(directory).secret(R) == first
    kbs.declare("default/vtpm/two")
    assert kbs.secret("default/vtpm/two").value != first.value


def test_provisioned_secret_is_the_given_one(kbs):
    kbs.declare(R, b"k" * 40)
    kbs.declare(R, b"k" * 40)
    assert (kbs.secret(R).origin, kbs.secret(R).value) == ("provisioned", b"k" * 40)


@pytest.mark.parametrize(("first", "second"), [(None, b"k" * 32), (b"k" * 32, None), (b"k" * 32, b"l" * 32)])
def test_a_declaration_never_replaces_another(kbs, first, second):
    kbs.declare(R, first)
    before = kbs.secret(R)
    with pytest.raises(KbsError, match="declared already"):
        kbs.declare(R, second)
    assert kbs.secret(R) == before


@pytest.mark.parametrize(
    "name", ["", "a/b", "a/b/c/d", "../x/y", "a/b/.c", "a/b/c\n", "a:b/c/d", "a/b/" + "c" * 128]
)
def test_malformed_names_are_refused(kbs, name):
    with pytest.raises(UsageError):
        kbs.declare(name)


@pytest.mark.parametrize("key", [b"", bytes(64 * 1024 + 1)])
def test_key_sizes(kbs, key):
    with pytest.raises(UsageError):
        kbs.declare(R, key)


def test_files_are_private(kbs, directory):
    kbs.declare(R)
    kbs.secret(R)
    for path in [directory, *directory.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.parametrize("name", ["master.key", "signing.key", "policy.toml"])
def test_open_permissions_are_refused(kbs, directory, name):
    (directory / name).chmod(0o640)
    with pytest.raises(KbsError, match="accessed"):
        Kbs.create_or_open(directory).policy()


def test_secrets_do_not_lie_open(kbs, directory):
    kbs.declare(R, provisioned := os.urandom(32))
    kbs.declare("default/vtpm/two")
    generated = kbs.secret("default/vtpm/two").value
    private = kbs._signing_key.private_numbers().private_value.to_bytes(48, "big")
    token = kbs.token_key().private_numbers().private_value.to_bytes(32, "big")
    for path, data in contents(directory).items():
        for secret in (provisioned, generated, private, token):
            for form in (secret, secret.hex().encode(), b64url(secret).encode(), b64std(secret).encode()):
                assert form not in data, path


def test_secrets_show_in_no_repr(kbs):
    kbs.declare(R, b"correct horse battery staple 1234")
    assert "horse" not in repr(kbs.secret(R))
    assert kbs._master._key.hex() not in repr(kbs._master)
    assert repr(kbs._master._key) not in repr(kbs._master)


def test_passphrase(directory, tmp_path, monkeypatch):
    kbs = Kbs.create_or_open(directory, passphrase=b"open sesame")
    kbs.declare(R)
    secret = kbs.secret(R)
    assert not (directory / "master.key").exists()
    assert Kbs.create_or_open(directory, passphrase=b"open sesame").secret(R) == secret
    with pytest.raises(KbsError, match="wrong passphrase"):
        Kbs.create_or_open(directory, passphrase=b"open barley")
    with pytest.raises(KbsError, match="with a passphrase"):
        Kbs.create_or_open(directory)
    file = tmp_path / "passphrase"
    file.write_bytes(b"open sesame\n")
    file.chmod(0o600)
    monkeypatch.setenv("VTPM_KBS_PASSPHRASE_FILE", str(file))
    assert Kbs.create_or_open(directory).secret(R) == secret
    file.chmod(0o644)
    with pytest.raises(UsageError):
        Kbs.create_or_open(directory)


def test_a_passphrase_does_not_pretend_to_protect(kbs, directory):
    with pytest.raises(KbsError, match="without a passphrase"):
        Kbs.create_or_open(directory, passphrase=b"x")


def test_same_token_key_after_reopening(kbs, directory):
    assert (directory / "token.key").exists()
    first = kbs.token_jwk()
    assert first.crv == "P-256"
    assert Kbs.create_or_open(directory).token_jwk() == kbs.token_jwk() == first


def test_token_key_under_a_passphrase(directory):
    first = Kbs.create_or_open(directory, passphrase=b"open sesame").token_jwk()
    assert Kbs.create_or_open(directory, passphrase=b"open sesame").token_jwk() == first


def test_directory_of_an_earlier_release_gets_its_token_key(kbs, directory):
    (directory / "token.key").unlink()
    before = contents(directory)
    again = Kbs.create_or_open(directory)
    assert contents(directory) == before
    start, found = threading.Barrier(8), []

    def use():
        mine = Kbs.create_or_open(directory)
        start.wait()
        found.append(mine.token_jwk())

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [again.token_jwk()] * 8
    assert stat.S_IMODE((directory / "token.key").stat().st_mode) == 0o600
    assert set(contents(directory)) == {*before, directory / "token.key"}
    assert again.public_jwk() == kbs.public_jwk()


def test_a_token_key_that_others_may_read_is_not_used(kbs, directory):
    (directory / "token.key").chmod(0o640)
    with pytest.raises(KbsError, match="accessed"):
        kbs.token_key()


def test_a_damaged_or_exchanged_token_key_is_refused(kbs, directory):
    signing = (directory / "signing.key").read_bytes()
    for data in (b"", b"{}", signing, signing.replace(b"signing.key", b"token.key")):
        (directory / "token.key").write_bytes(data)
        with pytest.raises(KbsError):
            kbs.token_key()
        assert (directory / "token.key").read_bytes() == data


def test_death_before_the_token_key_is_first_used(kbs, directory):
    for _ in every_death(lambda _: kbs.token_key()):
        path = directory / "token.key"
        before = path.read_bytes() if path.exists() else None
        assert Kbs.create_or_open(directory).token_jwk() == kbs.token_jwk()
        assert before in (None, path.read_bytes())
        assert not list(directory.rglob(".new-*"))
        path.unlink()


def test_a_lost_signing_key_is_not_replaced(kbs, directory):
    kbs.declare(R)
    (directory / "signing.key").unlink()
    with pytest.raises(KbsError, match="another KBS"):
        Kbs.create_or_open(directory)


def test_a_lost_master_key_is_not_replaced(kbs, directory):
    (directory / "master.key").unlink()
    with pytest.raises(KbsError, match="gone"):
        Kbs.create_or_open(directory)


def test_foreign_directory_is_left_alone(directory):
    directory.mkdir(mode=0o700)
    (directory / "photo.jpg").write_bytes(b"")
    with pytest.raises(UsageError, match="no KBS"):
        Kbs.create_or_open(directory)
    assert [p.name for p in directory.iterdir()] == ["photo.jpg"]


@pytest.mark.parametrize("kind", ["declared", "secret"])
def test_damaged_and_swapped_files_are_refused(kbs, directory, kind):
    for resource in (R, "default/vtpm/two"):
        kbs.declare(resource)
        kbs.secret(resource)
    one, two = (directory / "resources" / f"default:vtpm:{tag}.{kind}" for tag in ("one", "two"))
    whole = one.read_bytes()
    one.write_bytes(two.read_bytes())
    with pytest.raises(KbsError):
        kbs.secret(R)
    one.write_bytes(whole[:-10] + b"AAAA" + whole[-6:])
    with pytest.raises(KbsError):
        kbs.secret(R)
    one.write_bytes(b"")
    with pytest.raises(KbsError):
        kbs.secret(R)


def test_first_release_by_many_threads_makes_one_secret(kbs, directory):
    kbs.declare(R)
    start, found = threading.Barrier(16), []

    def release():
        mine = Kbs.create_or_open(directory)
        start.wait()
        found.append(mine.secret(R).value)

    threads = [threading.Thread(target=release) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16
    assert len(set(found)) == 1


def test_first_use_by_many_processes_makes_one_kbs_and_one_secret(directory):
    program = (
        "import sys; from pathlib import Path; from vtpm.kbs.directory import Kbs\n"
        f"sys.stdout.write('ready\\n'); sys.stdout.flush(); sys.stdin.readline()\n"
        f"kbs = Kbs.create_or_open(Path(sys.argv[1])); kbs.declare({R!r})\n"
        f"print(kbs.public_jwk().thumbprint(), kbs.secret({R!r}).value.hex())"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", program, directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    told = {child.communicate(timeout=60)[0] for child in children}
    assert [child.returncode for child in children] == [0] * 4
    assert len(told) == 1


def killed_after(steps, action):
    """Run `action` in a child that is killed before its file step number `steps`; whether it came to its end."""
    pid = os.fork()
    if pid == 0:
        left = steps

        class Killing:
            def __getattr__(self, name):
                nonlocal left
                if name in STEPS:
                    if left == 0:
                        os.kill(os.getpid(), 9)
                    left -= 1
                return getattr(os, name)

        files.os = Killing()
        try:
            action()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def every_death(action):
    """Kill `action(steps)` before its first step, its second one, and so on until it survives."""
    for steps in range(100):
        survived = killed_after(steps, lambda: action(steps))  # noqa: B023 - called at once
        yield steps
        if survived:
            assert steps > 3
            return
    raise AssertionError("it never ends")


def test_death_during_creation(tmp_path):
    for steps in every_death(lambda steps: Kbs.create_or_open(tmp_path / str(steps))):
        directory = tmp_path / str(steps)
        first = Kbs.create_or_open(directory, measurements=[MEASUREMENT])
        first.declare(R)
        assert Kbs.create_or_open(directory).public_jwk() == first.public_jwk()
        assert Kbs.create_or_open(directory).token_jwk() == first.token_jwk()
        assert not list(directory.rglob(".new-*"))


def test_death_during_first_release(kbs, directory):
    for steps in range(40):
        kbs.declare(f"default/vtpm/r{steps}")
    for steps in every_death(lambda steps: kbs.secret(f"default/vtpm/r{steps}")):
        path = directory / "resources" / f"default:vtpm:r{steps}.secret"
        before = path.read_bytes() if path.exists() else None
        secret = kbs.secret(f"default/vtpm/r{steps}")
        assert len(secret.value) == 32
        assert secret == Kbs.create_or_open(directory).secret(secret.resource)
        assert before in (None, path.read_bytes())
    assert path.exists()


def test_death_during_declaration(kbs, directory):
    for steps in every_death(lambda steps: kbs.declare(f"default/vtpm/r{steps}", b"k" * 32)):
        resource = f"default/vtpm/r{steps}"
        before = kbs.secret(resource)
        assert before is None or before.value == b"k" * 32
        kbs.declare(resource, b"k" * 32)
        assert kbs.secret(resource).origin == "provisioned"
        assert not list(directory.rglob(".new-*"))
    assert before is not None


def test_death_while_the_policy_is_rewritten(kbs):
    for steps in every_death(lambda steps: kbs.allow_measurement(steps.to_bytes(48, "big"))):
        allowed = kbs.policy().measurements
        assert MEASUREMENT in allowed
        kbs.allow_measurement(steps.to_bytes(48, "big"))
        assert kbs.policy().measurements == allowed | {steps.to_bytes(48, "big")}
