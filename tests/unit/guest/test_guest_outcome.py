"""What came back over the network is held against this TPM's keys before anybody sees it."""

import itertools
from dataclasses import replace

import client_certifier as certifier
import pytest
from cryptography import x509
from soft_tpm import SoftTpm

from ca_service.profiles import Validity
from vtpm.errors import VtpmError
from vtpm.guest import FILES, Outcome
from vtpm.tpm import TpmKeys
from vtpm.wire.amd_evidence import VTPM_PROFILE


@pytest.fixture(scope="module")
def tpms():
    made = [SoftTpm(("L-2",)) for _ in range(2)]
    return [TpmKeys(tpm.eks, tpm.iak, tpm.idevid) for tpm in made]


def certified(keys, authority, validity):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(certifier, "VALIDITY", validity)
        return authority.certify(eks=keys.eks, iak=keys.iak, idevid=keys.idevid)


@pytest.fixture(scope="module")
def authority():
    return certifier.Certifier()


@pytest.fixture(scope="module")
def replies(tpms, authority):
    return [certified(keys, authority, Validity.bounded(certifier.NOW, 7)) for keys in tpms]


def judged(reply, keys):
    return Outcome.judge("https://ca.example", VTPM_PROFILE, reply, keys)


def test_what_fits(tpms, replies):
    outcome = judged(replies[0], tpms[0])
    files = outcome.files()
    assert tuple(files) == FILES
    leaves = [x509.load_pem_x509_certificate(files[f"{role}.pem"]) for role in ("ek", "iak", "idevid")]
    assert outcome.not_after == min(leaf.not_valid_after_utc for leaf in leaves)
    # The EK's issuing CA, the DevID CA, and the root of both once.
    chain = x509.load_pem_x509_certificates(files["chain.pem"])
    assert len(chain) == len({ca.serial_number for ca in chain}) == 3


def test_the_certificates_of_another_tpm(tpms, replies):
    for reply, keys in itertools.permutations(zip(replies, tpms, strict=True), 2):
        with pytest.raises(VtpmError) as caught:
            judged(reply[0], keys[1])
        assert caught.value.rule == "certificates.key"


@pytest.mark.parametrize("validity", [Validity.bounded(certifier.NOW, 8), certifier.VALIDITY])
def test_certificates_that_last(tpms, authority, validity):
    with pytest.raises(VtpmError) as caught:
        judged(certified(tpms[0], authority, validity), tpms[0])
    assert caught.value.rule == "certificates.ephemeral"


def test_a_chain_that_cannot_be_read(tpms, replies):
    spoilt = replace(replies[0], iak=replace(replies[0].iak, chain=(b"0",)))
    with pytest.raises(VtpmError) as caught:
        judged(spoilt, tpms[0])
    assert caught.value.rule == "certificates.key"
