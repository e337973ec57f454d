"""What a change of a policy means: every member is noticed, sentences are exact, and no widening passes for another."""

import copy
from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from policy_edits import LATER, drawn_policies, permissive

from ca_service.judgment import BadRequest
from ca_service.policy import Expectation, LimitTerms, Policy, load
from ca_service.policy.changes import Effect, compare
from ca_service.policy.document.bits import BitDemand
from ca_service.policy.entries.brokers import EarDemand, KbsEntry
from ca_service.policy.entries.ephemeral import EphemeralTerms
from ca_service.policy.entries.floors import Floor
from ca_service.policy.entries.launches import LaunchEntry, PlatformEntry

N, W, NEUTRAL = Effect.NARROWS, Effect.WIDENS, Effect.NEUTRAL
FUZZ = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def content(content, keys):
    """With an attestation token demanded by one broker, a platform to move to, and ephemeral terms."""
    content["kbs"][1]["ear"] = {"key": [{"jwk": keys[2].members()}], "max_age_s": 60}
    content["platform"].append(
        copy.deepcopy(content["platform"][0]) | {"name": "cloud", "crl_max_age_days": 31}
    )
    content["ephemeral"] = {"days": 3, "profiles": ["amd-svsm-services"], "volatile_stores": True}
    content["kbs"][0] |= {"tenant": "payments", "grant_max_age_s": 1800}
    content["certificates"] = {
        role: {"validity": "bounded", "days": days}
        for role, days in (("ek", 90), ("iak", 60), ("idevid", 30))
    }
    content["limits"] = {
        "instance_enrolments": 20,
        "instance_window_s": 7200,
        "launch_refusals_per_hour": 100,
    }
    return content


@pytest.fixture
def changes(content, toml):
    """The differences after `edit` has worked on the document, as pairs of effect and sentence."""

    def found(edit, mode="simulation"):
        after = copy.deepcopy(content)
        edit(after)
        old, new = load(toml(content)), load(toml(after))
        there, back = compare(old, new, mode), compare(new, old, mode)
        assert len(there.changes) == len(back.changes)
        for change in (*there.changes, *back.changes):
            assert str(change).isascii()
        return [(change.effect, str(change)) for change in there.changes]

    return found


def at(path, value):
    """Sets a member."""

    def edit(content):
        place = content
        for step in path[:-1]:
            place = place[step]
        if value is None:
            del place[path[-1]]
        else:
            place[path[-1]] = value

    return edit


ORG, SECOND, STANDARD, SIGNED = ("kbs", 0), ("kbs", 1), ("launch", 0), ("launch", 2)
FLEET = ("platform", 0)

SENTENCES = [
    (
        at(("grant", "max_age_s"), 60),
        [(N, "grant: lowers the greatest age of a grant, in seconds: 3600 -> 60")],
    ),
    (at(("grant",), None), [(N, "grant: leaves the greatest age of a grant, in seconds open, which denies")]),
    (at(("tpm", "ek"), ["L-1"]), [(N, "tpm: drops H-3 from the templates of ek")]),
    (at(("tpm", "iak"), ["H-3", "H-2"]), [(W, "tpm: adds H-2 to the templates of iak")]),
    (
        at(("tpm", "iak_profile"), "iak-webauthn"),
        [(W, "tpm: changes the profile of IAK certificates: iak -> iak-webauthn")],
    ),
    (
        at(("store", "formats"), ["cocoonfs/2"]),
        [(W, "store: adds cocoonfs/2 to the formats"), (N, "store: drops cocoonfs/1 from the formats")],
    ),
    (
        at(("ephemeral", "days"), 4),
        [(W, "ephemeral: raises the life of ephemeral certificates, in days: 3 -> 4")],
    ),
    (at(("ephemeral", "volatile_stores"), False), [(N, "ephemeral: no longer admits volatile stores")]),
    (at((*ORG, "status"), "suspended"), [(N, "kbs org-kbs: changes its status: trusted -> suspended")]),
    (at((*ORG, "label"), "Us"), [(NEUTRAL, "kbs org-kbs: changes its label: Organisation -> Us")]),
    (at((*ORG, "valid_to"), None), [(W, "kbs org-kbs: no longer constrains the end of its validity")]),
    (
        at((*ORG, "valid_to"), LATER),
        [
            (
                W,
                "kbs org-kbs: raises the end of its validity: 2027-01-01T00:00:00+00:00 -> 2030-01-01T00:00:00+00:00",
            )
        ],
    ),
    (
        at((*SECOND, "valid_from"), LATER),
        [(N, "kbs second-kbs: constrains the beginning of its validity: demands 2030-01-01T00:00:00+00:00")],
    ),
    (at((*ORG, "release_policies"), None), [(W, "kbs org-kbs: no longer constrains release policies")]),
    (
        at((*SECOND, "unconstrained"), []),
        [(NEUTRAL, "kbs second-kbs: no longer says that release policies do not matter")],
    ),
    (at((*ORG, "tenant"), "retail"), [(NEUTRAL, "kbs org-kbs: changes its tenant: payments -> retail")]),
    (
        at((*ORG, "grant_max_age_s"), 1801),
        [(W, "kbs org-kbs: raises the greatest age of its grants, in seconds: 1800 -> 1801")],
    ),
    (
        at((*ORG, "grant_max_age_s"), None),
        [(W, "kbs org-kbs: raises the greatest age of its grants, in seconds: 1800 -> 3600")],
    ),
    (
        at((*ORG, "grant_max_age_s"), 3600),
        [(W, "kbs org-kbs: raises the greatest age of its grants, in seconds: 1800 -> 3600")],
    ),
    (
        at((*SECOND, "grant_max_age_s"), 3599),
        [(N, "kbs second-kbs: lowers the greatest age of its grants, in seconds: 3600 -> 3599")],
    ),
    (
        at((*SECOND, "grant_max_age_s"), 3600),
        [(NEUTRAL, "kbs second-kbs: states the greatest age of its grants, in seconds, itself")],
    ),
    (
        at(("certificates", "ek", "days"), 91),
        [(W, "certificates: raises the life of ek certificates, in days: 90 -> 91")],
    ),
    (
        at(("certificates", "idevid"), {"validity": "device-lifetime"}),
        [(W, "certificates: no longer constrains the life of idevid certificates, in days")],
    ),
    (
        at(("certificates", "iak"), None),
        [(W, "certificates: no longer constrains the life of iak certificates, in days")],
    ),
    (
        at(("limits",), None),
        [
            (W, "limits: raises how many enrolments of an instance are admitted within the window: 20 -> 60"),
            (W, "limits: lowers the window, in seconds: 7200 -> 3600"),
            (W, "limits: raises how many refusals of a launch are kept per hour: 100 -> 200"),
        ],
    ),
    (
        at(("limits", "instance_window_s"), 7201),
        [(N, "limits: raises the window, in seconds: 7200 -> 7201")],
    ),
    (
        at((*SECOND, "origins"), ["kbs-generated"]),
        [(N, "kbs second-kbs: drops provisioned from origins of secrets")],
    ),
    (at((*SECOND, "ear"), None), [(W, "kbs second-kbs: no longer demands an attestation token")]),
    (
        at((*SECOND, "ear", "max_age_s"), 30),
        [(N, "kbs second-kbs: lowers the greatest age of its attestation tokens, in seconds: 60 -> 30")],
    ),
    (
        at((*ORG, "pair"), "second"),
        [(W, "kbs org-kbs: changes the pair of CAs that signs for its TPMs:  -> second")],
    ),
    (
        at((*ORG, "resource", 0, "pattern"), "default/vtpm/a"),
        [
            (N, "kbs org-kbs: adds the resources default/vtpm/a"),
            (N, "kbs org-kbs: drops the resources default/vtpm/*"),
        ],
    ),
    (
        at((*ORG, "resource", 0, "shared"), True),
        [(W, "kbs org-kbs: changes whether the resources default/vtpm/* are shared: False -> True")],
    ),
    (
        at((*ORG, "resource", 1, "shared"), False),
        [(W, "kbs org-kbs: changes whether the resources default/pool/* are shared: True -> False")],
    ),
    (at(ORG, None), [(N, "kbs org-kbs: is no longer listed")]),
    (at((*STANDARD, "min_guest_svn"), 4), [(N, "launch standard: raises the least guest SVN: 3 -> 4")]),
    (at((*STANDARD, "min_abi"), "1.9"), [(W, "launch standard: lowers the least ABI version: 1.51 -> 1.9")]),
    (at((*STANDARD, "products"), ["Milan"]), [(N, "launch standard: drops Genoa from its products")]),
    (
        at((*STANDARD, "capabilities"), ["reports-state"]),
        [(N, "launch standard: drops verifies-grants from its capabilities")],
    ),
    (
        at((*STANDARD, "name"), "other"),
        [
            (W, f"launch other: is new, found by measurement {'11' * 48}"),
            (N, "launch standard: is no longer listed"),
        ],
    ),
    (
        at((*STANDARD, "platform"), "cloud"),
        [
            (NEUTRAL, "launch standard: moves from platform fleet to cloud"),
            (
                W,
                "launch standard: by its new platform: raises the greatest age of the CRL, in days: 30 -> 31",
            ),
        ],
    ),
    (
        at((*FLEET, "mitigations", "launch"), 0b011),
        [
            (N, "platform fleet: adds 1 to the launch mitigations"),
            (W, "platform fleet: drops 2 from the launch mitigations"),
        ],
    ),
    (at((*FLEET, "provisional_firmware"), True), [(W, "platform fleet: admits provisional firmware")]),
    (at((*FLEET, "report_versions"), [5]), [(N, "platform fleet: drops 3 from the versions of the report")]),
    (
        at((*FLEET, "crl_max_age_days"), 29),
        [(N, "platform fleet: lowers the greatest age of the CRL, in days: 30 -> 29")],
    ),
    (
        at((*FLEET, "chips"), {"deny": ["01" * 64]}),
        [(W, "platform fleet: asks otherwise for chips: one of 2 -> a chip id, and none of 1")],
    ),
    (
        at((*FLEET, "tcb", 1, "reported", "snp"), 20),
        [(W, "platform fleet: lowers the floor of the reported TCB of Genoa, snp: 24 -> 20")],
    ),
    (
        at((*FLEET, "tcb", 1, "firmware"), "1.55.41"),
        [(N, "platform fleet: raises the floor of the firmware's build of Genoa: 1.55.40 -> 1.55.41")],
    ),
    (
        at((*FLEET, "tcb", 1, "firmware"), "1.56.1"),
        [
            (N, "platform fleet: raises the floor of the firmware's API version of Genoa: 1.55 -> 1.56"),
            (N, "platform fleet: raises the floor of the firmware's build of Genoa: 1.55.40 -> 1.56.1"),
        ],
    ),
    (
        at(("unsafe",), [{"name": "UnsafeAllowAnyKbs", "gives_up": "x"}]),
        [(W, "unsafe: adds UnsafeAllowAnyKbs to the permissive entries")],
    ),
]


@pytest.mark.parametrize(("edit", "expected"), SENTENCES, ids=range(len(SENTENCES)))
def test_a_difference_is_told_in_one_sentence(changes, edit, expected):
    assert changes(edit) == expected


def test_nothing_differs_in_a_document_that_only_looks_different(content, toml):
    turned = dict(reversed(content.items())) | {"kbs": list(reversed(content["kbs"]))}
    found = compare(load(toml(content)), load("# a comment\n" + toml(turned)), "production")
    assert (found.changes, found.effect) == ((), NEUTRAL)


@pytest.mark.parametrize(
    ("mode", "old", "new", "effect"),
    [
        ("production", "two", "one", W),
        ("production", None, "one", W),
        ("production", "one", "two", N),
        ("production", "one", None, N),
        ("production", None, "two", NEUTRAL),
        ("simulation", None, "two", N),
        ("simulation", "two", None, W),
        ("simulation", None, "one", NEUTRAL),
        ("anything", None, "two", NEUTRAL),
    ],
)
def test_how_many_operators_it_takes(content, toml, mode, old, new, effect):
    documents = [
        load(toml(content | ({} if rule is None else {"approval": {"widening": rule}})))
        for rule in (old, new)
    ]
    found = compare(*documents, mode)
    assert (found.effect, len(found.changes)) == (effect, int(effect is not NEUTRAL))


@pytest.mark.parametrize("table", [{}, {"widening": "three"}, {"widening": 2}, {"widening": "two", "n": 1}])
def test_what_does_not_say_how_many(content, toml, table):
    with pytest.raises(BadRequest, match="approval"):
        load(toml(content | {"approval": table}))


def test_the_first_policy_widens(content, toml):
    assert compare(None, load(toml(content)), "production").effect is W


def test_a_platform_alone_admits_nothing(changes):
    assert changes(lambda c: c["platform"].append(c["platform"][0] | {"name": "third"})) == [
        (NEUTRAL, "platform third: is new")
    ]


def test_a_constraint_that_is_given_up_or_stated(changes):
    def give_up(content):
        entry = content["launch"][0]
        del entry["host_data"]
        entry["unconstrained"] = [*entry["unconstrained"], "host-data"]

    assert changes(give_up) == [(W, "launch standard: no longer constrains the host data")]

    def state(content):
        content["launch"][0] |= {"author_keys": ["a5" * 48], "unconstrained": []}

    assert changes(state) == [(N, f"launch standard: constrains the author keys: demands {'a5' * 48}")]

    def open_(content):
        del content["launch"][0]["host_data"]

    assert changes(open_) == [(N, "launch standard: leaves the host data open, which denies")]


def test_a_floor_that_comes_later_counts_from_its_day(changes, content):
    day = content["platform"][0]["tcb"][2]["from"]
    words = f"the floor of the reported TCB of Milan from {day.isoformat()}, microcode"
    assert changes(at((*FLEET, "tcb", 2, "reported", "microcode"), 219)) == [
        (W, f"platform fleet: lowers {words}: 220 -> 219")
    ]

    def earlier(content):
        content["platform"][0]["tcb"][2]["from"] = day - timedelta(days=1)

    # On the day before, the later levels now hold; on the day itself nothing is different.
    assert {effect for effect, _ in changes(earlier)} == {N}
    assert {effect for effect, _ in changes(at((*FLEET, "tcb", 2, "from"), day + timedelta(days=1)))} == {W}


def test_a_production_ca_that_refused_everything_is_widened_by_taking_the_permissive_entries_away(
    content, toml
):
    unsafe = content | {"unsafe": [{"name": "UnsafeAllowAnyOrigin", "gives_up": "x"}]}
    old, new = load(toml(unsafe)), load(toml(content))
    assert compare(old, new, "production").effect is W
    assert compare(old, new, "simulation").effect is N
    other = load(toml(unsafe | {"unsafe": [{"name": "UnsafeAllowAnyOrigin", "gives_up": "y"}]}))
    assert compare(old, other, "simulation").effect is NEUTRAL


# Members from which others are derived, or by which entries are found.
_DERIVED = {
    Policy: {
        "text",
        "digest",
        "unstated",
        "contradictions",
        "_made",
        "launches",
        "platforms",
        "kbs",
        "ephemeral",
        "limits",
        "tests",
    },
    KbsEntry: {"id", "ear", "unconstrained"},
    LimitTerms: set(),
    LaunchEntry: {"name", "unconstrained", "platform"},
    PlatformEntry: {"name", "unconstrained", "floors"},
    EphemeralTerms: set(),
    EarDemand: set(),
    Floor: {"since"},
    Expectation: set(),
}


def _policies(content, toml):
    """Every kind of entry, and a function that puts another one of it into the policy."""
    policy = load(toml(content))
    kbs = policy.kbs[next(iter(policy.kbs))]
    second = next(entry for entry in policy.kbs.values() if entry.ear is not None)
    launch = next(entry for entry in policy.launches.entries() if entry.name == "standard")
    fleet = policy.platforms["fleet"]
    product, floors = next(iter(fleet.floors.items()))

    def with_launch(new):
        measured = {key: tuple(new if each is launch else each for each in entries)
                    for key, entries in policy.launches.by_measurement.items()}  # fmt: skip
        return replace(policy, launches=replace(policy.launches, by_measurement=measured))

    def with_kbs(old, new):
        return replace(policy, kbs={key: new if each is old else each for key, each in policy.kbs.items()})

    def with_fleet(new):
        return replace(policy, platforms=dict(policy.platforms) | {"fleet": new})

    yield policy, policy, lambda new: new
    yield policy, kbs, lambda new: with_kbs(kbs, new)
    yield policy, launch, with_launch
    yield policy, fleet, with_fleet
    yield policy, policy.ephemeral, lambda new: replace(policy, ephemeral=new)
    yield policy, policy.limits, lambda new: replace(policy, limits=new)
    yield policy, second.ear, lambda new: with_kbs(second, replace(second, ear=new))
    yield policy, policy.tests[0], lambda new: replace(policy, tests=(new,))
    yield (
        policy,
        floors[0],
        lambda new: with_fleet(replace(fleet, floors=dict(fleet.floors) | {product: (new, *floors[1:])})),
    )


_OTHERS = (
    (bool, lambda value: not value),
    (int, lambda value: value + 1),
    (str, lambda value: value + "x"),
    (bytes, lambda value: bytes(len(value))),
    (Mapping, lambda value: {} if value else {"UnsafeAllowAnyOrigin": "x"}),
    (BitDemand, lambda value: replace(value, require=frozenset())),
    (frozenset | tuple, lambda value: type(value)()),
    (datetime | None, lambda _value: LATER),
)


def _other(value):
    return next(other(value) for kind, other in _OTHERS if isinstance(value, kind))


def test_no_member_of_any_entry_is_forgotten(content, toml):
    """Whoever adds a member to an entry must say which way it works."""
    content["launch"][0] |= {"author_keys": ["a5" * 48], "unconstrained": []}
    content["test"] = [{"name": "refused", "evidence": "a.json", "expect": "refused", "rule": "kbs.listed"}]
    seen = set()
    for policy, entry, put in _policies(content, toml):
        for member in fields(entry):
            if member.name in _DERIVED[type(entry)]:
                continue
            other = {member.name: _other(getattr(entry, member.name))}
            if member.name == "chips_denied":
                # A document has one of the two.
                other = {"chips_allowed": None, "chips_denied": frozenset({bytes(64)})}
            changed = put(replace(entry, **other))
            assert compare(policy, changed, "simulation").changes, (type(entry).__name__, member.name)
        seen.add(type(entry))
    assert seen == set(_DERIVED)


# -- whatever does not widen admits nothing new -------------------------------------------------------------------


@pytest.fixture
def widely(content):
    """With launches of one measurement on two platforms, and one found by its key."""
    launch = content["launch"]
    hosted = launch[0] | {"name": "hosted", "platform": "cloud"}
    signed = launch[2] | {"id_keys": ["5a" * 48], "capabilities": ["verifies-grants", "reports-state"]}
    return content | {"launch": [launch[0], launch[1], signed, hosted]}


@FUZZ
@given(data=st.data(), mode=st.sampled_from(["simulation", "production"]))
def test_whatever_is_not_called_widening_admits_nothing_new(widely, facts, keys, judge, launched, data, mode):
    policies = drawn_policies(permissive(widely, data), data, 4)
    old, new = policies[0], policies[-1]
    pick = lambda *values: data.draw(st.sampled_from(values))  # noqa: E731 - the shortest way to say it
    asked = replace(
        facts,
        launch=replace(
            launched(
                measurement=pick(b"\x11", b"\x11", b"\x33") * 48,
                host_data=pick(b"\xd0", b"\xd0", b"\xd1", b"\xd2") * 32,
                id_key_digest=pick(b"\x5a", b"\x5b") * 48,
                guest_svn=pick(3, 4, 2),
                version=pick(5, 3, 2),
                chip_id=pick(bytes(range(64)), b"\x01" * 64, bytes(64)),
                current_firmware=(firmware := pick((1, 55, 29), (1, 55, 28), (1, 56, 0))),
                committed_firmware=firmware,
                platform_info=pick(0x25, 0x05, 0x27),
                launch_mit_vector=pick(0b101, 0b111, 0b001),
            ),
            at=facts.at + timedelta(days=pick(0, 0, 31, 300)),
            crl_issued_at=facts.at - timedelta(days=pick(0, 10, 31)),
            simulated=mode == "simulation",
        ),
        kbs_thumbprint=pick(*(key.thumbprint() for key in keys)),
        resource=pick("default/vtpm/a", "default/pool/a", "x/vtpm/a"),
        origin=pick("kbs-generated", "provisioned"),
        release_policy=pick("ab" * 32, "00" * 32),
        grant_iat=int(facts.at.timestamp()) - pick(0, 1800, 1801, 3600, 3601, 3602),
        store_mode=pick("persistent", "persistent", "volatile"),
        store_format=pick("cocoonfs/1", "cocoonfs/2", "none"),
        ek_templates=pick(("L-1",), ("L-1", "H-3"), ("L-2",)),
        profile=pick("svsm-vtpm-ca:1", "svsm-vtpm-ca:1", "amd-svsm-services", "amd-svsm-vtpm:0"),
    )
    for before, after in ((old, new), (new, old)):
        if compare(before, after, mode).effect is not W:
            assert judge(before, asked, mode).admitted or not judge(after, asked, mode).admitted
