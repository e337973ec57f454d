"""The short way of reading sees what both readers see in the whole, or nothing; what is remembered changes nothing."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat import asn1
from draft_bytes import by_parts, cut, with_tbs
from hypothesis import example, given
from hypothesis import strategies as st

from ca_service.profiles import (
    LintFailed,
    LintPassed,
    lint,
    oids,
    own_forms,
    reader_asn1crypto,
    reader_cryptography,
    reading,
)
from ca_service.profiles import rules as rules_of_the_lint
from ca_service.profiles.encoding import assemble, der_value
from ca_service.profiles.outline import STEADY, outline
from ca_service.profiles.parts import Parts
from ca_service.profiles.view import AKI, PROVENANCE, SAN, OtherNameView
from vtpm.wire.templates import Role

KINDS = ("RSA-2048", "RSA-3072", "P-256", "P-384", "P-521")
THREADS = 16
PLACES = st.integers(0, 1 << 16)
"""Modulo the length: drafts are not equally long in any two runs, but what is drawn shall have one form."""


@pytest.fixture(scope="module")
def drafts(make_ek, make_devid, make_webauthn, cas):
    """(draft, issuer) of all profiles and kinds of keys."""
    made = [(cas.root_draft, None), (cas.ek_draft, cas.root.info)]
    for kind in KINDS:
        made.append((make_ek(kind), cas.ek.info))
        made += [(make_devid(role, kind), cas.devid.info) for role in (Role.IAK, Role.IDEVID)]
        made.append((make_webauthn(kind), cas.devid.info))
    return made


def whole(tbs):
    """What the readers see in the whole certificate, each for itself."""
    der = assemble(tbs, b"\x30\x06\x02\x01\x01\x02\x01\x01")
    return reader_cryptography.read(der), reader_asn1crypto.read(der)


def forget():
    for remembered in (
        reading._name,
        reading._validity,
        reading._extension,
        reader_cryptography.read_key,
        rules_of_the_lint._are_steadily_content,
    ):
        remembered.cache_clear()


def judged(draft, issuer):
    """The findings of a lint; nothing if the draft passes."""
    try:
        lint(draft, issuer)
    except LintFailed as error:
        return error.trace
    return None


def test_the_short_way_sees_what_both_readers_see(drafts):
    for draft, _ in drafts:
        first, second = whole(draft.tbs)
        assert by_parts(draft.tbs) == first == second


@given(st.data())
def test_of_other_bytes_it_sees_what_both_see_or_nothing(drafts, data):
    tbs = data.draw(st.sampled_from(drafts))[0].tbs
    assert by_parts(tbs) is not None  # so its parts are remembered
    start = data.draw(PLACES) % len(tbs)
    size = data.draw(st.integers(0, 3))
    other = tbs[:start] + data.draw(st.binary(max_size=3)) + tbs[start + size :]
    seen = by_parts(other)
    if seen is not None:
        assert (seen, seen) == whole(other)


@given(st.data())
def test_memory_changes_no_verdict(drafts, data):
    """Right after a draft has passed, one with a changed octet is judged as if nothing had been read before."""
    draft, issuer = data.draw(st.sampled_from(drafts))
    place = data.draw(PLACES) % len(draft.tbs)
    octet = data.draw(st.integers(0, 255))
    other = with_tbs(draft, draft.tbs[:place] + bytes([octet]) + draft.tbs[place + 1 :])
    assert judged(draft, issuer) is None
    warm = judged(other, issuer)
    forget()
    assert judged(other, issuer) == warm


def test_a_part_is_known_by_all_its_bytes(drafts, cas):
    """Every octet of every extension of an EK certificate counts, also after the extension was read."""
    draft, issuer = drafts[2]
    lint(draft, issuer)
    for extension in cut(draft.tbs).extensions:
        at = draft.tbs.index(extension)
        for place in range(at, at + len(extension)):
            other = bytearray(draft.tbs)
            other[place] ^= 1
            assert judged(with_tbs(draft, bytes(other)), issuer) is not None


def test_what_was_found_under_one_issuer_says_nothing_under_another(drafts, cas):
    draft, issuer = drafts[2]
    lint(draft, issuer)
    elsewhere = replace(issuer, publication_url="http://elsewhere.example.org")
    other_key = replace(issuer, certificate=cas.devid.info.certificate)
    other_role = replace(issuer, role="devid")
    wrong = [
        {finding.rule for finding in judged(draft, other).findings if finding.verdict == "failed"}
        for other in (elsewhere, other_key, other_role)
    ]
    assert {"lint.authority-info-access", "lint.crl-distribution-points"} <= wrong[0]
    assert "lint.authority-key-id" in wrong[1]
    assert "lint.issuer-role" in wrong[2]


def test_outlines_of_several_issuers_are_told_apart(drafts, cas):
    """Their hash is the profile's and key's, so that they meet in one slot of a table."""
    view = by_parts(drafts[2][0].tbs)
    other = replace(cas.ek.info, certificate=cas.devid.info.certificate)
    one, another = (outline("ek", view, "RSA-2048", issuer) for issuer in (cas.ek.info, other))
    assert hash(one) == hash(another)
    assert one != another
    assert len({one, another}) == 2


def test_an_outline_shows_nothing_that_is_new_in_every_certificate(drafts):
    draft, _ = drafts[2]
    shown = outline("ek", by_parts(draft.tbs), "RSA-2048")
    assert {extension.id for extension in shown.extensions} <= STEADY
    assert shown.value(AKI) is not None
    with pytest.raises(LookupError):
        shown.value(SAN)


def test_many_threads_read_at_once(drafts):
    forget()
    with ThreadPoolExecutor(THREADS) as pool:
        tokens = list(pool.map(lambda pair: lint(*pair), drafts * THREADS))
    assert all(isinstance(token, LintPassed) for token in tokens)


# --- the parts ---


def test_a_device_draft_names_its_parts(drafts):
    """So it is read by them; a CA's certificate, which is rare, is read whole."""
    for draft, _ in drafts:
        assert draft.parts == (None if draft.profile in ("root-ca", "issuing-ca") else cut(draft.tbs))


def test_what_a_draft_says_of_its_parts_is_not_believed(drafts):
    """Parts of another certificate, each well-formed, are not seen in the place of those in the bytes."""
    tbs, other = drafts[2][0].tbs, drafts[7][0].tbs
    parts, others = cut(tbs), cut(other)
    for name in ("serial", "issuer", "subject", "spki", "extension_list", "extensions"):
        assert getattr(parts, name) != getattr(others, name)
        assert reading.read_by_parts(tbs, parts._replace(**{name: getattr(others, name)})) is None
    for place, extension in enumerate(parts.extensions):
        for instead in ((), (extension, extension), (others.extensions[1],)):
            extensions = (*parts.extensions[:place], *instead, *parts.extensions[place + 1 :])
            named = reading.read_by_parts(tbs, parts._replace(extensions=extensions))
            assert named is None
            listed = der_value(0xA3, der_value(0x30, *extensions))
            assert (
                reading.read_by_parts(tbs, parts._replace(extensions=extensions, extension_list=listed))
                is None
            )


@given(st.data())
def test_parts_that_are_cut_elsewhere_are_not_seen(drafts, data):
    tbs = data.draw(st.sampled_from(drafts))[0].tbs
    parts = cut(tbs)
    assert reading.read_by_parts(tbs, parts) is not None
    one, size = data.draw(st.integers(0, 6)), data.draw(PLACES)
    joined = parts[one] + parts[one + 1]
    size %= len(joined) + 1
    moved = Parts(*parts[:one], joined[:size], joined[size:], *parts[one + 2 :])
    assert (reading.read_by_parts(tbs, moved) is not None) == (moved == parts)


def reframed(parts):
    """The TBSCertificate around the parts."""
    extensions = der_value(0xA3, der_value(0x30, *parts.extensions))
    assert extensions == parts.extension_list
    return der_value(0x30, *parts[:7], extensions)


@given(st.data())
def test_parts_make_up_the_very_bytes(drafts, data):
    tbs = data.draw(st.sampled_from(drafts))[0].tbs
    start = data.draw(PLACES) % len(tbs)
    other = tbs[:start] + data.draw(st.binary(max_size=4)) + tbs[start + data.draw(st.integers(0, 4)) :]
    try:
        parts = cut(other)
    except ValueError:
        return
    assert reframed(parts) == other


@given(st.binary(max_size=64))
@example(b"")
@example(b"\x30")
@example(b"\x30\x80\x00\x00")
@example(b"\x30\x02\xa3\x00")
def test_other_bytes_are_not_cut(data):
    with pytest.raises(ValueError, match=r"^(is|has|ends|not enough|too many)"):
        cut(data)


@pytest.mark.parametrize(
    "encoded",
    [
        pytest.param(b"\x02\x81\x01\x07", id="length-in-too-long-a-form"),
        pytest.param(b"\x02\x82\x00\x81" + bytes(0x81), id="length-with-a-leading-zero"),
        pytest.param(b"\x1f\x81\x01\x00", id="tag-of-several-octets"),
    ],
)
def test_what_is_not_distinguished_is_not_cut(drafts, encoded):
    parts = cut(drafts[2][0].tbs)
    with pytest.raises(ValueError, match="has a"):
        cut(der_value(0x30, parts.version, encoded, *parts[2:8]))
    assert cut(der_value(0x30, parts.version, b"\x02\x01\x07", *parts[2:8])).serial == b"\x02\x01\x07"


@pytest.mark.parametrize("reader", [reader_cryptography, reader_asn1crypto])
def test_each_reader_looks_whether_it_finds_the_same_parts(drafts, reader):
    draft, _ = drafts[2]
    parts = cut(draft.tbs)
    assert reader.read_serial(draft.tbs, parts) == draft.serial
    with pytest.raises(ValueError, match="has other"):
        reader.read_serial(draft.tbs, parts._replace(extensions=parts.extensions[:-1]))


def test_the_second_reader_looks_at_every_part(drafts):
    draft, _ = drafts[2]
    parts = cut(draft.tbs)
    with pytest.raises(ValueError, match="has other parts"):
        reader_asn1crypto.read_serial(draft.tbs, parts._replace(subject=parts.issuer))


def outcome(read, der):
    try:
        return read(der)
    except ValueError:
        return None


def alternative_names(der):
    """What a subjectAltName means inside a certificate."""
    extension = der_value(0x30, bytes.fromhex("0603551d11"), der_value(0x04, der))
    (found,) = reader_cryptography._certificate_of(extension=extension).extensions
    return reader_cryptography._extension(found).value


def subject(der):
    """What a name means inside a certificate."""
    return reader_cryptography._name(reader_cryptography._certificate_of(subject=der).subject)


@given(st.data())
def test_what_has_a_devices_form_is_read_as_everything_else(drafts, data):
    """Taken out by their structure, a device's names mean what they mean inside a certificate, or nothing."""
    draft = data.draw(st.sampled_from([draft for draft, _ in drafts if draft.profile in ("iak", "idevid")]))
    parts = cut(draft.tbs)
    (names,) = (e for e in map(reader_cryptography.read_extension, parts.extensions) if e.id == SAN)
    for der, short, general in (
        (parts.subject, own_forms.device_name, subject),
        (names.der, own_forms.device_names, alternative_names),
    ):
        assert short(der) == general(der)
        start = data.draw(PLACES) % len(der)
        other = der[:start] + data.draw(st.binary(max_size=2)) + der[start + data.draw(st.integers(0, 2)) :]
        assert outcome(short, other) in (None, outcome(general, other))


def test_other_names_of_the_same_form_are_no_devices(drafts):
    """A value with the form of a HardwareModuleName, under another type, is not taken for one."""
    draft, issuer = drafts[3]
    module, permanent = (oid.dotted_string for oid in (oids.HARDWARE_MODULE_NAME, oids.PERMANENT_IDENTIFIER))
    for dotted in (permanent, "1.3.6.1.5.5.7.8.5"):
        encoded = [asn1.encode_der(x509.ObjectIdentifier(each)) for each in (module, dotted)]
        assert draft.tbs.count(encoded[0]) == 1
        renamed = with_tbs(draft, draft.tbs.replace(*encoded))
        names = by_parts(draft.tbs).extension(SAN).der
        with pytest.raises(ValueError, match="other names than a device's"):
            own_forms.device_names(names.replace(*encoded))
        assert judged(renamed, issuer).refusal.rule in ("lint.readable", "lint.hardware-module-name")


def test_both_readers_see_the_same_in_any_other_name(drafts, changed):
    """Also in one that no profile has: then a rule says what is wrong, and not that readers differ."""
    draft, issuer = drafts[3]
    other = x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.5.6"), bytes.fromhex("0c0178"))
    named = changed(draft, extensions={SAN: x509.SubjectAlternativeName([other])})
    assert by_parts(named.tbs).extension(SAN).value == (
        OtherNameView("1.3.6.1.4.1.5.6", bytes.fromhex("0c0178")),
    )
    assert judged(named, issuer).refusal.rule == "lint.hardware-module-name"


@given(st.data())
def test_a_key_is_read_as_the_library_loads_it(drafts, data):
    """Also one whose point was found by the curve's equation alone."""
    spki = cut(data.draw(st.sampled_from(drafts))[0].tbs).spki
    assert reader_cryptography.read_spki(spki) == reader_cryptography.read_key(spki)[1] == spki
    place = data.draw(PLACES) % len(spki)
    for other in (
        spki[:place] + data.draw(st.binary(max_size=2)) + spki[place + 1 :],
        spki[:-1],
        spki + b"\0",
        spki[:-2] + spki[-1:] + spki[-2:-1],
    ):
        loaded = outcome(reader_cryptography.read_key, other)
        assert outcome(reader_cryptography.read_spki, other) == (None if loaded is None else loaded[1])


@pytest.mark.parametrize("place", [3, 4])
def test_a_key_that_is_no_point_is_not_read(drafts, place):
    draft, issuer = drafts[8 + place]
    spki = cut(draft.tbs).spki
    off = with_tbs(draft, draft.tbs.replace(spki, spki[:-1] + bytes([spki[-1] ^ 1])))
    assert reader_cryptography.key_kind(spki).startswith("P-")
    assert by_parts(off.tbs) is None
    assert judged(off, issuer).refusal.rule == "lint.readable"


def test_an_extension_that_stands_twice_is_not_read(drafts):
    draft, issuer = drafts[2]
    parts = cut(draft.tbs)
    twice = der_value(0xA3, der_value(0x30, *parts.extensions, parts.extensions[0]))
    tbs = der_value(0x30, *parts[:7], twice)
    assert by_parts(draft.tbs) is not None  # each of them is known
    assert by_parts(tbs) is None
    assert judged(with_tbs(draft, tbs), issuer).refusal.rule == "lint.readable"


def test_both_readers_know_the_provenance_under_its_former_id(drafts, changed):
    """As of today it is the same certificate; what has both ids stays as it is."""
    former = oids.FORMER_PROVENANCE.dotted_string
    for draft, issuer in drafts:
        if issuer is None or draft.profile == "issuing-ca":
            continue
        first, _ = whole(draft.tbs)
        own = first.extension(PROVENANCE)
        extension = x509.UnrecognizedExtension(oids.FORMER_PROVENANCE, own.der)
        renamed = changed(draft, extensions={PROVENANCE: None, former: extension})
        seen, also = whole(renamed.tbs)
        assert seen == also
        assert seen.extension(former).value == own.value
        assert seen.of_today().extension(PROVENANCE) == own
        assert first.of_today() == first
        both, _ = whole(changed(draft, extensions={former: extension}).tbs)
        assert both.of_today() == both
