"""What a policy may say and should be asked about, one sentence each, for the operator."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from ca_service.policy.entries.brokers import KbsEntry
from ca_service.policy.entries.ephemeral import EphemeralTerms
from ca_service.policy.entries.launches import LaunchEntry, PlatformEntry
from vtpm.wire.amd_evidence import VTPM_PROFILE
from vtpm.wire.templates import Role


def broker_warnings(entries: Iterable[KbsEntry], at: datetime | None = None) -> Iterator[str]:
    """About key brokers; what is past and what is to come only if `at` says when it is asked."""
    entries = tuple(entries)
    grants = {thumbprint: entry.id for entry in entries for thumbprint in entry.thumbprints}
    for entry in entries:
        if at is not None and entry.valid_to is not None and entry.valid_to <= at:
            yield f"kbs {entry.id} is past its valid_to: no grant of it is admitted any more"
        if at is not None and entry.compromised_since is not None and entry.compromised_since > at:
            yield f"kbs {entry.id} has a compromised_since that is yet to come: its grants are refused at once"
        for key in () if entry.ear is None else entry.ear.keys:
            if (owner := grants.get(key.thumbprint())) is not None:
                yield f"kbs {entry.id} takes attestation tokens that are signed by a key of {owner} for grants"
        if True in entry.resources.values():
            yield f"kbs {entry.id} has shared resources: a host that resets a TPM there goes unnoticed"
        if "provisioned" in entry.origins:
            yield f"kbs {entry.id} may release provisioned keys, which whoever stored them knows"
        if entry.release_policies is None:
            yield f"kbs {entry.id} lists no release_policies: its operator may release keys to anybody"


def launch_warnings(entries: Iterable[LaunchEntry]) -> Iterator[str]:
    """About launches."""
    for entry in entries:
        signed = entry.id_keys is not None or entry.author_keys is not None
        if entry.measurement is None:
            yield f"launch {entry.name} has no measurement: it admits all that its key signs, now and later"
            if not entry.min_guest_svn:
                yield f"launch {entry.name} has no minimum guest SVN: old builds of its key stay admitted"
        # Without a trusted signer the host can make an ID block of its own and write anything into it.
        by_block = entry.family_ids is not None or entry.image_ids is not None or bool(entry.min_guest_svn)
        if by_block and not signed:
            yield (
                f"launch {entry.name} demands what an ID block says, but no ID key or author key: "
                "the host may write any ID block"
            )


def platform_warnings(entries: Iterable[PlatformEntry]) -> Iterator[str]:
    """About processors and firmware."""
    for entry in entries:
        if "signing-key" in entry.unconstrained or "VLEK" in (entry.keys or ()):
            yield f"platform {entry.name} admits VLEKs: one key for all processors of a provider's region"
        if "provisional-firmware" in entry.unconstrained or entry.provisional_firmware:
            yield f"platform {entry.name} admits firmware that its host can still roll back"
        if "info" in entry.unconstrained or (
            entry.info is not None and "alias-check" not in entry.info.require
        ):
            yield f"platform {entry.name} does not require alias-check: memory may be aliased under the VM"
        if {"reported-tcb", "committed-tcb"} <= entry.unconstrained:
            yield f"platform {entry.name} has no TCB floor: firmware with known holes is admitted"
        if "crl-age" in entry.unconstrained:
            yield f"platform {entry.name} has no crl_max_age_days: a revocation may go unnoticed"


def ephemeral_warnings(terms: EphemeralTerms) -> Iterator[str]:
    """About what earns an ephemeral certificate."""
    if VTPM_PROFILE in terms.profiles:
        yield f"ephemeral admits {VTPM_PROFILE}, which states no key broker: the launch alone vouches for the TPM"
    if terms.volatile_stores:
        yield "ephemeral admits volatile stores: a host that takes a disk away gets a new TPM certified for days"


def tpm_warnings(iak_profile: str, templates: Mapping[Role, frozenset[str]]) -> Iterator[str]:
    """About the form of IAK certificates."""
    if iak_profile == "iak-webauthn":
        yield "tpm.iak_profile is iak-webauthn: keylime up to 7.9 and HIRS want a HardwareModuleName, which it lacks"
        if templates.get(Role.IAK, frozenset()) - {"H-2"}:
            yield "tpm.iak lists more than H-2: step-ca takes quotes of ECDSA keys on P-256 only"
