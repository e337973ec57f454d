"""Each rule about processor and firmware: what it admits, what it refuses alone, and the floors in their order."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca_service.judgment import BadRequest, Verdict
from ca_service.policy import load
from ca_service.policy.document.bits import GUEST_POLICY, PLATFORM_INFO
from ca_service.policy.entries.floors import Floor, in_force, lowered, meets
from vtpm.wire.report import TCB_LAYOUT, Product

MILAN = (4, 0, 27, 219)
FLOOR_RULES = ["platform.reported-tcb", "platform.committed-tcb", "platform.launch-tcb"]
FLOOR_NAMES = ["reported-tcb", "committed-tcb", "launch-tcb", "api", "build"]


def finding(trace, rule):
    (found,) = (f for f in trace.findings if f.rule == rule)
    return found


def tcb(bootloader=4, tee=0, snp=27, microcode=219):
    return bytes([bootloader, tee, 0, 0, 0, 0, snp, microcode])


def both(which, value):
    return {f"current_{which}": value, f"committed_{which}": value}


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 3},
        {"platform_info": 0x24},
        {"platform_info": 0x3F | 1 << 6 | 1 << 63},
        {"launch_mit_vector": 0b111, "current_mit_vector": 2**64 - 1},
        {"chip_id": (b"\xfe" * 8).ljust(64, b"\0")},
        both("firmware", (1, 55, 30)),
        both("firmware", (1, 56, 0)),
        both("firmware", (2, 0, 0)),
        both("tcb", tcb(255, 255, 255, 255)),
        {"reported_tcb": tcb(5)},
        {"launch_tcb": tcb(255, 1, 255, 255)},
    ],
)
def test_what_the_platform_allows_is_admitted(content, launched, refusals, changes):
    assert refusals(content, launched(**changes)) == []


@pytest.mark.parametrize(
    ("changes", "rule", "expected", "actual"),
    [
        ({"key_flags": 1 | 1 << 2}, "platform.signing-key", "VCEK", "VLEK"),
        ({"key_flags": 1 | 7 << 2}, "platform.signing-key", "VCEK", "none of them"),
        ({"version": 2}, "platform.report-version", "3, 5", "2"),
        ({"version": 4}, "platform.report-version", "3, 5", "4"),
        ({"platform_info": 0x05}, "platform.info", "set: alias-check, ecc; not set: tio", "set: ecc, smt)"),
        ({"platform_info": 0x21}, "platform.info", "set: alias-check, ecc", "set: alias-check, smt)"),
        ({"platform_info": 0xA5}, "platform.info", "not set: tio", "set: alias-check, ecc, smt, tio)"),
        ({"launch_mit_vector": 0b100}, "platform.launch-mitigations", "all bits of 0x5", "0x4"),
        ({"launch_mit_vector": 0}, "platform.launch-mitigations", "all bits of 0x5", "0x0"),
        ({"current_mit_vector": 0b101}, "platform.current-mitigations", "all bits of 0x6", "0x5"),
        ({"chip_id": b"\x01" * 64}, "platform.chip", "one of 2 chips", "01" * 64),
        ({"chip_id": b"\xfe" * 64}, "platform.chip", "one of 2 chips", "fe" * 64),
        ({"chip_id": bytes(64)}, "platform.chip", "one of 2 chips", "00" * 64),
        ({"current_tcb": tcb(5)}, "platform.provisional-firmware", "committed", "provisional"),
        (
            {"current_firmware": (1, 55, 30)},
            "platform.provisional-firmware",
            "committed",
            "provisional",
        ),
        ({"reported_tcb": tcb(3)}, "platform.reported-tcb", "at least bootloader 4", "bootloader 3"),
        ({"reported_tcb": tcb(snp=26)}, "platform.reported-tcb", "snp 27", "snp 26"),
        ({"reported_tcb": tcb(255, 255, 255, 218)}, "platform.reported-tcb", "microcode 219", "218"),
        (both("tcb", tcb(microcode=218)), "platform.committed-tcb", "microcode 219", "microcode 218"),
        ({"launch_tcb": tcb(3, 255, 255, 255)}, "platform.launch-tcb", "bootloader 4", "bootloader 3"),
        (both("firmware", (1, 55, 28)), "platform.build", "at least 1.55.29", "1.55.28"),
    ],
)
def test_what_it_does_not_allow_is_refused_by_one_rule(
    content, launched, judge, refusals, changes, rule, expected, actual
):
    facts = launched(**changes)
    assert refusals(content, facts) == [rule]
    found = finding(judge(content, facts), rule)
    assert expected in found.expected
    assert actual in found.actual


@pytest.mark.parametrize("firmware", [(1, 54, 255), (0, 99, 99)])
def test_an_older_api_is_refused_whatever_its_build(content, launched, judge, refusals, firmware):
    facts = launched(**both("firmware", firmware))
    assert refusals(content, facts) == ["platform.api", "platform.build"]
    assert finding(judge(content, facts), "platform.api").expected == "API at least 1.55"


def test_denied_chips(content, launched, refusals):
    content["platform"][0]["chips"] = {"deny": ["01" * 64, "fe" * 8]}
    assert refusals(content, launched()) == []
    assert refusals(content, launched(chip_id=b"\xfe" * 64)) == []
    for denied in (b"\x01" * 64, (b"\xfe" * 8).ljust(64, b"\0")):
        assert refusals(content, launched(chip_id=denied)) == ["platform.chip"]
    # What masks its id could be one of them.
    assert refusals(content, launched(chip_id=bytes(64))) == ["platform.chip"]


def test_provisional_firmware_may_be_permitted(content, launched, refusals):
    content["platform"][0]["provisional_firmware"] = True
    assert refusals(content, launched(current_tcb=tcb(5), current_firmware=(1, 56, 1))) == []
    assert refusals(content, launched()) == []


@pytest.mark.parametrize(
    ("age", "refused"),
    [
        (timedelta(0), False),
        (timedelta(days=30), False),
        (timedelta(days=30, microseconds=1), True),
        (None, True),
    ],
)
def test_the_age_of_the_crl(content, launch, judge, age, refused):
    facts = replace(launch, crl_issued_at=None if age is None else launch.at - age)
    found = finding(judge(content, facts), "platform.crl-age")
    assert (found.verdict is Verdict.FAILED) == refused
    assert found.expected == "a CRL issued at most 30 days ago"
    assert found.actual.startswith("no CRL" if age is None else "issued 2026-")


@pytest.mark.parametrize(
    ("seconds", "rules"),
    [(-1, []), (0, [*FLOOR_RULES, "platform.build"]), (10**8, [*FLOOR_RULES, "platform.build"])],
)
def test_an_announced_floor_counts_from_its_date_on(content, launch, launched, refusals, seconds, rules):
    at = launch.at + timedelta(days=30, seconds=seconds)
    assert refusals(content, replace(launch, at=at, crl_issued_at=at)) == rules
    new = launched(reported_tcb=tcb(5, 0, 28, 220), launch_tcb=tcb(5, 0, 28, 220), **both("tcb", b"\xff" * 8))
    new = replace(
        new, report=replace(new.report, current_firmware=(1, 55, 40), committed_firmware=(1, 55, 40))
    )
    assert refusals(content, replace(new, at=at, crl_issued_at=at)) == []


def test_each_product_has_its_own_floor_and_layout(content, launch, launched, refusals):
    genoa = replace(launched(**both("firmware", (1, 55, 40))), product=Product.GENOA)
    assert refusals(content, genoa) == FLOOR_RULES
    content["launch"][0]["products"].append("Turin")
    levels = {"fmc": 1, "bootloader": 2, "tee": 3, "snp": 4, "microcode": 5}
    content["platform"][0]["tcb"].append(
        {"product": "Turin", "firmware": "1.55.0", "reported": levels, "committed": levels, "launch": levels}
    )
    raw = bytes([1, 2, 3, 4, 0, 0, 0, 5])
    turin = replace(
        launched(reported_tcb=raw, launch_tcb=raw, **both("tcb", raw)),
        product=Product.TURIN,
    )
    assert refusals(content, turin) == []
    for index in (0, 1, 2, 3, 7):
        low = raw[:index] + bytes([raw[index] - 1]) + raw[index + 1 :]
        lower = replace(turin, report=replace(turin.report, reported_tcb=low))
        assert refusals(content, lower) == ["platform.reported-tcb"]


def test_an_unknown_product_meets_no_floor(content, launch, refusals):
    found = refusals(content, replace(launch, product=None))
    assert found == ["launch.product", *FLOOR_RULES, "platform.api", "platform.build"]


MEMBERS = {
    "signing-key": (("keys",), {"key_flags": 1 << 2}),
    "report-version": (("report_versions",), {"version": 4}),
    "info": (("platform_info",), {"platform_info": 0}),
    "launch-mitigations": (("mitigations", "launch"), {"launch_mit_vector": 0}),
    "current-mitigations": (("mitigations", "current"), {"current_mit_vector": 0}),
    "chip": (("chips",), {"chip_id": bytes(64)}),
    "provisional-firmware": (("provisional_firmware",), {"current_firmware": (9, 9, 9)}),
    "crl-age": (("crl_max_age_days",), {}),
}


def place(content, path):
    holder = content["platform"][0]
    for step in path[:-1]:
        holder = holder[step]
    return holder


@pytest.mark.parametrize("name", MEMBERS)
def test_a_constraint_is_stated_given_up_or_denies(content, launched, judge, refusals, toml, name):
    path, changes = MEMBERS[name]
    rule = f"platform.{name}"
    good, bad = launched(), launched(**changes)
    if name == "crl-age":
        bad = replace(bad, crl_issued_at=None)
    assert refusals(content, good) == []
    assert refusals(content, bad) == [rule]

    value = place(content, path).pop(path[-1])
    assert refusals(content, good) == [rule]
    assert finding(judge(content, good), rule).expected == "the policy does not say"
    assert [(open_.rule, open_.path, open_.entry) for open_ in load(toml(content)).unstated] == [
        (rule, f"platform[0].{'.'.join(path)}", ' (entry "fleet")')
    ]

    content["platform"][0]["unconstrained"] = [name]
    assert refusals(content, bad) == []
    assert finding(judge(content, bad), rule).expected == "unconstrained"
    assert load(toml(content)).unstated == ()

    place(content, path)[path[-1]] = value
    with pytest.raises(BadRequest, match=r"cannot be unconstrained") as caught:
        load(toml(content))
    assert caught.value.path == "platform[0].unconstrained[0]"


@pytest.mark.parametrize("name", ["reported-tcb", "committed-tcb", "launch-tcb"])
def test_a_floor_is_stated_given_up_or_denies(content, launched, judge, refusals, toml, name):
    rule, member = f"platform.{name}", name.partition("-")[0]
    good = launched()
    stated = [row.pop(member) for row in content["platform"][0]["tcb"]]
    assert refusals(content, good) == [rule]
    assert finding(judge(content, good), rule).expected == "the policy does not say"
    assert [open_.path for open_ in load(toml(content)).unstated] == [
        f"platform[0].tcb[{k}].{member}" for k in range(3)
    ]
    content["platform"][0]["unconstrained"] = [name]
    assert refusals(content, launched(**{f"{member}_tcb": bytes(8)})) in (
        [],
        ["platform.provisional-firmware"],
    )
    content["platform"][0]["tcb"][2][member] = stated[2]
    with pytest.raises(BadRequest, match=f"{member} is stated"):
        load(toml(content))


def test_a_firmware_floor_may_leave_the_build_open(content, launched, refusals, toml):
    for row in content["platform"][0]["tcb"]:
        row["firmware"] = "1.55"
    assert refusals(content, launched()) == ["platform.build"]
    assert {open_.rule for open_ in load(toml(content)).unstated} == {"platform.build"}
    content["platform"][0]["unconstrained"] = ["build"]
    assert refusals(content, launched(**both("firmware", (1, 55, 0)))) == []
    assert refusals(content, launched(**both("firmware", (1, 54, 99)))) == ["platform.api"]
    for row in content["platform"][0]["tcb"]:
        del row["firmware"]
    content["platform"][0]["unconstrained"] = ["build", "api"]
    assert refusals(content, launched(**both("firmware", (0, 0, 0)))) == []


def test_without_any_floor_all_of_them_must_be_given_up(content, launched, refusals, toml):
    del content["platform"][0]["tcb"]
    content["platform"][0]["unconstrained"] = FLOOR_NAMES[1:]
    with pytest.raises(BadRequest, match='platform "fleet" has no tcb entry for this product') as caught:
        load(toml(content))
    assert caught.value.path == "launch[0].products[0]"
    content["platform"][0]["unconstrained"] = FLOOR_NAMES
    assert (
        refusals(content, launched(reported_tcb=bytes(8), launch_tcb=bytes(8), **both("tcb", bytes(8)))) == []
    )


# -- floors ---------------------------------------------------------------------------------------------------

_LEVEL = st.integers(0, 255)
_PRODUCT = st.sampled_from(Product)


@given(product=_PRODUCT, raw=st.binary(min_size=8, max_size=8), data=st.data())
def test_a_floor_is_met_if_each_component_is(product, raw, data):
    floor = {component: data.draw(_LEVEL) for component in TCB_LAYOUT[product]}
    by_hand = [raw[index] >= floor[component] for component, index in TCB_LAYOUT[product].items()]
    assert meets(raw, floor, product) == all(by_hand)


@given(starts=st.lists(st.integers(1, 1000), unique=True, max_size=6), at=st.integers(0, 1001))
def test_the_last_floor_that_has_begun_is_in_force(starts, at):
    moments = [datetime.fromtimestamp(start, UTC) for start in sorted(starts)]
    floors = (Floor(None), *(Floor(moment) for moment in moments))
    begun = [floor for floor in floors if floor.since is None or floor.since.timestamp() <= at]
    assert in_force(floors, datetime.fromtimestamp(at, UTC)) is begun[-1]
    assert in_force((), datetime.fromtimestamp(at, UTC)) is None


@given(raw=st.binary(min_size=8, max_size=8), data=st.data())
def test_what_meets_a_later_floor_has_met_the_earlier_one(raw, data):
    earlier, later = ({c: data.draw(_LEVEL) for c in TCB_LAYOUT[Product.MILAN]} for _ in range(2))
    wrong = lowered(Floor(None, reported=earlier), Floor(None, reported=later))
    if wrong:
        member, component = wrong.split(".")
        assert member == "reported"
        assert later[component] < earlier[component]
    elif meets(raw, later, Product.MILAN):
        assert meets(raw, earlier, Product.MILAN)


def test_every_bit_has_one_name():
    for names in (GUEST_POLICY, PLATFORM_INFO):
        masks = list(names.values())
        assert sum(mask.bit_count() for mask in masks) == sum(masks).bit_count()
    # AMD 56860, tables "guest policy" and ATTESTATION_REPORT.
    assert list(GUEST_POLICY.items()) == [
        ("smt", 0x10000),
        ("single-socket", 0x100000),
        ("cxl", 0x200000),
        ("aes-256-xts", 0x400000),
        ("rapl-disabled", 0x800000),
        ("ciphertext-hiding", 0x1000000),
        ("page-swap-disabled", 0x2000000),
    ]
    assert list(PLATFORM_INFO.items()) == [
        ("smt", 0x01),
        ("tsme", 0x02),
        ("ecc", 0x04),
        ("rapl-disabled", 0x08),
        ("ciphertext-hiding", 0x10),
        ("alias-check", 0x20),
        ("tio", 0x80),
        ("other", 0xFFFFFFFFFFFFFF40),
    ]
