"""The verdict on a report from files: read what was given, judge, and lay out what was found."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from ca_service.cli.files import read_start
from ca_service.evidence.snp import (
    AUTHENTICITY,
    CONFIGURATION,
    Collateral,
    CrlAge,
    Root,
    SnpEvidence,
    amd_roots,
    read_crls,
    split_pem,
    unsafe_root,
)
from ca_service.evidence.snp import description as describe
from ca_service.judgment import BadRequest, Trace, judge_all, judge_until_failure
from ca_service.policy import LaunchFacts, Policy, launch_checks, load
from vtpm.wire.errors import WireError
from vtpm.wire.report import CPUID_SINCE, Product, Report

MAX_FILE = 16 * 1024 * 1024
"""How much of a file is read, in bytes: all of any policy document, and more than anything else here may have."""

VALID, INVALID = "VALID", "INVALID"
_OK = "ok"


class Unreadable(Exception):
    """A file could be opened and is not what it should be.

    Attributes:
        reason: code of the verdict.
        detail: one sentence for people.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Question:
    """What is to be judged, by what, and as at when.

    Attributes:
        report: file of the report.
        certs: files of certificates and certificate tables.
        crls: files of revocation lists.
        product: the only product that is wanted; None for any.
        at: the time to verify at, aware.
        unsafe_root: file of an ARK to trust instead of AMD's.
        crl_max_age: how old the newest list may be; None does not ask.
        policy: file of an allow-list to judge by too.
    """

    report: Path
    certs: tuple[Path, ...]
    crls: tuple[Path, ...]
    product: Product | None
    at: datetime
    unsafe_root: Path | None
    crl_max_age: timedelta | None
    policy: Path | None


def read_report(content: bytes) -> Report:
    """A report; raises `Unreadable` if it has not a report's size."""
    try:
        return Report.parse(content, "the report")
    except WireError as error:
        raise Unreadable("report-malformed", str(error)) from None


def answer(question: Question) -> dict[str, Any]:
    """The verdict as plain values: verdict, reason code, and everything that led to it.

    Raises:
        BadRequest: a file cannot be opened.
    """
    contents = {
        path: read_start(path, MAX_FILE)
        for path in (
            question.report,
            *question.certs,
            *question.crls,
            *filter(None, (question.unsafe_root, question.policy)),
        )
    }
    result: dict[str, Any] = {
        "verdict": INVALID,
        "reason": "",
        "detail": "",
        "at": question.at.isoformat(),
        "unsafe_root": None,
        "product": None,
        "policy": None,
        "certificates": {"leaf": None, "authority": None, "root": None},
        "crls": [],
        "crls_unused": [],
        "report": None,
        "tcb": None,
        "checks": [],
    }
    try:
        report = read_report(contents[question.report])
        result["report"] = describe.describe_report(report)
        if report.version >= CPUID_SINCE:
            result["product"] = describe.stated_product(report)
        result["tcb"] = describe.describe_tcbs(report, describe.stated_product(report))
        subject = SnpEvidence(
            report=report,
            roots=_roots(question.unsafe_root, contents),
            at=question.at,
            offered=_certificates((path, contents[path]) for path in question.certs),
            collateral=_lists((path, contents[path]) for path in question.crls),
            expected_product=question.product,
        )
        policy = None if question.policy is None else _policy(contents[question.policy])
    except Unreadable as error:
        return result | {"reason": error.reason, "detail": error.detail}
    if question.unsafe_root is not None:
        result["unsafe_root"] = str(question.unsafe_root)
    trace = _judge(subject, question.crl_max_age, policy)
    return result | _description(subject) | _verdict(trace, policy)


def _judge(subject: SnpEvidence, crl_max_age: timedelta | None, policy: Policy | None) -> Trace:
    checks = AUTHENTICITY if crl_max_age is None else (*AUTHENTICITY, CrlAge(crl_max_age))
    trace = judge_until_failure(checks, subject)
    if not trace.admitted or policy is None:
        return trace
    simulated = subject.root is None or subject.root.simulated
    facts = LaunchFacts(
        report=subject.report,
        product=subject.product,
        simulated=simulated,
        crl_issued_at=subject.crl_issued_at,
        at=subject.at,
    )
    # Which CA the policy is for, a file does not say: an unsafe root is what only a simulation CA would trust.
    mode = "simulation" if simulated else "production"
    return trace + judge_all(CONFIGURATION, subject) + judge_all(launch_checks(policy, mode), facts)


def _verdict(trace: Trace, policy: Policy | None) -> dict[str, Any]:
    refusal = trace.refusal
    asked = "" if policy is None else ", and the policy allows this launch on this platform"
    return {
        "verdict": VALID if trace.admitted else INVALID,
        "reason": _OK if refusal is None else refusal.rule,
        "detail": f"the report is authentic{asked}" if refusal is None else refusal.reason,
        "policy": None if policy is None else policy.digest,
        "checks": trace.to_json(),
    }


def _description(subject: SnpEvidence) -> dict[str, Any]:
    authority, root = subject.chain or (None, None)
    product = subject.product
    return {
        "product": product,
        "tcb": describe.describe_tcbs(subject.report, product or describe.stated_product(subject.report)),
        "certificates": {
            "leaf": None if subject.leaf is None else describe.describe_leaf(subject.leaf, product),
            "authority": None if authority is None else describe.describe_authority(authority),
            "root": None if root is None else describe.describe_authority(root.ark),
        },
        "crls": [describe.describe_crl(crl) for crl in subject.crls],
        "crls_unused": [
            describe.describe_crl(crl) for crl in subject.collateral.crls if crl not in subject.crls
        ],
    }


def _roots(path: Path | None, contents: dict[Path, bytes]) -> tuple[Root, ...]:
    if path is None:
        return amd_roots()
    roots = [root for root in map(unsafe_root, split_pem(contents[path]) or []) if root is not None]
    if len(roots) != 1:
        raise Unreadable("root-malformed", f"{path} does not hold exactly one self-signed root such as AMD's")
    # A chain as AMD's service gives it holds the ASK beside the ARK.
    beside = Collateral.of_file(contents[path]) or Collateral()
    return (replace(roots[0], authorities=beside.authorities),)


def _certificates(files: Iterable[tuple[Path, bytes]]) -> Collateral:
    found = Collateral()
    for path, content in files:
        read = Collateral.of_file(content)
        if read is None:
            raise Unreadable(
                "certificate-malformed", f"{path} holds no certificate in DER or PEM, nor a table of them"
            )
        found += read
    return found


def _lists(files: Iterable[tuple[Path, bytes]]) -> Collateral:
    found = Collateral()
    for path, content in files:
        crls = read_crls(content)
        if crls is None:
            raise Unreadable("crl-malformed", f"{path} is no revocation list in DER or PEM")
        found += Collateral(crls=crls)
    return found


def _policy(content: bytes) -> Policy:
    try:
        return load(content.decode("utf-8"))
    except UnicodeDecodeError:
        raise Unreadable("policy-invalid", "the policy must be UTF-8 text") from None
    except BadRequest as error:
        raise Unreadable("policy-invalid", error.detail) from None
