"""What docs/protocol.md states and the code can confirm: limits, codes, templates, files."""

import re
from pathlib import Path

import pytest

from ca_service.api.problems import problem_of
from ca_service.enrollment.desk import refused
from ca_service.evidence.profiles import PROFILE_ISSUED
from ca_service.judgment import BadRequest, Finding, NotFound, Refused, Unavailable, Verdict
from vtpm.wire import (
    amd_evidence,
    aproxy,
    enrollment,
    enrollment_replies,
    grant,
    log,
    merkle,
    public_area,
    runtime_data,
    services,
    statements,
)
from vtpm.wire.templates import Role, templates

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "protocol.md").read_text()


def section(title):
    return TEXT.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("6 Evidence", f"at most {runtime_data.MAX_RUNTIME_DATA:,} bytes"),
        ("6 Evidence", f"at most {public_area.MAX_PUBLIC:,} bytes"),
        ("6 Evidence", f"array of 1 to {statements.MAX_EKS} keys"),
        ("6 Evidence", f"hex of 1 to {statements.MAX_SALT} bytes"),
        ("6 Evidence", f"b64url of 1 to {amd_evidence.MAX_EVIDENCE_MANIFEST:,} bytes"),
        ("6 Evidence", f"at most {amd_evidence.MAX_KBS_SERVICE:,} bytes"),
        ("6 Evidence", f"| vTPM | `{services.VTPM_SERVICE}` |"),
        ("6 Evidence", f"| KBS | `{services.KBS_SERVICE}` |"),
        ("6 Evidence", f"GUID {services.SERVICES_GUID} ||"),
        ("7 The CA over HTTP", "`svsm-vtpm-ca:1`, `amd-svsm-services` or `amd-svsm-vtpm:0`"),
        ("5 The KBS grant", f"at most {grant.MAX_GRANT:,} characters"),
        ("7 The CA over HTTP", f"at most {enrollment.MAX_BODY:,} bytes"),
        ("7 The CA over HTTP", f"b64url of {enrollment.REPORT_SIZE:,} bytes"),
        ("7 The CA over HTTP", f"b64url of at most {enrollment.MAX_CERTIFICATE_TABLE:,} bytes"),
        ("7 The CA over HTTP", f"jws, at most {enrollment.MAX_EAR:,} characters"),
        ("7 The CA over HTTP", f"b64url of 1 to {enrollment.MAX_ATTEST:,} bytes"),
        ("7 The CA over HTTP", f"b64url of 1 to {enrollment.MAX_ACTIVATION_SECRET} bytes"),
        ("7 The CA over HTTP", f"at most {enrollment_replies.MAX_CREDENTIAL_BLOB} bytes"),
        ("7 The CA over HTTP", f"at most {enrollment_replies.MAX_ENCRYPTED_SECRET} bytes"),
        ("7 The CA over HTTP", f"b64url of 1 to {enrollment_replies.MAX_CERTIFICATE:,} bytes"),
        ("7 The CA over HTTP", f"array of 1 to {enrollment_replies.MAX_CHAIN} b64url"),
        ("7 The CA over HTTP", f"b64url of 1 to {log.MAX_LEAF:,} bytes"),
        ("7 The CA over HTTP", f"array of 0 to {merkle.MAX_PATH} b64url of 32 bytes"),
        ("7 The CA over HTTP", f"decimal, at most {merkle.MAX_TREE_SIZE}"),
        ("7 The CA over HTTP", f"b64url of 1 to {log.MAX_CHECKPOINT:,} bytes"),
        ("7 The CA over HTTP", ", ".join(f"`{s}`" for s in enrollment_replies.ENROLLMENT_STATES)),
        ("10 The relay through the host", f"length at most {aproxy.MAX_FRAME:,}"),
    ],
)
def test_limits_are_those_of_the_code(place, value):
    assert value in section(place)


def test_templates_are_those_of_the_code():
    rows = {
        line.split("|")[1].strip(): line for line in section("3 Keys of the TPM").splitlines() if "|" in line
    }
    for role, title in ((Role.EK, "EK"), (Role.IAK, "IAK")):
        _, ids, nv, handles = (cell.strip() for cell in rows[title].strip("|").split("|"))
        assert re.findall(r"`([A-Z]-[0-9]+)`", ids) == [t.id for t in templates(role)]
        assert nv.split(", ") == list(dict.fromkeys(f"{t.nv_index:08X}" for t in templates(role)))
        assert handles.split(", ") == list(dict.fromkeys(f"{t.persistent:08X}" for t in templates(role)))


def test_the_vector_files_are_all_named():
    named = set(re.findall(r"`([a-z_]+\.json)`", section("11 Test vectors")))
    assert named == {path.name for path in (ROOT / "tests" / "vectors" / "protocol").glob("*.json")}


def test_problem_codes_are_in_the_table():
    finding = Finding(PROFILE_ISSUED, Verdict.FAILED, "no")
    errors = (
        BadRequest("a", "b"),
        refused(finding),
        Refused("a.b", "c"),
        NotFound("a"),
        Unavailable("a"),
        RuntimeError("x"),
    )
    for error in errors:
        problem = problem_of(error)
        row = next(line for line in section("8 Problems").splitlines() if f"`{problem.code}`" in line)
        assert row.startswith(f"| {problem.status} |")


def test_links_within_the_page_lead_somewhere():
    titles = {
        re.sub(r"[^a-z0-9 -]", "", line[3:].lower()).replace(" ", "-")
        for line in TEXT.splitlines()
        if line.startswith("## ")
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) == titles
