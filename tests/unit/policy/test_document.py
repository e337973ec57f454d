"""Reading a document: what is refused, where the error points, and what the digest covers."""

import hashlib
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from document_edits import drop, edited, put
from hypothesis import given, settings
from hypothesis import strategies as st

from ca_service.evidence.ear import EAR_CHECKS
from ca_service.judgment import BadRequest, NotFound
from ca_service.policy import (
    UNSAFE_RULES,
    USUAL_ENROLMENTS,
    USUAL_REFUSALS,
    USUAL_WINDOW_S,
    EarDemand,
    EphemeralTerms,
    LimitTerms,
    checks,
    example_document,
    launch_checks,
    load,
    load_complete,
)
from ca_service.policy.document.bits import GUEST_POLICY
from ca_service.policy.document.kbs import KbsConstraint, KbsTable
from ca_service.policy.document.launch import (
    LaunchConstraint,
    LaunchTable,
    PlatformConstraint,
    PlatformTable,
    ProductName,
)
from ca_service.policy.document.syntax import MAX_DOCUMENT
from ca_service.policy.document.tables import CertificatesTable, LimitsTable, UnsafeName, ValidityTable
from ca_service.policy.reading.brokers import KBS_MEMBERS
from ca_service.policy.reading.launches import FLOOR_MEMBERS, LAUNCH_MEMBERS, PLATFORM_MEMBERS
from vtpm.wire.jwk import EcJwk
from vtpm.wire.report import Product
from vtpm.wire.templates import Role

POLICIES = Path(__file__).parents[3] / "policies"


def refused(text):
    with pytest.raises(BadRequest) as caught:
        load(text)
    assert caught.value.code == "policy-invalid"
    return caught.value


def assert_loads_or_refuses(text):
    detail = "loaded"
    try:
        load(text)
    except BadRequest as error:
        detail = error.detail
    assert detail.isascii()
    assert detail.isprintable()


# -- examples -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["simulation.toml", "production.toml"])
@pytest.mark.parametrize("mode", ["simulation", "production"])
def test_the_examples_load_and_refuse_everything(facts, refusals, name, mode):
    policy = load(example_document(name))
    assert policy.kbs == {}
    assert policy.launches.entries() == []
    assert policy.unstated == ()
    found = refusals(policy, facts, mode)
    assert {"launch.measurement", "kbs.listed", "kbs.resource"} <= set(found)


def test_entries_appended_to_the_example_take_effect(content, facts, refusals, keys, toml):
    first = content["launch"][0]
    launched_members = {name: first[name] for name in LAUNCH_MEMBERS.values() if name in first}
    del launched_members["measurement"]
    demands = {**launched_members, "unconstrained": ["author-key"], "products": ["Milan"], "platform": "rack"}
    platform = content["platform"][0] | {"name": "rack"}
    appended = f"""
[[kbs]]
id = "demo-kbs"
status = "trusted"
origins = ["kbs-generated"]
[[kbs.key]]
jwk = {{ kty = "EC", crv = "P-384", x = "{keys[0].members()["x"]}", y = "{keys[0].members()["y"]}" }}
[[kbs.resource]]
pattern = "default/*/*"

[[launch]]
name = "standard"
measurement = "{"11" * 48}"
capabilities = ["verifies-grants", "reports-state"]
{toml(demands)}
[[platform]]
{toml(platform)}
"""
    assert refusals(example_document("simulation.toml") + appended, facts) == []


_ENTRY = re.compile(r"# (\[|[a-z_]+ = )")


def uncommented(text):
    """An example with its commented entries in force; what explains them stays a comment."""
    return "\n".join(
        line.removeprefix("# ") if _ENTRY.match(line) else line
        for line in text.splitlines()
        if not line.startswith("# # ")
    )


def test_the_commented_entries_of_the_production_example_are_valid(keys):
    other = keys[2].members()
    members = keys[0].members()
    filled = (
        uncommented(example_document("production.toml"))
        .replace('x = "<base64url>"', f'x = "{members["x"]}"')
        .replace('y = "<base64url>"', f'y = "{members["y"]}"')
        .replace("<base64url 256>", other["x"], 1)
        .replace("<base64url 256>", other["y"], 1)
        .replace("<96 hex digits of the ID key>", "5a" * 48)
        .replace("<96 hex digits of the author key>", "a5" * 48)
        .replace("<128 hex digits>", "c1" * 64)
        .replace("<96 hex digits>", "11" * 48)
        .replace("<64 hex digits>", "ab" * 32)
        .replace("<32 hex digits>", "fa" * 16)
        .replace("<16 hex digits>", "c1" * 8)
    )
    policy = load_complete(filled)
    assert [kbs.id for kbs in policy.kbs.values()] == ["org-kbs"]
    assert policy.kbs[keys[0].thumbprint()].ear == EarDemand((keys[2],), 600)
    assert [launch.name for launch in policy.launches.entries()] == ["svsm-2026-11", "svsm-signed"]
    assert policy.kbs[keys[0].thumbprint()].grant_max_age == 600
    assert policy.certificate_days == {Role.IAK: 365, Role.IDEVID: 365}
    assert policy.limits == LimitTerms(USUAL_ENROLMENTS, USUAL_WINDOW_S, USUAL_REFUSALS)
    assert policy.ephemeral == EphemeralTerms(7, frozenset({"amd-svsm-services"}), volatile_stores=False)
    (platform,) = policy.platforms.values()
    assert platform.name == "fleet"
    assert {product: len(floors) for product, floors in platform.floors.items()} == {
        "Milan": 2,
        "Genoa": 1,
        "Turin": 1,
    }
    shown = example_document("production.toml").replace("#", "")
    tables = (LaunchTable, PlatformTable, KbsTable, LimitsTable, CertificatesTable, ValidityTable)
    members = [name for table in tables for name in table.model_fields]
    for member in (*members, "from", "firmware"):
        assert (
            f"{member} = " in shown
            or f"[platform.{member}]" in shown
            or f"[kbs.{member}]" in shown
            or f"[[kbs.{member}]]" in shown
            or f"[certificates.{member}]" in shown
            or (f"[[platform.{member}]]" in shown)
        ), member


def test_the_readme_names_every_constraint_with_its_member():
    readme = (POLICIES / "README.md").read_text()
    for room, members in (
        ("launch", LAUNCH_MEMBERS),
        ("platform", PLATFORM_MEMBERS | FLOOR_MEMBERS),
        ("kbs", KBS_MEMBERS),
    ):
        for constraint, member in members.items():
            row = next(
                line for line in readme.splitlines() if f"`{room}.{constraint}`" in line and "| `" in line
            )
            assert f"`{member.partition('.')[0]}" in row, constraint


def test_the_readme_lists_every_permissive_entry_with_its_rules():
    readme = (POLICIES / "README.md").read_text()
    for name, rules in UNSAFE_RULES.items():
        assert f"| `{name}` | {', '.join(f'`{rule}`' for rule in rules)} |" in readme


def test_the_names_agree_with_the_other_rooms(content, toml):
    assert set(get_args(ProductName)) == {product.value for product in Product}
    assert set(get_args(UnsafeName)) == set(UNSAFE_RULES)
    policy = load(toml(content))
    rules = (*launch_checks(policy, "simulation"), *checks(policy, "simulation"))
    known = {check.id for check in rules}
    ear = {*(check.id for check in EAR_CHECKS), "ear.profile"}
    assert {f"launch.{name}" for name in get_args(LaunchConstraint)} <= known
    assert {f"platform.{name}" for name in get_args(PlatformConstraint)} <= known
    assert {f"kbs.{name}" for name in get_args(KbsConstraint)} <= known
    assert set(get_args(KbsConstraint)) == set(KBS_MEMBERS)
    assert set(get_args(LaunchConstraint)) == set(LAUNCH_MEMBERS)
    assert set(get_args(PlatformConstraint)) == {*PLATFORM_MEMBERS, *FLOOR_MEMBERS}
    assert {rule for rules in UNSAFE_RULES.values() for rule in rules} <= known | ear
    assert ear < set(UNSAFE_RULES["UnsafeAllowAnyKbs"])


@pytest.mark.parametrize("name", ["", "no-such.toml", "../pyproject.toml", "README.md", "/etc/passwd"])
def test_an_example_must_exist(name):
    with pytest.raises(NotFound):
        example_document(name)


# -- syntax ---------------------------------------------------------------------------------------------------


def test_syntax_errors_have_line_and_column():
    error = refused("schema = 1\n[grant]\nmax_age_s = = 3\n")
    assert "line 3" in error.detail
    assert "column 13" in error.detail


@pytest.mark.parametrize(
    "text",
    [
        "[kbs",
        "schema = 1\nschema = 1",
        "x = " + "[" * 100_000,
        "x = " + "9" * 5000,
        "x = 2026-13-45",
        "\x00",
        "schema = 1\n" + "#" * MAX_DOCUMENT,
    ],
)
def test_what_is_no_toml_is_refused(text):
    refused(text)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200) | st.text(alphabet='[]{}="\n.#kbs schema=1', max_size=100))
def test_no_text_raises_anything_else(text):
    for document in (text, "schema = 1\n" + text, f"schema = 1\n[[kbs]]\n{text}"):
        assert_loads_or_refuses(document)


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(["trusted", "H-3", "*/*/*", "1.55.29", "Turin", "api", "smt", 1 << 53]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_value_of_any_kind_anywhere_raises_nothing_else(data):
    members = EcJwk.from_key(ec.derive_private_key(7, ec.SECP256R1()).public_key()).members()
    levels = {"bootloader": 1, "tee": 0, "snp": 1, "microcode": 1}
    content = {
        "schema": 1,
        "tpm": {"ek": ["L-1"], "iak": ["H-3"], "idevid": ["H-3"]},
        "launch": [
            {
                "name": "l",
                "id_keys": ["5a" * 48],
                "min_abi": "1.51",
                "guest_policy": {
                    "require": [],
                    "forbid": ["smt"],
                    "either": sorted({*GUEST_POLICY} - {"smt"}),
                },
                "capabilities": [],
                "products": ["Milan"],
                "platform": "p",
                "unconstrained": ["measurement"],
            }
        ],
        "platform": [
            {
                "name": "p",
                "report_versions": [3],
                "mitigations": {"launch": 1},
                "chips": {"deny": ["01" * 8]},
                "tcb": [{"product": "Milan", "firmware": "1.55", "reported": levels}],
                "unconstrained": ["crl-age"],
            }
        ],
        "kbs": [
            {
                "id": "k",
                "status": "trusted",
                "origins": ["kbs-generated"],
                "key": [{"jwk": members}],
                "resource": [{"pattern": "a/b/*"}],
            }
        ],
    }
    place = content
    while True:
        step = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        inner = place[step]
        if not isinstance(inner, dict | list) or not inner or data.draw(st.booleans()):
            break
        place = inner
    place[step] = data.draw(_JSON)
    assert_loads_or_refuses(_inline(content))


def _inline(value):
    if isinstance(value, dict) and "schema" in value:
        return "".join(f"{json.dumps(name)} = {_inline(member)}\n" for name, member in value.items())
    if isinstance(value, dict):
        return (
            "{" + ", ".join(f"{json.dumps(name)} = {_inline(member)}" for name, member in value.items()) + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(_inline(element) for element in value) + "]"
    return json.dumps("null" if value is None else value)


# -- meaning --------------------------------------------------------------------------------------------------


def test_they_name_the_entry_too(content, toml):
    error = refused(toml(edited(content, put("kbs", 1, "resource", 0, "pattern", value="x"))))
    assert error.detail.endswith('(entry "second-kbs")')
    error = refused(toml(edited(content, put("launch", 1, "products", value=["Rome"]))))
    assert error.detail.endswith('(entry "oracle")')


def test_a_bit_that_is_none_is_told_which_there_are(content, toml):
    for place, names in (
        (("launch", 0, "guest_policy", "require", 0), "smt, single-socket, cxl, aes-256-xts, "),
        (("platform", 0, "platform_info", "require", 0), "smt, tsme, ecc, rapl-disabled, "),
    ):
        error = refused(toml(edited(content, put(*place, value="migration"))))
        assert f"must be one of {names}" in error.detail


def test_a_key_may_stand_under_one_kbs_only_in_whatever_form(content, toml, keys):
    pem = keys[0].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    error = refused(toml(edited(content, put("kbs", 1, "key", 0, value={"pem": pem}))))
    assert error.path == "kbs[1].key[0]"
    assert '"org-kbs"' in error.detail


def test_pem_keys_are_as_good_as_jwks(content, toml, keys):
    pem = keys[1].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    policy = load(toml(edited(content, put("kbs", 1, "key", 0, value={"pem": pem}))))
    assert policy.kbs[keys[1].thumbprint()].id == "second-kbs"


@pytest.mark.parametrize(
    "key",
    [
        ec.derive_private_key(5, ec.SECP521R1()),
        ec.derive_private_key(5, ec.SECP256K1()),
        ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)),
        rsa.generate_private_key(65537, 2048),
    ],
)
def test_pem_of_other_keys_is_refused(content, toml, key):
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    assert (
        refused(toml(edited(content, put("kbs", 1, "key", 0, value={"pem": pem})))).path
        == "kbs[1].key[0].pem"
    )


def test_errors_echo_nothing_unprintable(content, toml):
    error = refused(toml(content) + '"\\u001b[31m\\u00e9" = 1\n')
    assert error.detail.isascii()
    assert error.detail.isprintable()


# -- open questions -------------------------------------------------------------------------------------------


def test_a_document_of_an_earlier_release_loads_and_denies(content, facts, refusals, toml):
    old = [
        {name: entry[name] for name in ("name", "measurement", "capabilities", "products")}
        for entry in content["launch"][:2]
    ]
    before = content | {"launch": old}
    del before["platform"]
    policy = load(toml(before))
    assert len(policy.unstated) == 2 * 9
    found = refusals(policy, facts)
    assert {"launch.host-data", "platform.stated", "platform.reported-tcb"} <= set(found)
    assert "launch.measurement" not in found


def test_what_is_put_in_force_leaves_no_question_open(content, toml):
    assert load_complete(toml(content)) == load(toml(content))
    del content["launch"][0]["host_data"]
    with pytest.raises(BadRequest) as caught:
        load_complete(toml(content))
    assert caught.value.code == "policy-unstated"
    assert caught.value.path == "launch[0].host_data"
    assert caught.value.detail == (
        'launch[0].host_data: must be stated, or "host-data" named in unconstrained (entry "standard")'
    )
    assert len(caught.value.remedy.splitlines()) == 1
    del content["platform"][0]["crl_max_age_days"]
    with pytest.raises(BadRequest, match=r"and 1 more open question$"):
        load_complete(toml(content))
    content["platform"][0]["tcb"][1]["firmware"] = "1.55"
    del content["launch"][1]["platform"], content["platform"][0]["tcb"][0]["firmware"]
    with pytest.raises(BadRequest, match=r"and 5 more open questions$") as caught:
        load_complete(toml(content))
    *more, where = caught.value.remedy.splitlines()
    assert more == [
        'launch[1].platform: must name a platform (entry "oracle")',
        'platform[0].crl_max_age_days: must be stated, or "crl-age" named in unconstrained (entry "fleet")',
        'platform[0].tcb[0].firmware: must be stated, or "api" named in unconstrained (entry "fleet")',
        'platform[0].tcb[0].firmware: must be stated, or "build" named in unconstrained (entry "fleet")',
        (
            'platform[0].tcb[1].firmware: must name the build too, such as "1.55.29", or '
            '"build" named in unconstrained (entry "fleet")'
        ),
    ]
    assert "policies/README.md" in where
    del content["launch"][0]
    with pytest.raises(BadRequest, match="must name a platform") as caught:
        load_complete(toml(content))
    assert caught.value.path == "launch[0].platform"


@pytest.mark.parametrize(("launches", "left"), [(4, ""), (5, ""), (6, "and 4 more")])
def test_twenty_open_questions_are_named_and_the_rest_counted(toml, launches, left):
    # Each entry leaves four open.
    bare = {
        "capabilities": [],
        "products": ["Milan"],
        "unconstrained": ["family-id", "image-id", "guest-svn", "abi", "guest-policy"],
    }
    entries = [bare | {"name": f"l{i}", "measurement": f"{i:096x}"} for i in range(launches)]
    text = toml({"schema": 1, "launch": entries})
    with pytest.raises(BadRequest) as caught:
        load_complete(text)
    lines = [caught.value.detail, *caught.value.remedy.splitlines()[:-1]]
    named = [line.partition(": must ")[0] for line in lines if ": must " in line]
    assert named == [open_.path for open_ in load(text).unstated][:20]
    assert lines[len(named) :] == ([left] if left else [])


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("UnsafeAllowAnyMeasurement", set()),
        ("UnsafeAllowAnyPlatform", {"launch.abi"}),
        ("UnsafeAllowMissingCapabilities", {"launch.abi", "platform.chip", "platform.stated"}),
    ],
)
def test_a_permissive_entry_answers_the_questions_of_the_rules_it_gives_up(content, toml, name, left):
    del content["platform"][0]["chips"], content["launch"][1]["platform"], content["launch"][0]["min_abi"]
    content["unsafe"] = [{"name": name, "gives_up": "all of that"}]
    assert {question.rule for question in load(toml(content)).unstated} == left


@pytest.mark.parametrize("ear", [None, 1, 604800])
def test_an_attestation_token_is_asked_for_where_the_entry_says_so(content, toml, keys, ear):
    if ear is not None:
        pem = keys[2].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        content["kbs"][1]["ear"] = {"max_age_s": ear, "key": [{"pem": pem}]}
    policy = load(toml(content))
    assert policy.kbs[keys[1].thumbprint()].ear == (None if ear is None else EarDemand((keys[2],), ear))
    assert policy.kbs[keys[0].thumbprint()].ear is None


def test_an_attestation_tokens_key_is_on_p256_and_stands_once(content, toml, keys):
    p256, p384 = {"jwk": keys[2].members()}, {"jwk": keys[0].members()}
    content["kbs"][0]["ear"] = {"max_age_s": 60, "key": [p256, p384]}
    assert refused(toml(content)).path == "kbs[0].ear.key[1].jwk.crv"
    pem = keys[0].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    content["kbs"][0]["ear"]["key"] = [{"pem": pem}]
    assert refused(toml(content)).path == "kbs[0].ear.key[0].pem"
    content["kbs"][0]["ear"]["key"] = [p256, p256]
    assert refused(toml(content)).path == "kbs[0].ear.key[1]"


# -- digest ---------------------------------------------------------------------------------------------------


def test_the_digest_covers_content_but_neither_comments_nor_layout(content, toml):
    text = toml(content)
    policy = load(text)
    assert policy.text == text
    assert len(policy.digest) == 64
    backwards = "# reviewed\n" + toml(dict(reversed(content.items())))
    assert load(backwards).digest == policy.digest
    assert load(backwards).text == backwards


@pytest.mark.parametrize(
    "edit",
    [
        put("grant", "max_age_s", value=3599),
        put("kbs", 0, "label", value="Another"),
        put("kbs", 0, "status", value="suspended"),
        put("kbs", 0, "valid_to", value=datetime(2027, 1, 2, tzinfo=UTC)),
        put("kbs", 0, "resource", 0, "shared", value=True),
        put("unsafe", value=[{"name": "UnsafeAllowAnyKbs", "gives_up": "x"}]),
        drop("launch", 1),
    ],
)
def test_every_change_of_content_changes_the_digest(content, toml, edit):
    assert load(toml(edited(content, edit))).digest != load(toml(content)).digest


def test_the_digest_is_that_of_the_canonical_json():
    text = 'schema = 1\n[store]\nformats = ["cocoonfs/2", "cocoonfs/1"]\n[grant]\nmax_age_s = 60\n'
    by_hand = b'{"grant":{"max_age_s":60},"schema":1,"store":{"formats":["cocoonfs/2","cocoonfs/1"]}}'
    assert load(text).digest == hashlib.sha256(by_hand).hexdigest()


def test_a_policy_does_not_print_its_list(content, toml):
    shown = repr(load(toml(content)))
    assert "11" * 48 not in shown
    assert "org-kbs" not in shown
