"""What earlier releases have issued counts: each certificate as what it is, and as nothing else."""

import re
from collections import Counter

import pytest
from old_releases import Release
from relying_stage import loaded

from ca_service.export.relying import Trust, judge_certificate
from ca_service.judgment import Verdict

DER = re.compile(r"3082[0-9a-f]{1000,4096}")
LISTS = {"relying.revocation", "relying.issuer-revocation"}
"""The old CAs' lists are not at hand."""


@pytest.mark.parametrize("version", ["0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7"])
def test_each_as_what_it_is(version):
    release = Release(version)
    folder = release.folder / "ca" / "certs"
    trust = Trust.load(folder / "root.pem", sorted(folder.glob("e*.pem")) + sorted(folder.glob("d*.pem")))
    found = Counter()
    for text in sorted(set(DER.findall(release.sql.lower()))):
        der = bytes.fromhex(text)
        try:
            issuer = loaded(der).issuer
        except ValueError:
            continue  # to-be-signed bytes, or a list
        if issuer == trust.root.subject:
            continue
        kinds = []
        for kind in ("ek", "iak", "idevid"):
            trace = judge_certificate(der, kind, trust, release.end)
            if {f.rule for f in trace.findings if f.verdict is Verdict.FAILED} == LISTS:
                kinds.append(kind)
        found[tuple(kinds)] += 1
    assert set(found) == {("ek",), ("iak",), ("idevid",)}
    assert len(set(found.values())) == 1
