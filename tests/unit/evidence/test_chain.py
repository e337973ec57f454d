"""Who may stand between a leaf and a root, where intermediates may come from, and which are revoked."""

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.serialization import Encoding

from ca_service.evidence.snp import (
    AUTHENTICITY,
    Collateral,
    CrlAge,
    amd_roots,
    read_crl,
    simulated_roots,
    unsafe_root,
)
from ca_service.judgment import judge_all, judge_until_failure
from vtpm.snp import LeafForm
from vtpm.snp.authority import authority_certificate
from vtpm.wire.certtable import CertKind, pack_table, parse_table
from vtpm.wire.report import Product

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY, YEAR = timedelta(days=1), timedelta(days=365)
KINDS = [CertKind.VCEK, CertKind.VLEK]
NO_CHAIN = {"snp.chain", "snp.validity", "snp.revocation"}
"""Without a chain there are no dates and no lists to be content with."""

CHECKS = {check.id: check for check in AUTHENTICITY}


def pem(content):
    return x509.load_der_x509_certificate(content).public_bytes(Encoding.PEM)


def failures(subject):
    return {f.rule for f in judge_all(AUTHENTICITY, subject).findings if f.verdict == "failed"}


def first(subject):
    refusal = judge_until_failure(AUTHENTICITY, subject).refusal
    return refusal.rule if refusal else None


def der(certificate):
    return certificate.public_bytes(Encoding.DER)


@pytest.fixture(scope="session")
def chain(chains):
    return chains[Product.MILAN]


@pytest.fixture(scope="session")
def renewed(chain):
    """Function: the Milan service with another ASK or ASVK under the same root."""
    made = {}

    def make(kind):
        if kind not in made:
            made[kind] = chain.issue_intermediate(kind, serial=0x10777, bits=2048)
        return made[kind]

    return make


def intermediate(chain, kind):
    return chain.ask if kind is CertKind.VCEK else chain.asvk


@pytest.mark.parametrize("product", list(Product))
@pytest.mark.parametrize("kind", KINDS)
def test_the_intermediate_of_the_kind_issues(simulated, product, kind, chains):
    subject = simulated(product, kind)
    authority, root = subject.chain
    assert authority.der == der(intermediate(chains[product], kind))
    assert (root, subject.root) == (subject.roots[0],) * 2


@pytest.mark.parametrize("kind", KINDS)
def test_an_asvk_never_stands_for_an_ask_nor_the_reverse(simulated, chain, kind):
    swapped = dataclasses.replace(
        chain, ask=chain.asvk, ask_key=chain.asvk_key, asvk=chain.ask, asvk_key=chain.ask_key
    )
    subject = simulated(kind=kind, chain=swapped)
    assert subject.leaf.kind is kind
    assert failures(subject) == NO_CHAIN


@pytest.mark.parametrize("kind", KINDS)
def test_the_root_itself_issues_no_leaves(simulated, chain, kind, authority_of):
    by_root = dataclasses.replace(
        chain, ask=chain.ark, ask_key=chain.ark_key, asvk=chain.ark, asvk_key=chain.ark_key
    )
    subject = simulated(kind=kind, chain=by_root)
    assert failures(subject) == NO_CHAIN
    given = Collateral(authorities=(authority_of(chain.ark),))
    assert failures(dataclasses.replace(subject, collateral=given)) == NO_CHAIN


def not_an_authority(chain, *, ca):
    """A certificate under the ARK with the ASK's name and key that may not issue, or may."""
    return (
        x509.CertificateBuilder()
        .subject_name(chain.ask.subject)
        .issuer_name(chain.ark.subject)
        .public_key(chain.ask.public_key())
        .serial_number(7)
        .not_valid_before(chain.ark.not_valid_before_utc)
        .not_valid_after(chain.ark.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(chain.ask.extensions.get_extension_for_class(x509.KeyUsage).value, critical=True)
        .sign(
            chain.ark_key,
            hashes.SHA384(),
            rsa_padding=padding.PSS(padding.MGF1(hashes.SHA384()), salt_length=48),
        )
    )


@pytest.mark.parametrize("ca", [True, False])
def test_an_intermediate_must_be_a_ca(simulated, chain, ca):
    subject = simulated()
    bare = tuple(dataclasses.replace(root, authorities=()) for root in subject.roots)
    given = Collateral.of_file(der(not_an_authority(chain, ca=ca)))
    subject = dataclasses.replace(subject, roots=bare, collateral=given)
    assert failures(subject) == (set() if ca else NO_CHAIN)


def test_a_leaf_issues_nothing(simulated):
    """What a processor's key signs may be made to look like a certificate: it is none."""
    key = ec.generate_private_key(ec.SECP384R1())
    issuer = simulated(leaf={"public_key": key.public_key()}).leaf
    forged = simulated(leaf={"form": LeafForm(self_issued=True, signer=key)})
    assert forged.leaf.issuer == issuer.certificate.subject
    forged.leaf.certificate.verify_directly_issued_by(issuer.certificate)
    given = Collateral.of_file(issuer.der)
    assert given.authorities == ()
    assert failures(dataclasses.replace(forged, collateral=given)) == NO_CHAIN


def test_there_is_one_intermediate_and_not_two(simulated, chain, renewed, authority_of):
    """An ASK under an ASK: its path length is 0, and AMD has none such."""
    below = renewed(CertKind.VCEK)
    certificate = authority_certificate(
        "SEV-Test-Milan",
        below.ask.public_key(),
        "SEV-Test-Milan",
        chain.ask_key,
        9,
        chain.ark.not_valid_before_utc,
    )
    subject = simulated(chain=dataclasses.replace(below, ask=certificate))
    given = Collateral(authorities=(authority_of(certificate),))
    assert failures(dataclasses.replace(subject, collateral=given)) == NO_CHAIN


@pytest.mark.parametrize("kind", KINDS)
def test_where_an_unknown_intermediate_may_come_from(simulated, renewed, kind, authority_of):
    service = renewed(kind)
    subject = simulated(kind=kind, chain=service)
    known = authority_of(intermediate(service, kind))
    assert failures(subject) == NO_CHAIN
    table = {kind: subject.leaf.der, CertKind.ASK: known.der, CertKind.ARK: der(service.ark)}
    of_host = Collateral.of_table(parse_table(pack_table(table)))
    assert failures(dataclasses.replace(subject, offered=of_host)) == NO_CHAIN
    for file, wanted in ((pack_table(table), NO_CHAIN), (pem(known.der) + pem(subject.leaf.der), set())):
        of_user = Collateral.of_file(file)
        assert failures(dataclasses.replace(subject, offered=of_user)) == wanted
    of_operator = Collateral.of_file(known.der)
    subject = dataclasses.replace(subject, collateral=of_operator)
    assert failures(subject) == set()
    assert subject.chain == (known, subject.roots[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_look_alike_root_leads_nowhere(simulated, look_alike, chain, kind, authority_of):
    """Every name is the trusted service's; only the keys are not."""
    subject = simulated(kind=kind, chain=look_alike)
    theirs = tuple(map(authority_of, (look_alike.ask, look_alike.asvk)))
    given = Collateral(authorities=(*theirs, authority_of(look_alike.ark)))
    assert subject.leaf.issuer == intermediate(chain, kind).subject
    for changed in ({}, {"collateral": given}, {"offered": subject.offered + given}):
        assert failures(dataclasses.replace(subject, **changed)) == NO_CHAIN
    (ours,) = subject.roots
    mixed = [
        dataclasses.replace(ours, authorities=theirs),
        dataclasses.replace(ours, ark=authority_of(look_alike.ark)),
    ]
    assert failures(dataclasses.replace(subject, roots=tuple(mixed))) == NO_CHAIN
    named = unsafe_root(der(look_alike.ark))
    trusting = dataclasses.replace(subject, roots=(named,), collateral=given)
    assert failures(trusting) == set()
    assert trusting.root.simulated


def test_foreign_roots(simulated, chains, root_of):
    right = simulated()
    others = tuple(root_of(chains[product]) for product in (Product.GENOA, Product.TURIN))
    for roots in ((), amd_roots(), simulated_roots(), others):
        assert failures(dataclasses.replace(right, roots=roots)) == NO_CHAIN
    assert failures(dataclasses.replace(right, roots=(*others, *right.roots))) == set()


def test_a_root_that_is_not_self_signed(simulated, chains, root_of, authority_of):
    milan, genoa = chains[Product.MILAN], chains[Product.GENOA]
    crossed = authority_certificate(
        "ARK-Test-Milan",
        milan.ark.public_key(),
        "ARK-Test-Genoa",
        genoa.ark_key,
        1,
        milan.ark.not_valid_before_utc,
    )
    milan.ask.verify_directly_issued_by(crossed)
    root = dataclasses.replace(root_of(milan), ark=authority_of(crossed))
    assert failures(simulated(evidence={"roots": (root,)})) == NO_CHAIN


def test_the_requester_reads_nothing_of_the_roots_but_the_operator_does(simulated):
    finding = CHECKS["snp.chain"].judge(dataclasses.replace(simulated(), roots=amd_roots()))
    assert "ARK" not in finding.reason
    assert finding.expected == "ARK-Genoa, ARK-Milan, ARK-Turin"
    assert "SEV-Test-Milan" in finding.actual
    assert CHECKS["snp.chain"].judge(dataclasses.replace(simulated(), roots=())).expected == "no root"


@pytest.mark.parametrize("kind", KINDS)
def test_dates_of_the_intermediate(simulated, chain, kind, authority_of):
    start, end = NOW - DAY, NOW + DAY
    service = chain.issue_intermediate(kind, serial=3, bits=2048, not_before=start, not_after=end)
    subject = simulated(kind=kind, chain=service, leaf={"not_before": NOW - YEAR, "not_after": NOW + YEAR})
    given = Collateral(authorities=(authority_of(intermediate(service, kind)),))
    subject = dataclasses.replace(subject, collateral=given)
    for at, rules in (
        (start, set()),
        (end, set()),
        (start - timedelta(seconds=1), {"snp.validity"}),
        (end + timedelta(seconds=1), {"snp.validity"}),
    ):
        changed = dataclasses.replace(subject, at=at)
        assert failures(changed) == rules
        if rules:
            assert "SEV-" in CHECKS["snp.validity"].judge(changed).reason


def test_dates_of_the_root(simulated, chain, authority_of):
    late = chain.ark.not_valid_after_utc + timedelta(seconds=1)
    service = chain.issue_intermediate(serial=3, bits=2048, not_after=late + YEAR)
    subject = simulated(chain=service, leaf={"not_after": late + YEAR})
    given = Collateral(authorities=(authority_of(service.ask),))
    subject = dataclasses.replace(subject, collateral=given, at=late)
    assert failures(subject) == {"snp.validity"}
    assert "ARK-Test-Milan" in CHECKS["snp.validity"].judge(subject).reason


# Revocation.


def listing(*ders):
    return Collateral(crls=tuple(map(read_crl, ders)))


def kept(subject, *ders):
    return dataclasses.replace(subject, collateral=subject.collateral + listing(*ders))


def sent(subject, *ders):
    return dataclasses.replace(subject, offered=subject.offered + listing(*ders))


BOTH = pytest.mark.parametrize("how", [kept, sent])


@BOTH
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("age", [DAY, 10 * YEAR, -DAY])
def test_a_list_revokes_however_old_it_is(simulated, chain, kind, how, age):
    made = NOW - age
    subject = simulated(kind=kind)
    serial = intermediate(chain, kind).serial_number
    crl = chain.crl([1, serial, 2], this_update=made, next_update=made + DAY)
    assert failures(how(subject, crl)) == {"snp.revocation"}
    newer = chain.crl([], number=9, this_update=NOW)
    assert failures(how(subject, newer, crl)) == failures(how(subject, crl, newer)) == {"snp.revocation"}


@BOTH
def test_the_root_itself_may_be_listed(simulated, chain, how):
    crl = chain.crl([chain.ark.serial_number], this_update=NOW)
    assert failures(how(simulated(), crl)) == {"snp.revocation"}


@BOTH
def test_others_that_are_listed_do_not_matter(simulated, chain, how):
    crl = chain.crl([1, 2, chain.asvk.serial_number], this_update=NOW)
    subject = how(simulated(), crl)
    assert failures(subject) == set()
    assert subject.crls == (read_crl(crl),)
    assert failures(how(simulated(kind=CertKind.VLEK), crl)) == {"snp.revocation"}


def test_without_a_list_nothing_is_revoked(simulated):
    subject = simulated()
    assert (subject.crls, subject.crl_issued_at) == ((), None)
    assert CHECKS["snp.revocation"].judge(subject).actual == "no list"


@BOTH
def test_a_revoked_intermediate_that_is_given_and_not_needed(simulated, chain, renewed, how, authority_of):
    """Who gives it means it: the chain is not mended behind his back."""
    old = authority_of(renewed(CertKind.VCEK).ask)
    offered = simulated().offered + Collateral(authorities=(old,))
    subject = dataclasses.replace(simulated(), offered=offered)
    assert failures(subject) == set()
    assert failures(how(subject, chain.crl([old.serial], this_update=NOW))) == {"snp.revocation"}


def test_a_list_that_the_root_did_not_sign(simulated, chain, chains, look_alike):
    forged = look_alike.crl([chain.ask.serial_number], this_update=NOW)
    empty = look_alike.crl([], this_update=NOW)
    for crl in (forged, empty):
        # The host's counts for nothing, the operator's is missed.
        assert failures(sent(simulated(), crl)) == set()
        assert sent(simulated(), crl).crls == ()
        assert failures(kept(simulated(), crl)) == {"snp.revocation"}
    genoa = chains[Product.GENOA].crl([chain.ask.serial_number], this_update=NOW)
    assert failures(kept(simulated(), genoa)) == failures(sent(simulated(), genoa)) == set()


# How old a list may be.


def test_without_a_list_none_is_fresh(simulated):
    assert CrlAge(100 * YEAR).judge(simulated()).verdict == "failed"


@BOTH
@pytest.mark.parametrize(
    ("age", "verdict"), [(9, "passed"), (10, "passed"), (10.001, "failed"), (400, "failed")]
)
def test_the_newest_list_is_at_most_so_old(simulated, chain, how, age, verdict):
    lists = [chain.crl([], this_update=(NOW - days * DAY).replace(microsecond=0)) for days in (500, age, 600)]
    subject = how(simulated(), *lists)
    finding = CrlAge(10 * DAY).judge(subject)
    assert finding.rule == "snp.crl-age"
    assert finding.verdict == verdict
    # Only a policy that asks for fresh lists makes age a fault.
    assert failures(subject) == set()


def test_another_roots_list_is_none(simulated, chains, look_alike):
    genoa = chains[Product.GENOA].crl([], this_update=NOW)
    forged = look_alike.crl([], this_update=NOW)
    for crl in (genoa, forged):
        assert CrlAge(DAY).judge(sent(simulated(), crl)).verdict == "failed"
        assert CrlAge(DAY).judge(kept(simulated(), crl)).verdict == "failed"


def test_without_a_chain_there_is_no_list_to_be_fresh(simulated, chain):
    subject = kept(simulated(evidence={"roots": ()}), chain.crl([], this_update=NOW))
    assert CrlAge(DAY).judge(subject).verdict == "failed"
