"""What is remembered between admission and activation is what would be found anew, and never what time can change."""

from dataclasses import replace
from datetime import timedelta

import enrollment_world as w
import pytest

from ca_service.enrollment.claim import Claim
from ca_service.enrollment.judge import Judge
from ca_service.enrollment.submission import Submission
from ca_service.evidence.grant import GRANT_CHECKS, GrantEvidence
from ca_service.evidence.profiles import profile_checks
from ca_service.evidence.snp import (
    AUTHENTICITY,
    CONFIGURATION,
    Collateral,
    SnpEvidence,
    simulated_roots,
)
from ca_service.judgment import UnsafeSkip, is_timeless
from ca_service.policy import checks, load
from ca_service.residency import CERTIFY_CHECKS, KEY_CHECKS, TpmEvidence
from vtpm.snp import SimulatedChain
from vtpm.wire.report import Product


@pytest.fixture
def body(world, enroller, tpms):
    return world.body(enroller.new_nonce().nonce, tpms(0))


@pytest.fixture
def judge(world):
    return Judge.of(world.authority.ca_id, world.authority.mode)


def anew(body):
    """The submission as a process reads it that has never met it."""
    Submission.parse.cache_clear()
    return Submission.parse(body)


def traces(judge, submission, policy, at):
    found = (
        judge.authenticate(submission, at),
        *(judge.decide(submission, policy, at, certify=certify) for certify in (True, False)),
    )
    return [trace.text() for trace in found]


def test_every_judgement_is_that_of_a_process_that_remembers_nothing(world, body, judge):
    policies = [
        load(text)
        for text in (
            world.policy(),
            world.policy(status="suspended"),
            world.policy().replace("snp = 27", "snp = 28"),
            world.policy().replace("max_age_s = 3600", "max_age_s = 10"),
        )
    ]
    policies.append(None)
    judges = [judge, Judge.of("other-ca", "production"), replace(judge, roots=())]
    remembered = Submission.parse(body)
    times = [world.time + timedelta(seconds=seconds) for seconds in (0, 9, 10, 3600, 86400 * 40000)]
    asked = [(who, policy, at) for who in judges for policy in policies for at in times]
    wanted = [traces(who, anew(body), policy, at) for who, policy, at in asked]
    # Each of the three in turn is what changes from one question to the next.
    for step in (1, len(times), len(times) * len(policies)):
        for start in range(step):
            for n in range(start, len(asked), step):
                assert traces(asked[n][0], remembered, *asked[n][1:]) == wanted[n]
    seen = {"".join(found) for found in wanted}
    assert len(seen) > 20


def test_a_new_list_is_heard(world, judge, of_genoa):
    chain, body = of_genoa
    submission, at = Submission.parse(body), world.time
    kept = [Collateral()]
    judge = replace(judge, collateral=lambda: kept[0])
    assert judge.authenticate(submission, at).admitted
    revoked = Collateral.of_file(chain.crl([chain.ask.serial_number], this_update=at))
    kept[0] = revoked
    assert judge.authenticate(submission, at).refusal.rule == "snp.revocation"
    kept[0] = Collateral()
    assert judge.authenticate(submission, at).admitted


@pytest.fixture
def of_genoa(world, enroller, tpms, tmp_path):
    """A chain whose root can still sign lists, and a body of a platform under it."""
    platform = w.Platform.create(tmp_path / "genoa", Product.GENOA, clock=lambda: w.START)
    world.launch = platform.launch([(0x1000 * i, bytes([i]) * 4096) for i in range(2)])
    return SimulatedChain.shipped(Product.GENOA), world.body(enroller.new_nonce().nonce, tpms(0))


class NoClock:
    """A time that must not be looked at."""

    def _looked(self, *_args):
        raise LookupError("somebody looked at the clock")

    __lt__ = __le__ = __gt__ = __ge__ = __sub__ = __rsub__ = __str__ = __format__ = _looked
    timestamp = isoformat = utcoffset = property(_looked)


def timeless_of(check_list, subject):
    """The rules that find something without a look at the clock."""
    found = set()
    for check in check_list:
        try:
            check.judge(subject)
        except LookupError:
            continue
        found.add(check.id)
    return found


def test_who_calls_itself_timeless_looks_at_no_clock(world, body):
    submission, policy, never = Submission.parse(body), load(world.policy()), NoClock()
    data = submission.claims
    snp = SnpEvidence(submission.report, simulated_roots(), never, submission.offered)
    grant = GrantEvidence(data.grant, data.kbs.jwk, submission.report.report_id, data.store.key_id, never)
    sent = submission.request.certify
    tpm = TpmEvidence(data.tpm, data.qualifier, sent.attest, sent.signature)
    judge = Judge.of(world.authority.ca_id, world.authority.mode)
    facts = judge._facts(submission, snp.at_time(world.time), world.time)
    object.__setattr__(facts.launch, "at", never)
    lists = (
        (AUTHENTICITY, snp),
        (CONFIGURATION, snp),
        (GRANT_CHECKS, grant),
        (checks(policy, "simulation"), facts),
        (profile_checks(data.profile), data),
        (KEY_CHECKS, tpm),
        (CERTIFY_CHECKS, tpm),
    )
    timed = set()
    for check_list, subject in lists:
        assert {check.id for check in check_list if is_timeless(check)} <= timeless_of(check_list, subject)
        timed |= {check.id for check in check_list if not is_timeless(check)}
    # Which entry is fit for the profile may be a matter of time where there are several; here is but one.
    assert timed == {"snp.validity", "grant.issued-at", "kbs.valid", "grant.age", "launch.capabilities"}


def test_of_several_leaves_the_time_chooses(world, body, judge):
    submission = Submission.parse(body)
    (leaf,) = submission.offered.leaves
    twice = replace(
        submission, offered=Collateral((leaf, replace(leaf, not_after=leaf.not_after + timedelta(days=9))))
    )
    for seconds in (0, 86400 * 4000, 0):
        at = world.time + timedelta(seconds=seconds)
        snp = judge.evidence(twice, at)
        assert not snp.settled
        assert judge._standing(twice, snp) is None
        assert snp.leaf == SnpEvidence(twice.report, judge.roots, at, twice.offered).leaf


def test_what_a_substitute_found_is_forgotten(world, body, judge):
    submission, policy, at = Submission.parse(body), load(world.policy(status="suspended")), world.time
    unchecked = judge.with_replaced({"kbs.status": UnsafeSkip("kbs.status")})
    for _ in range(2):
        assert unchecked.decide(submission, policy, at, certify=True).admitted
        assert judge.decide(submission, policy, at, certify=True).refusal.rule == "kbs.status"


def test_a_claim_is_that_of_its_policy(world, body):
    submission = Submission.parse(body)
    own, shared = load(world.policy()), load(world.policy(shared="true"))
    for _ in range(2):
        assert Claim.of(submission, own).salt == ""
        assert Claim.of(submission, shared).salt == bytes(16).hex()
