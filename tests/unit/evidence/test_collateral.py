"""What comes in from hosts, users and operators, and which leaf of it is tried."""

import base64
import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from ca_service.evidence.snp import AUTHENTICITY, Collateral, read_crl, read_leaf
from ca_service.evidence.snp import evidence as module
from ca_service.evidence.snp.collateral import MOST_LEAVES
from ca_service.judgment import judge_until_failure
from vtpm.snp import LeafForm
from vtpm.snp import der as d
from vtpm.wire.certtable import MAX_TABLE, CertKind, pack_table
from vtpm.wire.report import Product

NOW = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture(scope="session")
def chain(chains):
    return chains[Product.MILAN]


@pytest.fixture(scope="session")
def right(simulated):
    return simulated()


def der(certificate):
    return certificate.public_bytes(Encoding.DER)


def pem(content, label="CERTIFICATE"):
    body = base64.encodebytes(content)
    return f"-----BEGIN {label}-----\n".encode() + body + f"-----END {label}-----\n".encode()


def admitted(subject):
    return judge_until_failure(AUTHENTICITY, subject).admitted


@pytest.mark.parametrize("kind", [CertKind.VCEK, CertKind.VLEK])
@pytest.mark.parametrize("form", [bytes, pem], ids=["der", "pem"])
def test_a_table_brings_leaves(kind, form, simulated):
    leaf = simulated(kind=kind).leaf
    assert Collateral.of_table({kind: form(leaf.der)}) == Collateral(leaves=(leaf,))


def test_a_table_brings_lists(chain):
    crl = chain.crl([5], this_update=NOW)
    for content in (crl, pem(crl, "X509 CRL")):
        assert Collateral.of_table({CertKind.CRL: content}) == Collateral(crls=(read_crl(crl),))


def test_a_table_never_brings_authorities(chain, right):
    everywhere = dict.fromkeys(CertKind, der(chain.ask))
    assert Collateral.of_table(everywhere).authorities == ()
    table = {CertKind.VCEK: right.leaf.der, CertKind.ASK: der(chain.ask), CertKind.ARK: der(chain.ark)}
    assert Collateral.of_table(table) == Collateral(leaves=(right.leaf,))


@pytest.mark.parametrize("wrong", [b"x", b"", bytes(40)], ids=["byte", "empty", "zeros"])
def test_what_cannot_be_read_of_a_table_is_left_out(wrong, right, chain):
    crl = chain.crl(this_update=NOW)
    table = {CertKind.VLEK: wrong, CertKind.VCEK: right.leaf.der, CertKind.CRL: crl}
    assert Collateral.of_table(table) == Collateral((right.leaf,), (), (read_crl(crl),))
    assert Collateral.of_table(table | {CertKind.VCEK: wrong, CertKind.CRL: wrong}) == Collateral()


def test_an_entry_with_two_certificates_is_left_out(right):
    assert Collateral.of_table({CertKind.VCEK: pem(right.leaf.der) * 2}) == Collateral()


def test_files(chain, right, simulated, authority_of):
    vlek = simulated(kind=CertKind.VLEK).leaf
    ask, asvk = authority_of(chain.ask), authority_of(chain.asvk)
    crl = chain.crl(this_update=NOW)
    assert Collateral.of_file(right.leaf.der) == Collateral((right.leaf,))
    assert Collateral.of_file(pem(vlek.der)) == Collateral((vlek,))
    assert Collateral.of_file(der(chain.ask)) == Collateral((), (ask,))
    assert (
        Collateral.of_file(crl)
        == Collateral.of_file(pem(crl, "X509 CRL"))
        == Collateral(crls=(read_crl(crl),))
    )
    run = b"".join(map(pem, (right.leaf.der, ask.der, vlek.der, asvk.der, der(chain.ark))))
    assert Collateral.of_file(run) == Collateral((right.leaf, vlek), (ask, asvk))


def test_a_table_as_a_users_file_brings_no_authorities_either(chain, right):
    crl = chain.crl(this_update=NOW)
    contents = {
        CertKind.VCEK: right.leaf.der,
        CertKind.ASK: pem(der(chain.ask)),
        CertKind.ARK: der(chain.ark),
        CertKind.CRL: crl,
    }
    found = Collateral.of_file(pack_table(contents))
    assert found == Collateral((right.leaf,), (), (read_crl(crl),))
    assert Collateral.of_file(pack_table({CertKind.ASK: der(chain.ark)})) == Collateral()


def test_certificates_and_lists_in_one_pem_file(chain, right, authority_of):
    lists = [chain.crl([number], number=number, this_update=NOW) for number in (1, 2)]
    mixed = (
        pem(lists[0], "X509 CRL")
        + b"text\n"
        + pem(right.leaf.der)
        + pem(lists[1], "X509 CRL")
        + pem(der(chain.ask))
    )
    wanted = Collateral((right.leaf,), (authority_of(chain.ask),), tuple(map(read_crl, lists)))
    assert Collateral.of_file(mixed) == wanted
    assert Collateral.of_file(mixed[:-30]) is None
    assert Collateral.of_file(mixed[:400] + b"!" + mixed[401:]) is None


@pytest.mark.parametrize("lost", ["CERTIFICATE", "X509 CRL"])
def test_a_file_of_which_a_part_cannot_be_read_is_not_read_in_part(chain, right, lost):
    whole = pem(right.leaf.der) + pem(chain.crl(this_update=NOW), "X509 CRL")
    assert Collateral.of_file(whole + pem(b"0", lost)) is None
    assert Collateral.of_file(whole + f"-----BEGIN {lost}-----\nAAAA\n".encode()) is None


def test_a_self_issued_authority_is_left_out(chain):
    assert Collateral.of_file(der(chain.ark)) == Collateral()


@pytest.mark.parametrize("content", [b"", b"x", b"\x30\x00", bytes(23), bytes(MAX_TABLE + 24)])
def test_files_that_are_nothing_of_the_kind(content):
    assert Collateral.of_file(content) is None


def test_an_empty_table_is_a_file_with_nothing_in_it():
    assert Collateral.of_file(bytes(24)) == Collateral()


def test_sums(right, chain, authority_of):
    leaf, ask, crl = right.leaf, authority_of(chain.ask), read_crl(chain.crl(this_update=NOW))
    one, other = Collateral((leaf,), (), (crl,)), Collateral((), (ask,), (crl,))
    assert one + other == Collateral((leaf,), (ask,), (crl, crl))


@given(st.binary(max_size=300))
def test_reading_files_never_raises(content):
    assert Collateral.of_file(content) in (None, Collateral())


@given(data=st.data())
def test_reading_altered_files_never_raises(data, right, chain):
    if not MADE:
        table = pack_table({CertKind.VCEK: right.leaf.der, CertKind.ASK: der(chain.ask)})
        MADE.extend([right.leaf.der, pem(right.leaf.der), table, chain.crl([5], this_update=NOW)])
    content = bytearray(data.draw(st.sampled_from(MADE)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    found = Collateral.of_file(bytes(content))
    assert found is None or isinstance(found, Collateral)


MADE = []


# Which leaf is tried.


def leaf_of(chain, key=None, **changes):
    key = key or ec.generate_private_key(ec.SECP384R1())
    arguments = {"hwid": b"\x01" * 64, "tcb": bytes(8), "not_before": NOW - timedelta(days=2)} | changes
    return read_leaf(chain.issue_vcek(key.public_key(), **arguments))


def fitting(chain, right, **changes):
    """A leaf of the platform's key and TCB."""
    tcb = right.report.reported_tcb
    arguments = {"hwid": right.report.chip_id, "tcb": tcb, "not_before": NOW - timedelta(days=2)} | changes
    return read_leaf(chain.issue_vcek(right.leaf.public_key, **arguments))


def offering(right, *leaves, **changes):
    return dataclasses.replace(right, offered=Collateral(leaves=leaves), **changes)


def test_the_leaf_that_fits_is_found_among_others(right, chain, simulated):
    others = [
        leaf_of(chain),
        fitting(chain, right, not_after=NOW - timedelta(days=1)),
        fitting(chain, right, not_before=NOW + timedelta(days=1)),
        fitting(chain, right, form=LeafForm(signer=chain.asvk_key)),
        fitting(chain, right, common_name="VCEK"),
        simulated(kind=CertKind.VLEK).leaf,
    ]
    for at in range(len(others) + 1):
        subject = offering(right, *others[:at], right.leaf, *others[at:])
        assert subject.leaf == right.leaf
        assert admitted(subject)


def test_the_leaf_that_fits_may_stand_behind_any_number_of_others(right, chain):
    """A user's file may hold the certificates of a whole fleet."""
    other = leaf_of(chain)
    assert admitted(offering(right, *[other] * (MOST_LEAVES + 1), right.leaf))


def test_if_none_fits_the_first_of_the_kind_is_shown(right, chain, simulated):
    wrong = [leaf_of(chain), leaf_of(chain)]
    vlek = simulated(kind=CertKind.VLEK).leaf
    assert offering(right, *wrong).leaf == wrong[0]
    assert offering(right, vlek, *wrong).leaf == wrong[0]
    assert offering(right, vlek).leaf == vlek


def test_no_leaf_is_looked_for_if_no_key_signed(simulated):
    assert simulated(report={"key_flags": 7 << 2}).leaf is None


def test_the_operators_leaf_is_used_when_none_is_sent(right, chain, simulated):
    kept = Collateral(leaves=(leaf_of(chain), simulated(kind=CertKind.VLEK).leaf, right.leaf))
    subject = dataclasses.replace(right, offered=Collateral(), collateral=kept)
    assert subject.leaf == right.leaf
    assert admitted(subject)


def test_the_operators_leaf_is_used_when_the_one_that_is_sent_does_not_fit(right, chain):
    subject = offering(right, leaf_of(chain), collateral=Collateral(leaves=(right.leaf,)))
    assert subject.leaf == right.leaf
    assert admitted(subject)


def test_what_is_sent_goes_first(right, chain):
    kept = fitting(chain, right)
    assert offering(right, right.leaf, collateral=Collateral(leaves=(kept,))).leaf == right.leaf


def test_leaves_are_kept_by_kind_tcb_and_chip(right, chain, simulated):
    tcb = right.report.reported_tcb
    vlek = simulated(kind=CertKind.VLEK)
    kept = Collateral(
        leaves=(
            fitting(chain, right, hwid=b"\x02" * 64),
            fitting(chain, right, tcb=tcb[:7] + b"\x01"),
            fitting(chain, right, tcb=bytes([*tcb[:2], 1, *tcb[3:]])),
            fitting(chain, right, replaced={"1.3.6.1.4.1.3704.1.4": b""}),
            fitting(chain, right, replaced={"1.3.6.1.4.1.3704.1.3.8": b""}),
            vlek.leaf,
            right.leaf,
        )
    )
    assert kept.leaves_for(right.report, CertKind.VCEK) == (right.leaf,)
    assert kept.leaves_for(vlek.report, CertKind.VLEK) == (vlek.leaf,)
    assert kept.leaves_for(right.report, CertKind.ASK) == ()


def test_a_wrapped_chip_id_is_kept_under_the_chip(right, chain):
    wrapped = fitting(chain, right, replaced={"1.3.6.1.4.1.3704.1.4": d.octet_string(right.report.chip_id)})
    assert Collateral(leaves=(wrapped,)).leaves_for(right.report, CertKind.VCEK) == (wrapped,)


def test_a_turin_leaf_is_kept_under_its_eight_bytes(simulated):
    subject = simulated(Product.TURIN)
    kept = Collateral(leaves=(subject.leaf,))
    assert kept.leaves_for(subject.report, CertKind.VCEK) == (subject.leaf,)
    assert admitted(dataclasses.replace(subject, offered=Collateral(), collateral=kept))


def test_those_that_are_valid_longest_go_first_and_not_too_many(right, chain):
    days = [3, 9, 1, 7]
    leaves = [fitting(chain, right, not_after=NOW + timedelta(days=n)) for n in days]
    kept = Collateral(leaves=tuple(leaves))
    assert kept.leaves_for(right.report, CertKind.VCEK) == tuple(leaves[n] for n in (1, 3, 0, 2))
    many = Collateral(leaves=(leaves[0],) * (MOST_LEAVES + 5))
    assert len(many.leaves_for(right.report, CertKind.VCEK)) == MOST_LEAVES


def test_a_requester_cannot_have_any_number_of_leaves_tried(right, chain, monkeypatch):
    wrong, tried = fitting(chain, right, replaced={"1.3.6.1.4.1.3704.1.2": b"\x16\x01x"}), []
    monkeypatch.setattr(module, "verifies", lambda *given: tried.append(given))
    assert offering(right, *[wrong] * (MOST_LEAVES + 9)).leaf == wrong
    assert len(tried) == MOST_LEAVES


def test_a_single_leaf_is_not_verified_to_be_chosen(right, monkeypatch):
    monkeypatch.setattr(module, "verifies", lambda *_: pytest.fail("verified"))
    assert offering(right, right.leaf).leaf == right.leaf
