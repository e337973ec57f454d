"""A real TPM makes keys from our templates, and agrees with us about what they are and what they are called."""

import pytest
from tpm2_pytss import ESYS_TR, TPM2B_PUBLIC, TPM2B_SENSITIVE_CREATE, TPMT_PUBLIC

from vtpm.tpm import Swtpm
from vtpm.wire.templates import Role, differences, name, parse_public, qualified_name, templates


@pytest.fixture(scope="module")
def tpm():
    with Swtpm() as swtpm:
        swtpm.power_on(None)
        yield swtpm


@pytest.mark.parametrize(
    "template", [t for role in Role for t in templates(role)], ids=lambda t: f"{t.role}-{t.id}"
)
def test_a_real_key_is_an_instance_of_its_template(tpm, template):
    with tpm.esapi("a test") as esapi:
        wanted = TPM2B_PUBLIC(TPMT_PUBLIC.unmarshal(template.public)[0])
        handle, public, *_ = esapi.create_primary(TPM2B_SENSITIVE_CREATE(), wanted, ESYS_TR.RH_ENDORSEMENT)
        try:
            _, own_name, own_qualified_name = esapi.read_public(handle)
        finally:
            esapi.flush_context(handle)
    area = public.publicArea.marshal()
    assert differences(area, template) == []
    assert name(area) == bytes(own_name)
    assert qualified_name(area) == bytes(own_qualified_name)
    assert parse_public(area).bits == template.bits
    unique = public.publicArea.unique
    parts = (unique.rsa,) if template.kind == "rsa" else (unique.ecc.x, unique.ecc.y)
    assert parse_public(area).unique == tuple(bytes(part) for part in parts)
    parse_public(area).public_key()
