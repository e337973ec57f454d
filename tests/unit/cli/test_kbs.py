"""`vtpm-ca kbs`: each change is a new version of the policy, and a compromise ends what rests on the key."""

import json
import re
import shlex

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from operations_document import BLOCKS

from ca_service.cli import policy_edit as command
from ca_service.enrollment import revoke_by_cause
from ca_service.judgment import Unavailable
from ca_service.policy import load
from vtpm.wire.jwk import EcJwk

KEYS = [ec.derive_private_key(3001 + n, ec.SECP384R1()).public_key() for n in range(3)]
JWKS = [EcJwk.from_key(key) for key in KEYS]
SINCE = "2026-01-01T00:00:00Z"
NEW = ("--resource", "second/vtpm/*", "--origin", "kbs-generated", "--release-policy", "ab" * 32)


@pytest.fixture
def operator(here, ca, tmp_path):
    """Commands on a CA with one enrolled TPM, whose policy (version 2) has comments and states every constraint."""

    def run(*words):
        return here(*words, "--dir", ca)

    text = run("policy", "show").out
    if not re.search(r"release_policies|\"release-policy\"", text):
        text = text.replace("origins =", f'release_policies = ["{"ab" * 32}"]\norigins =', 1)
    file = tmp_path / "policy.toml"
    text = text.replace('label = "', 'label = "ours, ', 1)  # comments alone make no new version
    file.write_text(f"# ours\n{text}".replace("[[kbs.key]]", "[[kbs.key]] # of 2026"))
    assert run("policy", "apply", file).code == 0
    (tmp_path / "second.jwk").write_text(json.dumps(JWKS[0].members()))
    (tmp_path / "third.pem").write_bytes(
        KEYS[1].public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return run


def told(done):
    assert (done.code, done.err) == (0, "")
    return json.loads(done.out)


def rows(operator) -> dict[str, dict]:
    return {row["id"]: row for row in told(operator("kbs", "list", "--json"))}


def states(operator) -> list[str]:
    return sorted(row["state"] for row in told(operator("cert", "list", "--all", "--json")))


def policy(operator):
    shown = told(operator("policy", "show", "--json"))
    return shown["version"], shown["text"]


def test_the_list_says_what_rests_on_each(operator):
    row = rows(operator)["org-kbs"]
    assert (row["status"], row["tpms"], row["certificates"]) == ("trusted", 1, 3)
    assert row["resources"] == [{"pattern": "default/vtpm/*", "shared": False}]
    assert told(operator("kbs", "show", "org-kbs", "--json")) == row
    shown = operator("kbs", "show", "org-kbs").out
    assert re.search(rf"^keys +{row['keys'][0]}$", shown, re.MULTILINE)
    assert re.search(r"^live TPMs +1$", shown, re.MULTILINE)
    assert re.search(
        r"^org-kbs +trusted .* default/vtpm/\* +always +1 +3$", operator("kbs", "list").out, re.MULTILINE
    )
    missing = operator("kbs", "show", "nobody")
    assert (missing.code, missing.out, "org-kbs" in missing.err) == (1, "", True)


def test_one_that_the_policy_no_longer_lists_is_seen_while_something_rests_on_it(operator, tmp_path):
    text = policy(operator)[1].replace('id = "org-kbs"', 'id = "renamed"')
    (tmp_path / "policy.toml").write_text(text)
    assert operator("policy", "apply", tmp_path / "policy.toml").code == 0
    found = rows(operator)
    assert list(found) == ["renamed", "org-kbs"]
    assert (found["renamed"]["tpms"], found["renamed"]["certificates"]) == (0, 0)
    assert (found["org-kbs"]["status"], found["org-kbs"]["tpms"]) == ("not-listed", 1)
    assert told(operator("revoke", "--kbs", "org-kbs", "--all", "--json"))["counts"]["tpms"] == 1
    assert operator("instance", "reset", "org-kbs", "default/vtpm/guest-a", "--yes").code == 0
    assert list(rows(operator)) == ["renamed"]


def test_allow_suspend_trust(operator, tmp_path):
    before = policy(operator)
    words = ("kbs", "allow", "second-kbs", "--key", tmp_path / "second.jwk", *NEW, "--label", "Second")
    dry = operator(*words, "--dry-run")
    assert (dry.code, "a version after 2 would" in dry.out, "second-kbs: is new" in dry.out) == (
        0,
        True,
        True,
    )
    assert policy(operator) == before

    made = told(operator(*words, "--json", "--base", "2"))
    assert (made["id"], made["done"], made["policy"]["version"], made["policy"]["effect"]) == (
        "second-kbs",
        True,
        3,
        "widens",
    )
    assert rows(operator)["second-kbs"]["keys"] == [JWKS[0].thumbprint()]
    version, text = policy(operator)
    assert all(comment in text for comment in ("# ours", "# of 2026"))

    grown = operator("kbs", "allow", "second-kbs", "--key", tmp_path / "third.pem")
    assert "policy version 4 is in force" in grown.out
    assert rows(operator)["second-kbs"]["keys"] == [key.thumbprint() for key in JWKS[:2]]
    assert "nothing changed" in operator("kbs", "allow", "second-kbs", "--key", tmp_path / "third.pem").out

    text = policy(operator)[1]
    stopped = operator("kbs", "suspend", "second-kbs")
    assert "  narrows  kbs second-kbs: changes its status: trusted -> suspended" in stopped.out
    assert "says so already" in operator("kbs", "suspend", "second-kbs").out
    assert load(policy(operator)[1]).kbs[JWKS[0].thumbprint()].status == "suspended"
    assert "  widens " in operator("kbs", "trust", "second-kbs").out
    version, again = policy(operator)
    assert (version, again) == (6, text)
    assert [row["version"] for row in told(operator("policy", "log", "--json"))] == [1, 2, 3, 4, 5, 6]


WRONG = [
    (("suspend", "nobody"), 1, "It lists org-kbs."),
    (("suspend", "org-kbs", "--base", "1"), 1, "policy version 2 is in force, not 1"),
    (("suspend",), 2, "ID"),
    (("allow", "second-kbs"), 2, "--key"),
    (("allow", "second-kbs", "--key", "{}/none.pem", *NEW), 2, "none.pem"),
    (("allow", "second-kbs", "--key", "{}/policy.toml", *NEW), 2, "policy.toml: is "),
    (("allow", "second-kbs", "--key", "{}/second.jwk"), 1, "lists no key broker second-kbs"),
    (("allow", "second-kbs", "--key", "{}/second.jwk", *NEW[:4]), 2, "--any-release-policy"),
    (("allow", "second-kbs", "--key", "{}/second.jwk", *NEW[2:]), 2, "--resource"),
    (("allow", "org-kbs", "--key", "{}/second.jwk", *NEW), 1, "is in the policy already"),
    (("allow", "Second", "--key", "{}/second.jwk", *NEW), 1, "kbs[1].id: "),
    (("allow", "second-kbs", "--key", "{}/second.jwk", *NEW, "--shared", "*/vtpm/x"), 1, "overlaps"),
    (("compromise", "org-kbs"), 2, "--since"),
    (("compromise", "org-kbs", "--since", "2199-01-01"), 2, "compromised_since: is in the future"),
    (("compromise", "org-kbs", "--since", SINCE, "--cause", "x" * 161), 2, "160"),
    (("compromise", "nobody", "--since", SINCE, "--yes"), 1, "It lists org-kbs."),
]


def test_what_cannot_be_meant_changes_nothing(operator, tmp_path):
    before = policy(operator)
    for words, code, said in WRONG:
        done = operator("kbs", *(word.format(tmp_path) for word in words))
        assert (done.code, done.out, said in done.err) == (code, "", True), (words, done)
    assert policy(operator) == before
    assert states(operator) == ["issued"] * 3


def test_a_compromise_is_written_first_and_then_ends_what_rests_on_the_key(operator, tmp_path):
    words = ("kbs", "compromise", "org-kbs", "--since", SINCE)
    before = policy(operator)
    dry = operator(*words)
    assert (dry.code, dry.err) == (0, "")
    assert "  narrows  kbs org-kbs: changes its status: trusted -> compromised" in dry.out
    assert "Dry run: --yes would revoke 3 certificates of 1 TPM." in dry.out
    assert (policy(operator), states(operator)) == (before, ["issued"] * 3)

    done = told(operator(*words, "--yes", "--json", "--cause", "laptop lost"))
    assert (done["id"], done["done"], done["policy"]["version"], done["policy"]["effect"]) == (
        "org-kbs",
        True,
        3,
        "narrows",
    )
    assert done["revocation"]["counts"]["certificates"] == 3
    assert states(operator) == ["revoked"] * 3
    serial = done["revocation"]["certificates"][0]["serial"]
    assert told(operator("cert", "show", serial, "--json"))["reason"] == "keyCompromise"
    assert "compromised_since = 2026-01-01T00:00:00Z" in policy(operator)[1]
    assert "# of 2026" in policy(operator)[1]
    row = rows(operator)["org-kbs"]
    assert (row["status"], row["compromised_since"], row["certificates"]) == ("compromised", SINCE, 0)
    assert f"compromised since {SINCE}" in operator("kbs", "show", "org-kbs").out

    again = operator(*words, "--yes")
    assert (again.code, "says so already" in again.out, "nothing to revoke" in again.out) == (0, True, True)
    assert policy(operator)[0] == 3
    for word in ("suspend", "trust"):
        refused = operator("kbs", word, "org-kbs")
        assert (refused.code, "new ones in their place" in refused.err) == (1, True)
    back = operator("kbs", "trust", "org-kbs", "--key", tmp_path / "third.pem")
    assert "  widens   kbs org-kbs: changes its status: compromised -> trusted" in back.out
    assert rows(operator)["org-kbs"]["keys"] == [JWKS[1].thumbprint()]
    # What rested on the old key is still found, by the id and by the key.
    assert told(operator("revoke", "--kbs", "org-kbs", "--all", "--json"))["counts"]["decisions"] == 1


def test_a_revocation_that_fails_says_what_is_left_and_goes_on(operator, monkeypatch):
    def no_disk(*_arguments):
        raise Unavailable("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("ca_service.operations.revocation.revoke_by_cause", no_disk)
        failed = operator("kbs", "compromise", "org-kbs", "--since", SINCE, "--all", "--yes")
    assert (failed.code, failed.out) == (3, "")
    assert "the disk is full" in failed.err
    assert load(policy(operator)[1]).kbs.popitem()[1].status == "compromised"
    assert states(operator) == ["issued"] * 3
    (line,) = [line for line in failed.err.splitlines() if "what is left: " in line]
    program, *words = shlex.split(line.split("what is left: ")[1])
    assert program == "vtpm-ca"
    assert revoke_by_cause is not no_disk
    assert operator(*words).code == 0
    assert states(operator) == ["revoked"] * 3
    assert policy(operator)[0] == 3


def test_one_that_waits_for_approval_revokes_nothing(operator, monkeypatch):
    real = command.run

    def second_operator_needed(directory, name, **arguments):
        if name == "policy-apply":
            return {
                "version": 3,
                "changed": True,
                "state": "waiting",
                "effect": "widens",
                "changes": [],
                "notes": ["approve it"],
            }
        return real(directory, name, **arguments)

    monkeypatch.setattr(command, "run", second_operator_needed)
    waiting = operator("kbs", "suspend", "org-kbs")
    assert "policy version 3 waits for the approval of another operator\n- approve it" in waiting.out
    refused = operator("kbs", "compromise", "org-kbs", "--since", SINCE, "--yes")
    assert (refused.code, "nothing was revoked" in refused.err) == (1, True)
    assert states(operator) == ["issued"] * 3


def test_all_that_may_be_said_of_a_key_broker(operator, tmp_path):
    words = ("kbs", "allow", "second-kbs", "--key", tmp_path / "second.jwk", *NEW[:4])
    more = ("--any-release-policy", "--tenant", "mallory", "--valid-from", "2026-01-01", "--pair", "second")
    done = operator(*words, *more)
    assert (done.code, done.err) == (0, "")
    row = rows(operator)["second-kbs"]
    assert (row["tenant"], row["pair"], row["release_policies"]) == ("mallory", "second", None)
    assert row["valid_from"] == "2026-01-01T00:00:00Z"


def test_the_commands_of_the_operators_page(operator, tmp_path):
    """The whole page runs on a machine of its own, and that takes long; this block runs here, too."""
    block = BLOCKS["leaked"]
    assert operator("kbs", "allow", "second-kbs", "--key", tmp_path / "second.jwk", *NEW).code == 0
    shown = ""
    for line in block.commands.splitlines():
        program, *words = shlex.split(line.split(" > ")[0])
        done = operator(*words)
        assert (program, done.code, done.err) == ("vtpm-ca", 0, "")
        shown += done.out
    assert block.missing_in(shown) == "", shown
