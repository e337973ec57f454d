"""Certificates with the longest fields that anything in them may have still fit where their consumers keep them."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from asn1crypto import core
from asn1crypto import x509 as asn1
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ca_service.judgment import Verdict
from ca_service.keys.documents import MAX_OCSP_URL
from ca_service.profiles import (
    IssuerInfo,
    LintFailed,
    assemble,
    contract_report,
    draft_issuing,
    draft_root,
    lint,
    new_serial,
    oids,
)
from ca_service.profiles.extensions import brief_provenance_extension, provenance_extension
from ca_service.profiles.sizes import LONGEST_SIGNATURE, NV_SIZE, signed_size
from vtpm.wire.runtime_data import TpmSpec
from vtpm.wire.templates import Role

KINDS = ("P-256", "P-384", "P-521", "RSA-2048", "RSA-3072")
ROOM = {"RSA-2048": 1536, "RSA-3072": NV_SIZE}
KEYLIME_COLUMN = 1536
LONGEST_URLS = {False: "http://" + "a" * 57, True: "http://" + "a" * (MAX_OCSP_URL - 7)}
"""What a ceremony takes without and with OCSP."""
LONGEST_RESOURCE = "r" * 60 + "/" + "t" * 33 + "/" + "n" * 33
PROVENANCE = oids.PROVENANCE.dotted_string


@pytest.fixture(scope="module", params=[False, True], ids=["no-ocsp", "ocsp"])
def longest(request, cas):
    """Issuing CAs with the longest names and URL that a ceremony takes, and the most lists."""
    url = LONGEST_URLS[request.param]
    lifetime = cas.root.info.validity
    common = {"organization": "O" * 64, "mode": "simulation", "validity": lifetime}

    def signed(draft, key):
        der = assemble(draft.tbs, key.sign(draft.tbs, ec.ECDSA(hashes.SHA384())))
        return x509.load_der_x509_certificate(der)

    key = ec.generate_private_key(ec.SECP384R1())
    serial = lambda: new_serial(127, lambda size: b"\xff" * size)  # noqa: E731 - the shortest way to say it
    root = draft_root(public_key=key.public_key(), serial=serial(), **common)
    root_info = IssuerInfo(signed(root, key), url, "root")
    made = {}
    for role in ("ek", "devid", "ephemeral"):
        public = ec.generate_private_key(ec.SECP384R1()).public_key()
        draft = draft_issuing(
            role, pair="p" * 24, public_key=public, serial=serial(), issuer=root_info, **common
        )
        made[role] = IssuerInfo(signed(draft, key), url, role, 256, ocsp=request.param)
    return SimpleNamespace(**made)


@pytest.fixture(scope="module")
def origin(provenance):
    return replace(provenance, resource=LONGEST_RESOURCE)


@pytest.fixture(scope="module")
def make(make_ek, make_devid, make_webauthn, longest, origin):
    """A draft with the longest fields, by profile and kind of key; and its issuer."""

    def made(profile, kind, **changes):
        common = {"manufacturer": "00001014", "provenance": origin} | changes
        if profile == "ek":
            common |= {"vendor": "v" * 16, "spec": TpmSpec("9.99", "9999999999", "9999999999")}
            return make_ek(kind, **({"issuer": longest.ek} | common)), longest.ek
        common |= {"ek_aki": longest.ek.key_id}
        if profile == "iak-webauthn":
            common |= {"vendor": "v" * 16, "firmware": "f" * 16}
            return make_webauthn(kind, **({"issuer": longest.devid} | common)), longest.devid
        return make_devid(Role(profile), kind, **({"issuer": longest.devid} | common)), longest.devid

    return made


def provenance_of(draft):
    extensions = asn1.TbsCertificate.load(draft.tbs, strict=True)["extensions"]
    return next(e["extn_value"].contents for e in extensions if e["extn_id"].native == PROVENANCE)


def version_of(draft):
    return core.Sequence.load(provenance_of(draft), strict=True)[0].native


@pytest.mark.parametrize("kind", KINDS)
def test_the_longest_fields_fit(make, kind):
    draft, issuer = make("ek", kind)
    lint(draft, issuer)
    assert signed_size(draft.tbs) < NV_SIZE
    assert version_of(draft) == 1
    for profile in ("iak", "idevid", "iak-webauthn"):
        draft, issuer = make(profile, kind)
        lint(draft, issuer)
        assert signed_size(draft.tbs) < ROOM.get(kind, 1400)
        sized = {r.consumer: r.failed for r in contract_report(draft)}["keylime"]
        assert ("compat.keylime.size" in sized) == (signed_size(draft.tbs) > KEYLIME_COLUMN)


@pytest.mark.parametrize("kind", KINDS)
def test_the_longest_ephemeral_ones_fit(make, kind, longest, origin, ephemeral):
    for profile in ("amd-svsm-services", "amd-svsm-vtpm:0"):
        granted = profile != "amd-svsm-vtpm:0"
        changes = ephemeral(profile) | {
            "issuer": longest.ephemeral,
            "provenance": replace(
                origin,
                profile=profile,
                ephemeral=True,
                resource=origin.resource if granted else None,
                kbs_thumbprint=origin.kbs_thumbprint if granted else None,
            ),
        }
        for name in ("iak", "idevid", "iak-webauthn"):
            draft, _ = make(name, kind, **changes)
            lint(draft, longest.ephemeral)
            assert signed_size(draft.tbs) < ROOM.get(kind, 1400)
            assert granted or version_of(draft) == 2


def test_the_size_is_that_of_the_longest_signature(make):
    draft, _ = make("iak", "P-521")
    top = (1 << 383) - 1 | 1 << 383
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature  # noqa: PLC0415

    signature = encode_dss_signature(top, top)
    assert len(signature) == LONGEST_SIGNATURE
    assert len(assemble(draft.tbs, signature)) == signed_size(draft.tbs)


def test_what_is_left_out_stands_in_the_ek_certificate(make, origin):
    iak, _ = make("iak", "P-384")
    ek, _ = make("ek", "P-384")
    assert version_of(iak) == 3
    brief = core.Sequence.load(provenance_of(iak), strict=True)
    whole = core.Sequence.load(provenance_of(ek), strict=True)
    assert [brief[i].native for i in (1, 2, 3, 4)] == [whole[i].native for i in (1, 2, 4, 5)]
    assert len(brief) == 5
    assert whole[3].native == origin.resource
    assert whole[6].native == origin.decision_id


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_out_where_there_is_room(make_devid, make_webauthn, provenance, kind):
    """Resources, URLs and names of the usual length leave room for everything."""
    for draft in (make_devid(Role.IAK, kind), make_devid(Role.IDEVID, kind), make_webauthn(kind)):
        assert version_of(draft) == 1
        assert provenance.resource.encode() in provenance_of(draft)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.integers(5, 128), kind=st.sampled_from(["P-256", "P-521", "RSA-2048"]))
def test_any_length_is_drafted_so_that_it_passes(make, origin, length, kind):
    resource = "a/b/" + "c" * (length - 4)
    draft, issuer = make("iak", kind, provenance=replace(origin, resource=resource))
    lint(draft, issuer)
    assert signed_size(draft.tbs) < ROOM.get(kind, 1400)


def failures(draft, issuer):
    with pytest.raises(LintFailed) as caught:
        lint(draft, issuer)
    return {f.rule for f in caught.value.trace.findings if f.verdict is Verdict.FAILED}


def test_the_lint_takes_a_brief_one_only_where_it_must(make_devid, cas, changed, make, origin):
    """Nobody can hide a resource in a certificate that has room for it, nor keep it in one that has none."""
    draft = make_devid(Role.IAK, "P-384")
    value, _ = brief_provenance_extension(draft.content.provenance)
    assert failures(changed(draft, extensions={PROVENANCE: value}), cas.devid.info) == {"lint.provenance"}
    draft, issuer = make("iak", "P-384")
    value, _ = provenance_extension(origin)
    assert {"lint.size", "lint.provenance"} <= failures(
        changed(draft, extensions={PROVENANCE: value}), issuer
    )


def test_an_ek_certificate_is_never_brief(make_ek, cas, changed):
    draft = make_ek()
    value, _ = brief_provenance_extension(draft.content.provenance)
    assert failures(changed(draft, extensions={PROVENANCE: value}), cas.ek.info) == {"lint.provenance"}


def test_without_a_grant_there_is_nothing_to_leave_out(provenance):
    bare = replace(provenance, kbs_thumbprint=None, resource=None)
    with pytest.raises(ValueError, match="nothing to leave out"):
        brief_provenance_extension(bare)
