"""Rules about names: of CAs, TPMs and devices, the EK certificate that they name, and the provenance."""

import base64
import hashlib
from dataclasses import replace
from functools import lru_cache
from typing import Final

from ca_service.profiles.device import EMPTY_SLOT, find_slot
from ca_service.profiles.model import (
    SERIAL_SIZE,
    CaContent,
    DevidContent,
    EkContent,
    Provenance,
    WebauthnContent,
)
from ca_service.profiles.naming import SIMULATION_MARK, ca_name, printable_manufacturer
from ca_service.profiles.rule import (
    CAS,
    DEVICES,
    IDENTITIES,
    NAMED,
    PRINTABLE,
    LintSubject,
    RuleBook,
    differs,
)
from ca_service.profiles.sizes import identity_room
from ca_service.profiles.view import (
    PROVENANCE,
    SDA,
    HardwareModuleView,
    NameView,
    PermanentIdentifierView,
    ProvenanceView,
    SpecificationView,
)
from vtpm.wire.amd_evidence import VTPM_PROFILE

NAMES = RuleBook()

_HEADS = 8

REMEMBERED: Final = 64
"""How many provenances are remembered: all certificates of a TPM have the same one."""


@NAMES.rule("ca-subject", *CAS)
def _ca_subject(s: LintSubject) -> str | None:
    if not isinstance(s.content, CaContent):
        return "is no CA's content"
    marked = all(
        SIMULATION_MARK in text for rdn in s.view.subject.rdns for oid, text in rdn if oid == "2.5.4.3"
    )
    if marked != (s.content.mode == "simulation"):
        return "the name must say so exactly if the CA is a simulation"
    content = s.content
    wanted = ca_name(content.organization, content.mode, content.role, content.pair, content.generation)
    return differs("the subject", wanted.public_bytes(), s.view.subject.der)


@NAMES.rule("responder-subject", "ocsp")
def _responder_subject(s: LintSubject) -> str | None:
    return differs("the subject", ((("2.5.4.3", "OCSP responder"),),), s.view.subject.rdns)


@NAMES.rule("subject", *DEVICES)
def _subject(s: LintSubject) -> str | None:
    if type(s.content) is not DevidContent:
        return differs("the subject", (), s.view.subject.rdns)
    serial = hashlib.sha256(s.content.ek_name).hexdigest()[:32]
    wanted = ((("2.5.4.3", "vTPM"),), (("2.5.4.5", serial),))
    return differs("the subject", wanted, s.view.subject.rdns)


@NAMES.rule("tpm-name", "ek", "iak-webauthn")
def _tpm_name(s: LintSubject) -> str | None:
    names = s.names
    directories = [name for name in names if isinstance(name, NameView)]
    if not isinstance(s.content, EkContent | WebauthnContent) or directories != list(names[:1]):
        return "the first subjectAltName must be a directoryName, and no other"
    if isinstance(s.content, EkContent) and len(names) != 1:
        return "subjectAltName must be exactly one directoryName"
    texts = (
        f"id:{s.content.manufacturer.upper()}",
        s.content.vendor,
        f"id:{s.content.firmware[:8].upper()}",
    )
    if not all(PRINTABLE.match(text) for text in texts):
        return "manufacturer, model and version must be printable ASCII"
    types = ("2.23.133.2.1", "2.23.133.2.2", "2.23.133.2.3")
    wanted = tuple(((kind, text),) for kind, text in zip(types, texts, strict=True))
    return differs("the TPM's name", wanted, directories[0].rdns if directories else ())


@NAMES.rule("tpm-specification", "ek")
def _tpm_specification(s: LintSubject) -> str | None:
    if not isinstance(s.content, EkContent):
        return "is no EK's content"
    spec = s.content.spec
    wanted = SpecificationView("2.23.133.2.16", spec.family, int(spec.level), int(spec.revision))
    return differs("TPMSpecification", wanted, s.value(SDA))


@NAMES.rule("hardware-module-name", *NAMED)
def _hardware_module_name(s: LintSubject) -> str | None:
    names = s.names
    if not isinstance(s.content, DevidContent) or not names or not isinstance(names[0], HardwareModuleView):
        return "the first alternative name must be a HardwareModuleName"
    parts = (
        printable_manufacturer(s.content.manufacturer),
        s.content.ek_aki.hex(),
        f"{s.content.ek_serial:0{2 * SERIAL_SIZE}x}",
    )
    return differs("hwType", "2.23.133.1.2", names[0].hw_type) or differs(
        "hwSerialNum", ":".join(parts).encode(), names[0].hw_serial_num
    )


@NAMES.rule("permanent-identifier", *IDENTITIES)
def _permanent_identifier(s: LintSubject) -> str | None:
    names = s.names
    if (
        not isinstance(s.content, DevidContent)
        or len(names) != 2  # noqa: PLR2004 - HardwareModuleName or the TPM's name, and this one
        or not isinstance(names[1], PermanentIdentifierView)
    ):
        return "the second and last alternative name must be a permanentIdentifier"
    digest = EMPTY_SLOT.decode() if s.content.ek_digest is None else s.content.ek_digest
    return differs("its assigner", "2.23.133.12.1", names[1].assigner) or differs(
        "its value", digest, names[1].identifier_value
    )


@NAMES.rule("slot")
def _slot(s: LintSubject) -> str | None:
    open_digest = isinstance(s.content, DevidContent) and s.content.ek_digest is None
    if open_digest != (s.draft.slot is not None):
        return "a slot belongs to drafts whose EK certificate is not signed yet, and to no others"
    if s.draft.slot is None:
        named = s.content.ek_digest if isinstance(s.content, DevidContent) else ""
        return "the EK certificate's digest must be known" if named == EMPTY_SLOT.decode() else None
    try:
        found = find_slot(s.draft.tbs, EMPTY_SLOT.decode())
    except ValueError:
        return "the slot must be the one permanentIdentifier, filled with zeros"
    return differs("the slot's offset", found, s.draft.slot)


@NAMES.rule("provenance", *DEVICES)
def _provenance(s: LintSubject) -> str | None:
    if s.origin is None:
        return "is no device's content"
    wanted = _wanted_provenance(s.origin, brief=_wants_room(s))
    return wanted if isinstance(wanted, str) else differs("the provenance", wanted, s.value(PROVENANCE))


@lru_cache(maxsize=REMEMBERED)
def _wanted_provenance(origin: Provenance, *, brief: bool) -> ProvenanceView | str:
    """What the extension says of a provenance, or what is wrong with it."""
    granted = origin.kbs_thumbprint is not None and origin.resource is not None
    if granted != (origin.profile != VTPM_PROFILE):
        return f"there is no grant exactly in evidence of profile {VTPM_PROFILE}"
    texts = (origin.profile, origin.decision_id, *([] if origin.resource is None else [origin.resource]))
    if len(origin.measurement) != 48 or not all(PRINTABLE.match(text) for text in texts):  # noqa: PLR2004 - octets of a launch measurement
        return "provenance must be printable ASCII with a measurement of 48 octets"
    whole = ProvenanceView(
        1 if granted else 2,
        origin.profile,
        None if origin.kbs_thumbprint is None else base64.urlsafe_b64decode(origin.kbs_thumbprint + "="),
        origin.resource,
        origin.measurement,
        bytes.fromhex(origin.policy_digest),
        origin.decision_id,
    )
    return replace(whole, version=3, resource=None, decision_id=None) if brief else whole


def _wants_room(s: LintSubject) -> bool:
    """Whether an identity's certificate would be too large with the whole provenance."""
    origin = s.origin
    if s.profile not in IDENTITIES or origin is None or origin.resource is None:
        return False
    found, size = s.value(PROVENANCE), s.size
    if isinstance(found, ProvenanceView) and found.resource is None:
        # Two heads of two octets; that of the whole extension and of the sequence may grow as well.
        size += len(origin.resource) + len(origin.decision_id) + _HEADS
    return size >= identity_room(s.key)
