"""One CA, one TPM with its certificates, and a CA of the same names, for all tests of relying parties."""

from dataclasses import replace

import enrollment_world as w
import pytest
from relying_stage import AT, loaded, make_stage, new_signer, signed

from ca_service.export.relying import judge_certificate
from ca_service.profiles import Validity, draft_issuing, draft_root, new_serial


@pytest.fixture(scope="session")
def stage(tmp_path_factory):
    return make_stage(tmp_path_factory.mktemp("relying"))


@pytest.fixture(scope="session")
def impostor(stage):
    """A CA of the same names: root, EK CA, and an EK certificate that names the genuine EK CA's key id."""
    signer, issuing = new_signer(), new_signer()
    life = Validity.device_lifetime(w.START)
    common = {"organization": "Tests", "mode": "simulation", "validity": life}
    serial = new_serial(42, lambda n: bytes([5] * n))
    root = loaded(signed(draft_root(public_key=signer.public_key(), serial=serial, **common).tbs, signer))
    info = replace(stage.issuer("ek").info, certificate=root, role="root")
    draft = draft_issuing(
        "ek", pair="default", public_key=issuing.public_key(), serial=serial, issuer=info, **common
    )
    ca = loaded(signed(draft.tbs, signer))
    genuine = replace(stage.issuer("ek").info)
    own = replace(genuine, certificate=ca)
    return {
        "root": root,
        "ca": ca,
        "own": signed(stage.draft(issuer=own).tbs, issuing),
        "posing": signed(stage.draft().tbs, issuing),
    }


@pytest.fixture
def judged(stage):
    def judge(der, kind="ek", trust=None, at=AT, rule=None, **options):
        return judge_certificate(der, kind, trust or stage.trust(), at, rule, **options)

    return judge
