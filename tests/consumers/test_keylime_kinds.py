"""Keys of every template that this CA certifies, before keylime's own functions: what docs/keylime.md says of them."""

import base64
from dataclasses import dataclass, field
from pathlib import Path

import deviations
import enrollment_world as w
import pytest
from cryptography import x509
from deviation_judges import fill, issued, remembered_key
from keylime_functions import KeylimeFunctions, attestation_key, opened, registration
from relying_stage import loaded, make_stage, tpm2b

from ca_service.profiles import certified_key, contract_report, key_kind, oids, structures
from vtpm.wire.templates import Role, Template, templates

pytestmark = pytest.mark.keylime

DOCUMENT = Path(__file__).parents[2] / "docs" / "keylime.md"
NOBODY = "\N{EN DASH}"
ALGORITHMS = {
    "RSA-2048": "rsa2048",
    "RSA-3072": "rsa3072",
    "P-256": "ecc256",
    "P-384": "ecc384",
    "P-521": "ecc521",
}
"""What keylime's agent calls its EK's algorithm."""


@dataclass
class Kind:
    """The key of a template, its certificate, and what keylime says of them: the answers by question."""

    role: Role
    template: Template
    tpm: w.SoftTpm
    der: bytes
    questions: dict
    answers: dict = field(default_factory=dict)

    @property
    def key(self) -> str:
        return key_kind(certified_key(loaded(self.der).tbs_certificate_bytes))

    @property
    def public(self) -> bytes:
        """TPM2B_PUBLIC."""
        return base64.b64decode(tpm2b(getattr(self.tpm, self.role.value).public))

    def says(self, question: str) -> bool:
        return self.answers[question].taken

    def broken(self) -> set[str]:
        """The demands of keylime that it breaks, by our rules."""
        (report,) = (one for one in contract_report(self.der) if one.consumer == "keylime")
        return {rule.removeprefix("compat.keylime.") for rule in report.failed}


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    return make_stage(tmp_path_factory.mktemp("kinds"))


@pytest.fixture(scope="module")
def keylime(stage, tmp_path_factory):
    folder = tmp_path_factory.mktemp("keylime")
    fill(stage, folder / "store")
    return KeylimeFunctions(folder / "configured", folder / "store")


@pytest.fixture(scope="module")
def ak():
    return attestation_key()


@pytest.fixture(scope="module")
def asked(stage, keylime, ak):
    """Every template of every role, beside honest keys of the others, and the origins of some certificates.

    keylime is started once for all.
    """
    made = [kind_of(stage, keylime, ak, role, chosen) for role in Role for chosen in templates(role)]
    origins = [keylime.origin(der) for der in (stage.iak, *misnamed(stage))]
    *answers, one, other, none = keylime.ask(
        [*(question for kind in made for question in kind.questions.values()), *origins]
    )
    left = iter(answers)
    for kind in made:
        kind.answers = {question: next(left) for question in kind.questions}
    return made, (one, other, none)


@pytest.fixture(scope="module")
def kinds(asked):
    return asked[0]


def misnamed(stage):
    """IAK certificates that name another hardware than a TPM 2.0, and nothing at all."""
    module = structures.HardwareModuleName(
        hw_type=x509.ObjectIdentifier("2.23.133.1.0"), hw_serial_num=b"IBM:0:1"
    )
    names = x509.SubjectAlternativeName(
        [x509.OtherName(oids.HARDWARE_MODULE_NAME, structures.encode(module))]
    )
    for extra in ([(names, False)], []):
        yield deviations.forged(stage, stage.iak, "devid", without=("2.5.29.17",), extra=extra)


def kind_of(stage, keylime, ak, role, chosen):
    eks, identities = (("L-1",), chosen.id) if role is not Role.EK else ((chosen.id,), "H-3")
    tpm = w.SoftTpm(eks, identities, identities, keys=remembered_key)
    certificates = {one: issued(stage, tpm, one) for one in Role}
    kind = Kind(role, chosen, tpm, certificates[role], {})
    kind.questions = {
        "registrar": keylime.registrar(registration(tpm, ak, *certificates.values())),
        "key column": keylime.column(f"{role.value}_tpm", kind.public),
    }
    if role is Role.EK:
        kind.questions["tenant"] = keylime.tenant(kind.der)
        kind.questions["tenant's lists"] = keylime.algorithm(ALGORITHMS[kind.key])
    else:
        kind.questions["certificate column"] = keylime.column(f"{role.value}_cert", kind.der)
        kind.questions["origin"] = keylime.origin(kind.der)
    return kind


def test_every_type_of_key_is_among_them(kinds):
    found = {(kind.role, kind.key) for kind in kinds}
    assert found == {(role, key) for role in Role for key in ALGORITHMS}


def test_the_registrar_takes_them_and_the_tpm_opens_its_challenge(kinds, ak):
    for kind in kinds:
        registrar = kind.answers["registrar"]
        assert registrar.taken, (kind.role, kind.template.id, registrar.why)
        assert len(opened(kind.tpm, ak, registrar.challenge)) == 32


def test_our_rules_say_what_keylime_says(kinds):
    """They are read off its code; here it is asked itself. What its agent does, in Rust, is only read."""
    for kind in kinds:
        broken = kind.broken()
        assert not broken & {"signature", "key", "size", "hardware-module-name"}
        assert kind.says("key column") == ("public-area" not in broken)
        if kind.role is Role.EK:
            assert kind.says("tenant")
            assert kind.says("tenant's lists") == ("tenant-algorithms" not in broken)
        else:
            assert kind.says("certificate column")
            assert kind.says("origin")


def test_it_looks_at_the_hardware_that_a_certificate_names(asked):
    """Up to 7.9 the registrar asked this function, which is still there."""
    ours, other, none = asked[1]
    assert (ours.taken, other.taken, none.taken) == (True, False, False)
    assert "ExtensionNotFound" in none.why


def test_the_document_says_so(kinds):
    """A line for each template."""
    lines = []
    for kind in kinds:
        tenant = [
            yes(kind.says(question)) for question in ("tenant", "tenant's lists") if question in kind.answers
        ]
        room = f"{yes(kind.says('key column'))}, {len(kind.public)}"
        words = (kind.role.value, f"`{kind.template.id}`", kind.key, yes(kind.says("registrar")))
        lines.append("| " + " | ".join((*words, *(tenant or [NOBODY, NOBODY]), room)) + " |")
    table = "\n".join(lines)
    assert table in DOCUMENT.read_text(encoding="utf-8"), table


def yes(taken):
    return "yes" if taken else "no"
