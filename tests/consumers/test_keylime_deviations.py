"""What keylime takes and should not: its own functions take it, and ours refuse it, as docs/keylime.md says."""

import itertools
import re
from dataclasses import dataclass
from pathlib import Path

import deviations as d
import enrollment_world as w
import pytest
from cryptography.x509.oid import NameOID
from deviation_judges import Ca, ek_check, fill, remembered_key
from keylime_functions import KeylimeFunctions, attestation_key, registration
from relying_stage import AT, loaded, make_stage

from ca_service.export.relying import CHECKS, judge_certificate
from ca_service.judgment import Verdict

pytestmark = pytest.mark.keylime

DOCUMENT = Path(__file__).parents[2] / "docs" / "keylime.md"
SHOWN = {"ek": "EK", "iak": "IAK", "idevid": "IDevID"}
NOBODY, TAKEN = "\N{EN DASH}", "takes it"


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    return make_stage(tmp_path_factory.mktemp("deviations"))


@pytest.fixture(scope="module")
def ca(stage):
    """Asks the CA, which is open for business."""
    store = stage.world.open_store()
    yield Ca(stage, stage.world.enroller(store))
    stage.world.close()
    store.close()


@pytest.fixture(scope="module")
def found(stage, ca, tmp_path_factory):
    """All deviations, and what everybody says of them; keylime is started once for all its answers."""
    other = w.SoftTpm(keys=remembered_key)
    issued = w.ders(
        w.issue(stage.world, ca.enroller, other, w.Boot(resource="default/vtpm/other", secret=b"2" * 32))
    )
    cases = list(d.deviations(stage, other, issued[2]))
    folder = tmp_path_factory.mktemp("keylime")
    stores = {False: folder / "exported", True: folder / "everything"}
    for everything, store in stores.items():
        fill(stage, store, everything=everything)
    keylime = KeylimeFunctions(folder / "configured", stores[False])
    ak = attestation_key()
    questions, places = [], []
    honest = registration(stage.tpm, ak, stage.ek, stage.iak, stage.idevid)
    for case in cases:
        certificates = d.genuine(stage) | {case.role: case.der}
        told = registration(case.tpm, ak, *(certificates[role] for role in d.ROLES))
        places.append(len(questions))
        questions.append(keylime.registrar(told, stores[case.everything]))
        if case.role == "ek":
            questions.append(keylime.tenant(case.der, stores[case.everything]))
    places.append(len(questions))
    ephemeral = next(case for case in cases if case.id == "ephemeral" and case.role == "ek")
    questions += [
        keylime.registrar(honest),
        keylime.tenant(stage.ek),
        keylime.tenant(ephemeral.der),
        keylime.registrar(honest | {"iak_cert": honest["idevid_cert"]}),
        keylime.registrar(honest | {"iak_sign": honest["iak_sign"][:-8] + "AAAAAAAA"}),
    ]
    answers = keylime.ask(questions)
    taken = [answers[start:end] for start, end in itertools.pairwise(places)]
    return Found(stage, cases, taken, answers[places[-1] :])


@dataclass(frozen=True)
class Found:
    """`keylime` are its answers, case by case; `others` those that show that it does look at something."""

    stage: object
    cases: list
    keylime: list
    others: list

    def of(self, name):
        """Cases of a deviation, with keylime's answers."""
        return [
            (case, answers) for case, answers in zip(self.cases, self.keylime, strict=True) if case.id == name
        ]

    def judged(self, case):
        """What fails of the relying party's checks."""
        revoked = [loaded(case.der).serial_number] if case.id == "revoked" else []
        role = d.issuer_of(case.role)
        trust = self.stage.trust(**{role: self.stage.list_of(role, revoked)})
        trace = judge_certificate(case.der, case.role, trust, AT)
        return [f.rule for f in trace.findings if f.verdict is Verdict.FAILED]


class TestKeylimeLooksAtSomething:
    def test_it_takes_what_we_issue(self, found):
        registrar, tenant, *_ = found.others
        assert registrar.taken, registrar.why
        assert tenant.taken

    def test_it_refuses_another_key_than_the_certified_one(self, found):
        wrong_key, wrong_signature = found.others[3:]
        assert "must contain the same public key found in iak_cert" in wrong_key.why
        assert "same TPM as the IAK" in wrong_signature.why

    def test_it_refuses_an_ephemeral_certificate_while_its_ca_is_not_exported(self, found):
        assert not found.others[2].taken


NAMES = (
    "software-key",
    "software-key-as-tpm",
    "idevid-as-iak",
    "iak-as-idevid",
    "iak-as-ek",
    "wrong-issuer",
    "another-tpms-idevid",
    "ephemeral",
    "expired",
    "revoked",
    "is-a-ca",
    "critical-unknown",
    "trailing-octets",
)


def test_these_are_all(found):
    assert {case.id for case in found.cases} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_keylime_takes_it(found, name):
    for case, answers in found.of(name):
        assert [answer for answer in answers if not answer.taken] == [], case


# --- who refuses ---


@pytest.fixture(scope="module")
def rows(found, ca, stage, tmp_path_factory):
    """A row of the document for each deviation: who takes it, and by which rules it is refused."""
    folder = tmp_path_factory.mktemp("ek-check")

    def listed(rules, none):
        return ", ".join(f"`{rule}`" for rule in rules) or none

    made = {}
    for deviation in NAMES:
        cases = [case for case, _ in found.of(deviation)]
        stopped = sorted({rule for case in cases for rule in ca.stops(case)})
        failed = {rule for case in cases for rule in found.judged(case)}
        eks = [case for case in cases if case.role == "ek"]
        checked = [listed(filter(None, [ek_check(stage, folder, case)]), TAKEN) for case in eks]
        made[deviation] = (
            ", ".join(SHOWN[case.role] for case in cases),
            listed(stopped, NOBODY),
            checked[0] if checked else NOBODY,
            listed([rule for rule in CHECKS if rule in failed], TAKEN),
        )
    return made


@pytest.mark.parametrize("name", NAMES)
def test_the_document_says_who_refuses_it(rows, name):
    written = re.search(
        rf"^\| `{name}` \| [^|]+ \| (.+) \|$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert written, " | ".join(rows[name])
    assert written[1].split(" | ") == list(rows[name])


def test_somebody_of_ours_refuses_each(rows):
    """Another TPM's IDevID and a software key whose certificate is as a TPM's: the CA alone, before it is certified."""
    for deviation, (_, stopped, _, failed) in rows.items():
        assert (stopped, failed) != (NOBODY, TAKEN), deviation
    assert {deviation for deviation, row in rows.items() if row[3] == TAKEN} == {
        "software-key-as-tpm",
        "another-tpms-idevid",
    }


def test_what_a_relying_party_sees_of_another_tpms_idevid(stage, found):
    """All certificates of a TPM bear one serial number in their subjects, made of its EK."""
    ((case, _),) = found.of("another-tpms-idevid")
    numbers = [
        loaded(der).subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)[0].value
        for der in (stage.iak, stage.idevid, case.der)
    ]
    assert numbers[0] == numbers[1] != numbers[2]
