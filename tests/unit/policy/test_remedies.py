"""The smallest change that would have admitted a refusal: it admits, all of it is needed, it is the expected one."""

import copy
import tomllib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ca_service.judgment import BadRequest, Finding, Trace, Verdict
from ca_service.policy import load, load_complete
from ca_service.policy.changes import Effect, compare
from ca_service.policy.remedies import MOST_JUDGED, Case, TokenFacts, edited, remedy, shown
from ca_service.policy.remedies.writing import document
from vtpm.wire.report import Product

FUZZ = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NOBODY = {"kbs_thumbprint": "A" * 43}


def at(facts, **launch):
    """The facts with other members of their launch."""
    return replace(facts, launch=replace(facts.launch, **launch))


@pytest.fixture
def found(content, keys, toml, judge):
    """The remedy for facts under a document."""

    def search(facts, document=content, mode="simulation", judged=None, **known):
        own = [key.members() for key in keys if key.thumbprint() == facts.kbs_thumbprint]
        known.setdefault("kbs_key", own[0] if own else None)
        case = Case(facts, mode, **known)
        return remedy(load(toml(document)), case, judged or (lambda policy: judge(policy, facts, mode)))

    return search


@pytest.fixture
def admitted(judge):
    """Whether a document, given as its content, admits facts; one that cannot be read admits nothing."""

    def asked(content, facts, mode="simulation"):
        try:
            return judge(load(document(content)), facts, mode).admitted
        except BadRequest:
            return False

    return asked


# -- what holds of every remedy ---------------------------------------------------------------------------------


@st.composite
def drawn(draw, facts, keys, launched):
    """Facts of which most are as some entry wants them."""
    pick = lambda *values: draw(st.sampled_from(values))  # noqa: E731 - the shortest way to say it
    launch = launched(
        measurement=pick(b"\x11", b"\x22", b"\x33") * 48,
        id_key_digest=pick(b"\x5a", b"\x5a", b"\x5c", b"\0") * 48,
        author_key_digest=pick(b"\xa5", b"\xa6", b"\0") * 48,
        key_flags=pick(1, 1, 0, 5),
        host_data=pick(b"\xd0", b"\xd1", b"\xd3") * 32,
        image_id=pick(b"\x1a", b"\x1a", b"\0") * 16,
        guest_svn=pick(3, 2),
        policy=1 << 17 | pick(1 << 25, 1 << 16) | pick(1 << 8 | 51, 1 << 8),
        version=pick(5, 5, 3, 2),
        platform_info=pick(0x25, 0x05, 0xFF),
        chip_id=pick(bytes(range(64)), b"\x01" * 64, bytes(64)),
        launch_mit_vector=pick(0b101, 0),
        current_mit_vector=pick(0b111, 1 << 60),
        reported_tcb=bytes([pick(4, 3), 0, 0, 0, 0, 0, 27, pick(219, 218)]),
        launch_tcb=bytes([4, 0, 0, 0, 0, 0, pick(27, 26), 219]),
        current_firmware=pick((1, 55, 29), (1, 55, 28), (1, 54, 40), (1, 56, 1)),
    )
    when = facts.at + timedelta(days=pick(0, 0, 40, 300))
    launch = replace(
        launch,
        product=pick(Product.MILAN, Product.MILAN, Product.GENOA),
        crl_issued_at=pick(when, when - timedelta(days=31), None),
        at=when,
    )
    volatile = draw(st.booleans())
    return replace(
        facts,
        launch=launch,
        kbs_thumbprint=pick(*(key.thumbprint() for key in keys)),
        resource=pick("default/vtpm/a", "default/pool/a", "x/vtpm/a", "x/y/z"),
        origin=pick("kbs-generated", "provisioned"),
        release_policy=pick("ab", "00") * 32,
        grant_iat=int(when.timestamp()) - pick(60, 4000),
        store_mode="volatile" if volatile else "persistent",
        store_format="none" if volatile else pick("cocoonfs/1", "cocoonfs/2"),
        ek_templates=pick(("L-1",), ("L-1", "H-3"), ("L-2", "H-1")),
        iak_template=pick("H-3", "H-1"),
        profile=pick("svsm-vtpm-ca:1", "svsm-vtpm-ca:1", "amd-svsm-services"),
    )


_SPOILT_KBS = (
    {"status": "suspended"},
    {"status": "compromised", "compromised_since": datetime(2026, 5, 1, tzinfo=UTC)},
    {"valid_from": datetime(2026, 12, 30, tzinfo=UTC), "valid_to": datetime(2027, 12, 30, tzinfo=UTC)},
    {"valid_to": datetime(2026, 2, 1, tzinfo=UTC)},
)


def spoilt(content, data):
    """The document without some of its parts, with an entry that denies, or with an open question."""
    content = copy.deepcopy(content)
    tables = st.sampled_from(["tpm", "store", "grant", "launch", "kbs"])
    for name in data.draw(st.lists(tables, unique=True, max_size=2)):
        del content[name]
    for entry in content.get("kbs", ()):
        if not data.draw(st.integers(0, 3)):
            entry.update(data.draw(st.sampled_from(_SPOILT_KBS)))
    if not data.draw(st.integers(0, 3)):
        denied = [bytes(range(64)).hex(), *data.draw(st.sampled_from([[], ["0a" * 64]]))]
        content["platform"][0]["chips"] = {"deny": denied}
    if not data.draw(st.integers(0, 3)) and "launch" in content:
        del content["launch"][0]["host_data"]
        del content["platform"][0]["crl_max_age_days"]
    return content


def check_any(content, facts, keys, launched, found, admitted, data):
    content = spoilt(content, data)
    asked = data.draw(drawn(facts, keys, launched))
    result = found(asked, content)
    assert result.admits, result.left
    assert result.judged <= MOST_JUDGED
    if admitted(content, asked):
        assert result.edits == ()
        return
    for edits in (result.edits, *result.alternatives):
        after = edited(content, edits)
        assert admitted(after, asked)
        for edit in edits:
            assert not admitted(edited(content, [other for other in edits if other is not edit]), asked), edit
        before, later = load(document(content)), load(document(after))
        assert compare(before, later, "simulation").effect is Effect.WIDENS
        assert later.unsafe == before.unsafe
        assert {question.rule for question in later.unstated} <= {q.rule for q in before.unstated}


@settings(FUZZ, max_examples=5)
@given(data=st.data())
def test_a_remedy_admits_and_each_of_its_edits_is_needed(
    content, facts, keys, launched, found, admitted, data
):
    check_any(content, facts, keys, launched, found, admitted, data)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(FUZZ, max_examples=300)
@given(data=st.data())
def test_many_remedies_admit_and_each_of_their_edits_is_needed(
    content, facts, keys, launched, found, admitted, data
):
    check_any(content, facts, keys, launched, found, admitted, data)


# -- the expected ones ------------------------------------------------------------------------------------------


def only(result):
    """The single edit of a remedy that admits."""
    assert result.admits
    (edit,) = result.edits
    return edit


def pasted(result):
    """The TOML of each edit, by the entries that it touches."""
    return {"+".join(edit["entries"]): edit["toml"] for edit in shown(result, result.edits, "simulation")}


@pytest.mark.parametrize(
    ("change", "entry", "rules", "toml_text"),
    [
        ({"resource": "x/y/z"}, "kbs org-kbs", ["kbs.resource"], '[[kbs.resource]]\npattern = "x/y/z"'),
        (
            {"origin": "provisioned"},
            "kbs org-kbs",
            ["kbs.origin"],
            'origins = ["kbs-generated", "provisioned"]',
        ),
        (
            {"release_policy": "ef" * 32},
            "kbs org-kbs",
            ["kbs.release-policy"],
            f'release_policies = ["{"ab" * 32}", "{"cd" * 32}", "{"ef" * 32}"]',
        ),
        ({"store_format": "cocoonfs/2"}, "store", ["store.format"], 'formats = ["cocoonfs/1", "cocoonfs/2"]'),
        (
            {"store_mode": "volatile", "store_format": "none"},
            "ephemeral",
            ["store.persistent", "store.format"],
            "[ephemeral]\ndays = 1\nvolatile_stores = true",
        ),
        (
            {"ek_templates": ("L-1", "H-6"), "iak_template": "H-2"},
            "tpm",
            ["tpm.template-allowed"],
            'ek = ["L-1", "H-3", "H-6"]\niak = ["H-3", "H-2"]',
        ),
    ],
)
def test_a_table_or_broker_allows_exactly_what_came(facts, found, change, entry, rules, toml_text):
    result = found(replace(facts, **change))
    edit = only(result)
    assert (list(edit.rules), edit.entries) == (rules, (entry,))
    assert toml_text in pasted(result)[entry]
    assert tomllib.loads(pasted(result)[entry])


@pytest.mark.parametrize(
    ("change", "entry", "text"),
    [
        ({"id_key_digest": b"\x77" * 48}, "launch standard", f'id_keys = ["{"5a" * 48}", "{"77" * 48}"]'),
        ({"guest_svn": 1}, "launch standard", "min_guest_svn = 1"),
        ({"policy": 1 << 17 | 1 << 25 | 1 << 8 | 49}, "launch standard", 'min_abi = "1.49"'),
        (
            {"policy": 1 << 17 | 1 << 16 | 1 << 8 | 51},
            "launch standard",
            'guest_policy = { require = [], forbid = ["cxl"], either = ["smt", "single-socket", ',
        ),
        ({"key_flags": 5}, "platform fleet", 'keys = ["VCEK", "VLEK"]'),
        ({"version": 4}, "platform fleet", "report_versions = [3, 5, 4]"),
        ({"launch_mit_vector": 0b001}, "platform fleet", "mitigations = { launch = 1, current = 6 }"),
        ({"committed_firmware": (1, 55, 28)}, "platform fleet", "provisional_firmware = true"),
        ({"current_firmware": (1, 55, 20), "committed_firmware": (1, 55, 20)}, "platform fleet", '"1.55.20"'),
        (
            {"reported_tcb": bytes([4, 0, 0, 0, 0, 0, 25, 219])},
            "platform fleet",
            "[[platform.tcb]] of Milan\nreported = { bootloader = 4, tee = 0, snp = 25, microcode = 219 }",
        ),
    ],
)
def test_an_entry_asks_for_exactly_what_is_there(facts, launched, found, change, entry, text):
    result = found(replace(facts, launch=launched(**change)))
    edit = only(result)
    assert edit.entries == (entry,)
    assert text in pasted(result)[entry]


def test_what_cannot_be_named_is_given_up_and_says_so(facts, launched, found):
    result = found(replace(facts, launch=launched(chip_id=bytes(64))))
    edit = only(result)
    assert '"chip"' in pasted(result)["platform fleet"]
    assert "take out: chips" in pasted(result)["platform fleet"]
    assert any("any processor" in warning for warning in edit.warnings)


def test_no_id_key_is_no_key_that_could_be_listed(facts, launched, found):
    result = found(replace(facts, launch=launched(id_key_digest=bytes(48))))
    text = pasted(result)["launch standard"]
    assert 'unconstrained = ["author-key", "id-key"]' in text
    assert "take out: id_keys" in text
    assert "any ID block" in only(result).warnings[0]


def test_a_chip_that_was_denied_on_purpose(content, facts, found):
    content["platform"][0]["chips"] = {"deny": [facts.launch.report.chip_id.hex(), "0a" * 64]}
    result = found(facts)
    assert f'chips = {{ deny = ["{"0a" * 64}"] }}' in pasted(result)["platform fleet"]
    assert "on purpose" in only(result).warnings[0]


def test_a_floor_of_later_drags_the_earlier_one_along_and_says_since_when(content, facts, found):
    facts = at(facts, at=facts.at + timedelta(days=40), crl_issued_at=facts.at + timedelta(days=40))
    low = bytes([4, 0, 0, 0, 0, 0, 26, 220])
    report = replace_report(facts, reported_tcb=low)
    asked = replace(at(facts, report=report), grant_iat=int(facts.at.timestamp()))
    broken = [e for e in found(asked).edits if e.rules == ("platform.reported-tcb",)]
    (edit,) = broken
    assert "2026-12-23" in edit.words
    assert "bootloader 5 -> 4, snp 28 -> 26" in edit.words
    assert [step.value for step in edit.steps] == [
        {"bootloader": 4, "tee": 0, "snp": 26, "microcode": 220},
        {"bootloader": 4, "tee": 0, "snp": 26, "microcode": 219},
    ]


def replace_report(facts, **members):
    return replace(facts.launch.report, **members)


def test_a_floor_that_others_stand_on_is_said_to(facts, launched, found):
    edit = only(found(replace(facts, launch=launched(reported_tcb=bytes([3, 0, 0, 0, 0, 0, 27, 219])))))
    assert any("2 other launches" in warning for warning in edit.warnings)


def test_of_several_entries_the_one_that_must_give_up_least_is_chosen(content, facts, launched, found):
    fleet = content["platform"][0]
    cloud = fleet | {"name": "cloud", "unconstrained": ["chip"]}
    del cloud["chips"]
    content["platform"].append(cloud)
    content["launch"].append(content["launch"][0] | {"name": "hosted", "platform": "cloud"})
    low = launched(chip_id=b"\x01" * 64, reported_tcb=bytes([3, 0, 0, 0, 0, 0, 27, 219]))
    result = found(replace(facts, launch=low))
    assert only(result).entries == ("platform cloud",)
    (other,) = result.alternatives
    assert {edit.entries for edit in other} == {("platform fleet",)}
    assert {edit.rules for edit in other} == {("platform.chip",), ("platform.reported-tcb",)}


def test_an_unlisted_launch_gets_an_entry_after_the_nearest(content, facts, launched, found):
    result = found(replace(facts, launch=launched(measurement=b"\x99" * 48, guest_svn=2)))
    edit = only(result)
    assert edit.rules == ("launch.measurement", "launch.guest-svn")
    (new,) = tomllib.loads(pasted(result)["launch svsm-999999999999"])["launch"]
    standard = dict(content["launch"][0])
    assert new == standard | {"name": "svsm-999999999999", "measurement": "99" * 48, "min_guest_svn": 2}
    assert any("admit it only if" in warning for warning in edit.warnings)


def test_its_processor_is_let_in_for_it_alone(content, facts, launched, found, judge):
    launch = launched(measurement=b"\x99" * 48, reported_tcb=bytes([4, 0, 0, 0, 0, 0, 20, 219]))
    result = found(replace(facts, launch=launch))
    assert [edit.entries for edit in result.edits] == [
        ("platform fleet-999999999999",),
        ("launch svsm-999999999999",),
    ]
    # What the others need is as before.
    others = replace(facts, launch=launched(reported_tcb=bytes([4, 0, 0, 0, 0, 0, 20, 219])))
    assert not judge(load(document(edited(content, result.edits))), others).admitted


def test_where_no_launch_is_listed_all_that_can_be_named_is_asked_for(content, facts, found):
    del content["launch"]
    del content["platform"]
    result = found(facts)
    policy = load_complete(document(edited(content, result.edits)))
    (entry,) = policy.launches.entries()
    report = facts.launch.report
    assert entry.host_data == {report.host_data}
    assert entry.platform.chips_allowed == {report.chip_id}
    assert entry.platform.floors[Product.MILAN][0].firmware == report.current_firmware
    assert entry.unconstrained == frozenset()


def test_an_unlisted_key_gets_a_kbs_of_its_own_or_that_of_its_resource(content, facts, found, keys):
    content["kbs"] = [content["kbs"][0] | {"key": [{"jwk": keys[2].members()}]}]
    result = found(facts)
    edit = only(result)
    assert edit.entries == ("kbs new-kbs",)
    (new,) = tomllib.loads(pasted(result)["kbs new-kbs"])["kbs"]
    assert new == {
        "id": "new-kbs",
        "status": "trusted",
        "origins": ["kbs-generated"],
        "release_policies": [facts.release_policy],
        "key": [{"jwk": keys[0].members()}],
        "resource": [{"pattern": facts.resource}],
    }
    assert any("new instance" in warning for warning in edit.warnings)
    ((other,),) = result.alternatives
    assert other.entries == ("kbs org-kbs",)
    assert other.rules == ("kbs.listed",)


def test_the_owner_of_the_resource_may_need_more_than_the_key(content, facts, found, keys):
    content["kbs"] = [content["kbs"][0] | {"key": [{"jwk": keys[2].members()}], "status": "suspended"}]
    ((first, second),) = found(facts).alternatives
    assert (first.rules, second.rules) == (("kbs.listed",), ("kbs.status",))


def test_a_name_that_is_taken_is_not_taken_again(content, facts, found, keys):
    content["kbs"] = [content["kbs"][1] | {"id": "new-kbs"}]
    assert found(facts).edits[0].entries == ("kbs new-kbs-2",)


def test_a_compromised_kbs_is_shouted_about(content, facts, found):
    since = datetime(2026, 6, 1, tzinfo=UTC)
    content["kbs"][0] |= {"status": "compromised", "compromised_since": since}
    result = found(facts)
    assert "COMPROMISED" in only(result).warnings[0]
    text = pasted(result)["kbs org-kbs"]
    assert 'status = "trusted"' in text
    assert "take out: compromised_since" in text


@pytest.mark.parametrize(
    ("member", "value", "wanted"),
    [
        ("valid_from", datetime(2026, 11, 24, tzinfo=UTC), "valid_from = 2026-11-23T12:00:00+00:00"),
        ("valid_to", datetime(2026, 11, 1, tzinfo=UTC), "valid_to = 2026-11-23T12:00:01+00:00"),
    ],
)
def test_a_kbs_is_valid_just_then(content, facts, found, member, value, wanted):
    content["kbs"][0][member] = value
    assert wanted in pasted(found(facts))["kbs org-kbs"]


def test_a_grant_may_be_as_old_as_it_was(facts, found):
    result = found(replace(facts, grant_iat=int(facts.at.timestamp()) - 5000))
    assert result.admits
    assert "max_age_s = 5000" in "\n".join(pasted(result).values())


def test_a_grant_older_than_any_document_can_say_is_left(facts, found):
    result = found(replace(facts, grant_iat=int(facts.at.timestamp()) - 8 * 24 * 3600))
    assert not result.admits
    assert [finding.rule for finding in result.left] == ["grant.age"]
    assert result.edits == ()


def test_another_profile_needs_ephemeral_and_a_capability(facts, found):
    result = found(replace(facts, profile="amd-svsm-services"))
    assert {edit.rules for edit in result.edits} == {("launch.capabilities",), ("profile.admitted",)}
    assert 'profiles = ["amd-svsm-services"]' in pasted(result)["ephemeral"]


def test_a_profile_that_no_document_can_name_is_left(facts, found):
    result = found(replace(facts, profile="svsm-vtpm-session:1"))
    assert {finding.rule for finding in result.left} == {"profile.admitted", "launch.capabilities"}
    assert result.edits == ()


def test_a_production_ca_must_lose_its_unsafe_entries(content, facts, found):
    content["unsafe"] = [{"name": "UnsafeAllowAnyGrantAge", "gives_up": "x"}]
    result = found(at(facts, simulated=False), mode="production")
    assert only(result).rules == ("policy.mode",)
    assert pasted(result) == {"unsafe": "# take out: [[unsafe]]"}


def test_a_simulated_platform_is_let_in_by_no_document_of_a_production_ca(facts, found):
    result = found(replace(facts, resource="x/y/z"), mode="production")
    assert [finding.rule for finding in result.left] == ["launch.simulated"]
    assert [edit.rules for edit in result.edits] == [("kbs.resource",)]


def test_what_a_permissive_entry_gives_up_needs_no_remedy(content, facts, launched, found):
    content["unsafe"] = [{"name": "UnsafeAllowAnyPlatform", "gives_up": "x"}]
    low = launched(reported_tcb=bytes(8), guest_svn=1)
    assert only(found(replace(facts, launch=low))).rules == ("launch.guest-svn",)


# -- what a policy cannot do ------------------------------------------------------------------------------------

OUTSIDE = Finding("ledger.instance-occupied", Verdict.FAILED, "another TPM lives in this instance", "a", "b")


def test_what_other_rules_refuse_is_left_and_the_rest_is_still_said(facts, found, judge):
    facts = replace(facts, resource="x/y/z")
    result = found(facts, judged=lambda policy: judge(policy, facts) + Trace((OUTSIDE,)))
    assert result.left == (OUTSIDE,)
    assert [edit.rules for edit in result.edits] == [("kbs.resource",)]


def test_a_report_from_below_the_svsm_is_let_in_by_no_document(facts, launched, found):
    result = found(replace(facts, launch=launched(vmpl=1, guest_svn=1)))
    assert [finding.rule for finding in result.left] == ["launch.measurement"]
    assert [edit.rules for edit in result.edits] == [("launch.guest-svn",)]


def test_what_no_document_can_name_leaves_no_trace_among_the_edits(facts, launched, found):
    result = found(replace(facts, launch=replace(launched(guest_svn=1), product=None)))
    assert [edit.rules for edit in result.edits] == [("launch.guest-svn",)]
    assert "launch.product" in [finding.rule for finding in result.left]


def test_without_a_grant_nothing_is_made_up(facts, found):
    result = found(replace(facts, **NOBODY), kbs_key=None)
    assert {finding.rule.partition(".")[0] for finding in result.left} == {"kbs"}
    assert result.edits == ()


# -- attestation tokens -----------------------------------------------------------------------------------------


@pytest.fixture
def with_token(content, keys, found, judge, facts):
    """The remedy where the KBS asks for a token, which was judged to fail `rules` in their order."""

    def search(*rules, **token):
        content["kbs"][0]["ear"] = {"key": [{"jwk": keys[2].members()}], "max_age_s": 60}

        def judged(policy):
            demand = policy.kbs[facts.kbs_thumbprint].ear
            left = [] if demand is None else [rule for rule in rules if not met(demand, rule)]
            return judge(policy, facts) + Trace(tuple(Finding(r, Verdict.FAILED, "no") for r in left[:1]))

        def met(demand, rule):
            if rule == "ear.signature":
                return len(demand.keys) > 1
            return rule == "ear.time" and demand.max_age_s >= token["age_s"]

        return found(facts, judged=judged, token=TokenFacts(**token))

    return search


def test_a_token_that_is_too_old_and_of_another_key(with_token, facts):
    other = {"kty": "EC", "crv": "P-256", "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4"}
    other["y"] = "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"
    result = with_token("ear.signature", "ear.time", key=other, age_s=90)
    assert [edit.rules for edit in result.edits] == [("ear.signature",), ("ear.time",)]
    assert any("anybody can write one" in text for text in result.edits[0].warnings)
    ((gone,),) = result.alternatives
    assert len(gone.rules) == 7


def test_a_token_of_another_exchange_is_only_to_be_done_without(with_token):
    result = with_token("ear.nonce", key=None, age_s=10)
    assert only(result).warnings == ("nobody but the KBS itself would vouch for the boot then",)


# -- size and words ---------------------------------------------------------------------------------------------


def test_a_large_document_costs_no_more_judgements(content, facts, launched, found, judge):
    small = found(replace(facts, launch=launched(measurement=b"\x99" * 48, guest_svn=2))).judged
    many = [content["launch"][0] | {"name": f"build-{i}", "measurement": f"{i:096x}"} for i in range(100)]
    content["launch"] += many
    asked, seen = replace(facts, launch=launched(measurement=b"\x99" * 48, guest_svn=2)), []
    result = found(asked, judged=lambda policy: judge(seen.append(policy) or policy, asked))
    assert result.judged <= small + 2
    assert len(result.part["launch"]) < 10
    # Tried on the few entries that matter, and in the end on all of them.
    assert [len(policy.launches.entries()) > 10 for policy in (seen[1], seen[-1])] == [False, True]
    assert "launch[103]" in shown(result, result.edits, "simulation")[0]["places"][0]["path"]


def test_names_and_numbers_are_those_of_the_whole_document(content, facts, launched, found):
    first = content["launch"][0]
    content["launch"] += [first | {"name": f"svsm-{i:x}", "measurement": f"{i:096x}"} for i in range(3)]
    content["launch"][3]["name"] = "svsm-999999999999"
    result = found(replace(facts, launch=launched(measurement=b"\x99" * 48)))
    assert only(result).entries == ("launch svsm-999999999999-2",)
    low = launched(reported_tcb=bytes([3, 0, 0, 0, 0, 0, 27, 219]))
    assert any("5 other launches" in text for text in only(found(replace(facts, launch=low))).warnings)


def test_what_is_shown_is_plain_and_names_the_place(facts, launched, found):
    result = found(replace(facts, launch=launched(guest_svn=1)))
    (edit,) = shown(result, result.edits, "simulation")
    assert edit["places"] == [{"path": "launch[0].min_guest_svn", "old": 3, "new": 1}]
    assert edit["effect"] == "widens"
    assert edit["changes"] == ["launch standard: lowers the least guest SVN: 3 -> 1"]


@given(
    st.dictionaries(
        st.text("abc_", min_size=1, max_size=4),
        st.recursive(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
            | st.booleans()
            | st.integers(-(2**53), 2**53)
            | st.datetimes(timezones=st.just(UTC)),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.text('ab-." é', max_size=4), inner, max_size=3)
            ),
            max_leaves=4,
        ),
        max_size=4,
    )
)
@settings(max_examples=25, deadline=None)
def test_what_is_written_is_read_again(content):
    assert tomllib.loads(document(content)) == content
