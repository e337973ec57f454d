"""What the SVSM keeps in the volume; and what it makes of bytes that it did not write."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtpm.svsm.records import (
    certificate_sizes,
    describe_keys,
    encode_certificates,
    encode_keys,
    parse_keys,
)
from vtpm.tpm import TpmKeys
from vtpm.wire.encoding import parse_json
from vtpm.wire.enrollment import CertificateEntry, CertificatesReply
from vtpm.wire.errors import WireError
from vtpm.wire.runtime_data import KeyStatement
from vtpm.wire.templates import Role, template


def key(role, template_id):
    return KeyStatement(template_id, template(role, template_id).public)


KEYS = TpmKeys((key(Role.EK, "L-1"), key(Role.EK, "L-2")), key(Role.IAK, "H-3"), key(Role.IDEVID, "H-3"))
RECORD = encode_keys(KEYS)


def reply(**changes):
    entry = CertificateEntry("L-1", b"leaf", (b"issuer", b"root"))
    fields = {"ek": (entry,), "iak": entry, "idevid": CertificateEntry("H-3", b"leaf+", (b"root",))}
    return CertificatesReply(**({"id": "e", "decision_id": "d"} | fields | changes))


def test_keys_survive_the_volume():
    assert parse_keys(RECORD) == KEYS
    assert encode_keys(parse_keys(RECORD)) == RECORD


def _without(name):
    value = json.loads(RECORD)
    del value[name]
    return value


@pytest.mark.parametrize(
    "value",
    [
        _without("ek"),
        _without("iak"),
        _without("idevid"),
        json.loads(RECORD) | {"ek": []},
        json.loads(RECORD) | {"ek": json.loads(RECORD)["ek"] * 3},
        json.loads(RECORD) | {"further": 1},
        json.loads(RECORD) | {"iak": json.loads(RECORD)["ek"][0]},
        [],
        None,
    ],
)
def test_other_records_are_refused(value):
    with pytest.raises(WireError):
        parse_keys(json.dumps(value).encode())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["template", "pub", "x"]), inner),
    max_leaves=10,
)


@st.composite
def hostile(draw):
    """Bytes, JSON, and records of ours with something else in them."""
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return draw(st.binary(max_size=400))
    if kind == 1:
        return json.dumps(draw(JSON)).encode("utf-8", "surrogatepass")
    value = json.loads(RECORD)
    where = draw(st.sampled_from([value, value["ek"][0], value["iak"], value["idevid"]]))
    where[draw(st.sampled_from([*where, "further"]))] = draw(JSON)
    data = json.dumps(value).encode()
    if kind == 2:
        return data
    at = draw(st.integers(0, len(data) - 1))
    return data[:at] + draw(st.binary(max_size=3)) + data[at + draw(st.integers(0, 3)) :]


@given(hostile())
def test_only_a_wire_error_comes_of_hostile_bytes(data):
    try:
        keys = parse_keys(data)
    except WireError:
        return
    assert parse_keys(encode_keys(keys)) == keys


def test_equal_certificates_are_equal_bytes_whatever_the_answers_ids():
    assert encode_certificates(reply()) == encode_certificates(reply(id="f", decision_id="g"))
    other = CertificateEntry("L-1", b"other", (b"issuer", b"root"))
    for role, value in (("ek", (other,)), ("iak", other), ("idevid", other)):
        assert encode_certificates(reply(**{role: value})) != encode_certificates(reply())
    assert set(parse_json(encode_certificates(reply()), most=4096)) == {"ek", "iak", "idevid"}


def test_the_storys_short_forms():
    assert describe_keys(KEYS) == "EK L-1+L-2, IAK H-3, IDevID H-3"
    assert certificate_sizes(reply()) == {"ek-L-1": 4, "iak": 4, "idevid": 5}
