"""The TPM's EK, IAK and IDevID: made once from the TCG templates, regenerated and compared ever after.

Primary keys are a function of the endorsement seed and the template, so the TPM makes the same keys again. Persistent
handles are only a courtesy to users of the TPM: a guest's owner can evict or replace what they hold.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from tpm2_pytss import TPM2B_PUBLIC, TPMT_PUBLIC

from vtpm.errors import UsageError
from vtpm.tpm.errors import TpmError, TpmIdentityError, TpmRefused
from vtpm.tpm.esapi import ESAPI, ESYS_TR, Bench, TSS2_Exception, flushing
from vtpm.tpm.swtpm import Swtpm
from vtpm.tpm.workbench import workbench
from vtpm.wire.statements import MAX_EKS, KeyStatement
from vtpm.wire.templates import Role, Template, template


class RecordedKeys(Protocol):
    """The keys of a TPM as they are recorded: template ids and TPMT_PUBLICs."""

    @property
    def eks(self) -> tuple[KeyStatement, ...]:
        """Endorsement keys; the first one names the TPM."""

    @property
    def iak(self) -> KeyStatement:
        """Initial attestation key."""

    @property
    def idevid(self) -> KeyStatement:
        """Initial device identity."""


@dataclass(frozen=True)
class TpmKeys:
    """The keys of a TPM: one to four `eks` (the first one names the TPM), `iak`, `idevid`."""

    eks: tuple[KeyStatement, ...]
    iak: KeyStatement
    idevid: KeyStatement


def statements(keys: RecordedKeys) -> Iterator[tuple[Role, KeyStatement]]:
    """All keys with their roles: EKs in their order, IAK, IDevID."""
    for ek in keys.eks:
        yield Role.EK, ek
    yield Role.IAK, keys.iak
    yield Role.IDEVID, keys.idevid


def manufacture(
    tpm: Swtpm, ek_templates: Sequence[Template], iak_template: Template, idevid_template: Template
) -> TpmKeys:
    """Make EK, IAK and IDevID in a new TPM and put them at their persistent handles.

    The caller records the answer and the TPM's state in one transaction of the volume: a TPM is either completely
    recorded or made anew.

    Args:
        tpm: a TPM that this power-on has made.
        ek_templates: one to four EK templates; the first one names the TPM.
        iak_template: template of the IAK.
        idevid_template: template of the IDevID.

    Raises:
        UsageError: no, too many or repeated EK templates, or a template of another role.
        TpmError: the TPM was loaded from a state, refused, or has gone.
    """
    chosen = (*ek_templates, iak_template, idevid_template)
    if not 1 <= len(ek_templates) <= MAX_EKS or len({ek.id for ek in ek_templates}) != len(ek_templates):
        raise UsageError(f"a TPM has 1 to {MAX_EKS} EKs, each of another template")
    if [key.role for key in chosen] != [Role.EK] * len(ek_templates) + [Role.IAK, Role.IDEVID]:
        raise UsageError("EK, IAK and IDevID are made from templates of their own roles")
    if tpm.origin != "manufactured":
        raise TpmError("keys are made in a new TPM only, this one was loaded")
    made = []
    for key in chosen:
        with (
            tpm.esapi(f"making the {key.role.value} {key.id}") as esapi,
            primary(esapi, key) as (handle, public),
        ):
            esapi.evict_control(ESYS_TR.OWNER, handle, key.persistent).close(esapi)
            made.append(KeyStatement(key.id, public))
    *eks, iak, idevid = made
    return TpmKeys(tuple(eks), iak, idevid)


def derive(tpm: Bench, key: Template) -> KeyStatement:
    """The key that the TPM makes from a template, and makes again whenever it is asked; nothing stays in the TPM.

    Raises:
        TpmError: the TPM refused, or has gone.
    """
    with tpm.esapi(f"making the {key.role.value} {key.id}") as esapi, primary(esapi, key) as (_, public):
        return KeyStatement(key.id, public)


@contextmanager
def primary(esapi: ESAPI, key: Template) -> Iterator[tuple[ESYS_TR, bytes]]:
    """The endorsement primary of a template as a transient object, with its TPMT_PUBLIC."""
    area, consumed = TPMT_PUBLIC.unmarshal(key.public)
    if consumed != len(key.public):
        raise TpmError(f"the template {key.id} has trailing bytes")
    handle, public, *_ = esapi.create_primary(None, TPM2B_PUBLIC(area), ESYS_TR.ENDORSEMENT)
    with flushing(esapi, handle):
        yield handle, bytes(public.publicArea.marshal())


@contextmanager
def recorded(esapi: ESAPI, role: Role, key: KeyStatement) -> Iterator[ESYS_TR]:
    """A recorded key, regenerated as a transient object.

    Raises:
        TpmIdentityError: what the TPM makes from the template is not the recorded key. Equal TPMT_PUBLICs mean
            equal Names: the Name is their hash.
    """
    with primary(esapi, template(role, key.template)) as (handle, public):
        if public != key.public:
            raise TpmIdentityError(f"the TPM's {role.value} {key.template} is not the recorded key")
        yield handle


def verify_loaded(tpm: Swtpm, keys: RecordedKeys) -> None:
    """Prove that this TPM is the one whose keys are recorded, before anything relies on it.

    After a state blob that swtpm does not like, it powers on as a *new* TPM; and a blob that was stored with other
    records would be somebody else's. So every recorded key is regenerated and compared. A guest cannot prevent it:
    see `vtpm.tpm.workbench`.

    Raises:
        TpmIdentityError: the TPM makes other keys than the recorded ones.
        TpmError: the TPM refused, or has gone.
    """

    def compare(bench: Swtpm) -> None:
        for role, key in statements(keys):
            with bench.esapi(f"regenerating the {role.value}") as esapi, recorded(esapi, role, key):
                pass

    workbench(tpm, compare)


def repair_persistent(tpm: Swtpm, keys: RecordedKeys) -> tuple[int, ...]:
    """Put the recorded keys back to their persistent handles where a guest removed or replaced them.

    Best effort: whatever the TPM refuses (an owner authorisation that the guest has set, no room) is left as it is.
    Nothing in the SVSM relies on these handles.

    Returns:
        the handles that were repaired.

    Raises:
        TpmGone: swtpm has ended.
    """
    repaired = []
    for role, key in statements(keys):
        wanted = template(role, key.template)
        with suppress(TpmRefused), tpm.esapi(f"repairing handle {wanted.persistent:x}") as esapi:
            held = _held(esapi, wanted.persistent)
            if held is not None and held[1] == key.public:
                continue
            with recorded(esapi, role, key) as handle:
                if held is not None:
                    esapi.evict_control(ESYS_TR.OWNER, held[0], wanted.persistent)
                esapi.evict_control(ESYS_TR.OWNER, handle, wanted.persistent)
            repaired.append(wanted.persistent)
    return tuple(repaired)


def _held(esapi: ESAPI, persistent: int) -> tuple[ESYS_TR, bytes] | None:
    """The object at a persistent handle and its TPMT_PUBLIC; None if there is none."""
    try:
        handle = esapi.tr_from_tpmpublic(persistent)
        public, *_ = esapi.read_public(handle)
    except TSS2_Exception:
        return None
    return handle, bytes(public.publicArea.marshal())
