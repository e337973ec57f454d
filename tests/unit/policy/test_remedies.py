"""The smallest change that would have admitted a refusal: it admits, all of it is needed, and it is what one expects."""

import copy
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ca_service.judgment import BadRequest
from ca_service.policy import load, load_complete
from ca_service.policy.changes import Effect, compare
from ca_service.policy.remedies import MOST_JUDGED, Case, edited, remedy
from ca_service.policy.remedies.writing import document
from vtpm.wire.report import Product

FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SCALARS = "grant_iat"


@pytest.fixture
def found(content, keys, toml, judge):
    """The remedy for facts under a document."""

    def search(facts, document=content, mode="simulation", **known):
        known.setdefault(
            "kbs_key", next((k.members() for k in keys if k.thumbprint() == facts.kbs_thumbprint), None)
        )
        case = Case(facts, mode, **known)
        return remedy(load(toml(document)), case, lambda policy: judge(policy, facts, mode))

    return search


@pytest.fixture
def admitted(judge):
    """Whether a document, given as its content, admits facts; one that cannot be read admits nothing."""

    def asked(content, facts, mode="simulation"):
        try:
            return judge(load(document(content)), facts, mode).admitted
        except BadRequest:
            return False

    return asked


@st.composite
def drawn(draw, facts, keys, launched):
    """Facts of which most are as some entry wants them."""
    pick = lambda *values: draw(st.sampled_from(values))  # noqa: E731 - the shortest way to say it
    launch = launched(
        measurement=pick(b"\x11", b"\x22", b"\x33") * 48,
        id_key_digest=pick(b"\x5a", b"\x5a", b"\x5c", b"\0") * 48,
        author_key_digest=pick(b"\xa5", b"\xa6", b"\0") * 48,
        key_flags=pick(1, 1, 0, 5),
        host_data=pick(b"\xd0", b"\xd1", b"\xd3") * 32,
        image_id=pick(b"\x1a", b"\x1a", b"\0") * 16,
        guest_svn=pick(3, 2),
        policy=1 << 17 | pick(1 << 25, 1 << 16) | pick(1 << 8 | 51, 1 << 8),
        version=pick(5, 5, 3, 2),
        platform_info=pick(0x25, 0x05, 0xFF),
        chip_id=pick(bytes(range(64)), b"\x01" * 64, bytes(64)),
        launch_mit_vector=pick(0b101, 0),
        current_mit_vector=pick(0b111, 1 << 60),
        reported_tcb=bytes([pick(4, 3), 0, 0, 0, 0, 0, 27, pick(219, 218)]),
        launch_tcb=bytes([4, 0, 0, 0, 0, 0, pick(27, 26), 219]),
        current_firmware=pick((1, 55, 29), (1, 55, 28), (1, 54, 40), (1, 56, 1)),
    )
    at = facts.at + timedelta(days=pick(0, 0, 40, 300))
    launch = replace(
        launch,
        product=pick(Product.MILAN, Product.MILAN, Product.GENOA),
        crl_issued_at=pick(at, at - timedelta(days=31), None),
        at=at,
    )
    volatile = draw(st.booleans())
    return replace(
        facts,
        launch=launch,
        kbs_thumbprint=pick(*(key.thumbprint() for key in keys)),
        resource=pick("default/vtpm/a", "default/pool/a", "x/vtpm/a", "x/y/z"),
        origin=pick("kbs-generated", "provisioned"),
        release_policy=pick("ab", "00") * 32,
        grant_iat=int(at.timestamp()) - pick(60, 4000),
        store_mode="volatile" if volatile else "persistent",
        store_format="none" if volatile else pick("cocoonfs/1", "cocoonfs/2"),
        ek_templates=pick(("L-1",), ("L-1", "H-3"), ("L-2", "H-1")),
        iak_template=pick("H-3", "H-1"),
        profile=pick("svsm-vtpm-ca:1", "svsm-vtpm-ca:1", "amd-svsm-services"),
    )


def lessened(content, data):
    """The document without some of its parts, and with some of them spoilt."""
    content = copy.deepcopy(content)
    for name in data.draw(
        st.lists(st.sampled_from(["tpm", "store", "grant", "launch", "kbs"]), unique=True, max_size=2)
    ):
        del content[name]
    for entry in content.get("kbs", ()):
        if data.draw(st.integers(0, 3)) == 0:
            entry.update(
                data.draw(
                    st.sampled_from(
                        [
                            {"status": "suspended"},
                            {"status": "compromised", "compromised_since": datetime(2026, 5, 1, tzinfo=UTC)},
                            {
                                "valid_from": datetime(2026, 12, 30, tzinfo=UTC),
                                "valid_to": datetime(2027, 12, 30, tzinfo=UTC),
                            },
                            {"valid_to": datetime(2026, 2, 1, tzinfo=UTC)},
                        ]
                    )
                )
            )
    if data.draw(st.integers(0, 3)) == 0:
        content["platform"][0]["chips"] = {
            "deny": [bytes(range(64)).hex(), *data.draw(st.sampled_from([[], ["0a" * 64]]))]
        }
    if data.draw(st.integers(0, 3)) == 0 and "launch" in content:
        content["launch"][0].pop("host_data")  # an open question, which denies
        content["platform"][0].pop("crl_max_age_days")
    return content


@FUZZ
@given(data=st.data())
def test_a_remedy_admits_and_each_of_its_edits_is_needed(
    content, facts, keys, launched, found, admitted, data
):
    content = lessened(content, data)
    asked = data.draw(drawn(facts, keys, launched))
    if admitted(content, asked):
        return
    result = found(asked, content)
    assert result.admits, result.left
    assert result.judged <= MOST_JUDGED
    for edits in (result.edits, *result.alternatives):
        after = edited(content, edits)
        assert admitted(after, asked)
        for edit in edits:
            assert not admitted(edited(content, [other for other in edits if other is not edit]), asked), edit
        assert compare(load(document(content)), load(document(after)), "simulation").effect is Effect.WIDENS
        assert after.get("unsafe", []) == content.get("unsafe", [])
