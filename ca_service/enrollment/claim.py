"""Who a TPM says it is, in the ledger's terms.

An instance is a (KBS id, resource); where the policy marks the resource as shared, the volume's salt counts too. A TPM
whose evidence deserves no more than an ephemeral certificate is known by its launch and its first EK instead, and
binds nothing for good: weaker evidence must not keep a persistent TPM out.
"""

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Self

from ca_service.enrollment.submission import Submission
from ca_service.evidence.profiles import is_ephemeral
from ca_service.policy import Policy, kbs_for
from ca_service.profiles import DEFAULT_PAIR, IssuerRole
from ca_service.store import LedgerQuery, live_key, spki_digest
from vtpm.wire.errors import WireError
from vtpm.wire.frozen import frozen
from vtpm.wire.lazy import cached_property
from vtpm.wire.templates import name, parse_public

EPHEMERAL_KBS = "ephemeral:"
"""Stands in the place of a KBS's id for ephemeral instances; no entry of a policy can have it."""

_EK_DIGITS = 40

_PERSISTENT_ROLES: Mapping[str, IssuerRole] = MappingProxyType({"ek": "ek", "devid": "devid"})
_EPHEMERAL_ROLES: Mapping[str, IssuerRole] = MappingProxyType({"ek": "ephemeral", "devid": "ephemeral"})


@frozen
class KeyClaim:
    """One TPM key.

    Attributes:
        role: "ek", "iak" or "idevid".
        profile: certificate profile that it gets a certificate of: its role, or "iak-webauthn".
        template: id of its TCG template.
        public: TPMT_PUBLIC.
        name: Name in hex.
        spki: SHA-256 over its SubjectPublicKeyInfo, hex: its name in the block list.
        launch: REPORT_ID in hex for an ephemeral certificate, which is one per launch; else empty.
    """

    role: str
    profile: str
    template: str
    public: bytes
    name: str
    spki: str
    launch: str = ""

    @cached_property
    def live(self) -> str:
        """What the unique column holds for a live certificate of this key."""
        if not self.launch:
            return live_key(self.profile, self.name)
        return f"ephemeral-{self.profile}:{hashlib.sha256(f'{self.launch}:{self.name}'.encode('ascii')).hexdigest()}"


@frozen
class Claim:
    """Who a TPM says it is.

    Attributes:
        ephemeral: whether its evidence deserves ephemeral certificates only.
        kbs_id: the KBS's stable id in the policy, or `EPHEMERAL_KBS`.
        resource: the KBS resource of the persistence key; for ephemeral instances launch and first EK in that form.
        salt: the volume's salt in hex if it counts for the identity, else empty.
        volume_salt: the volume's salt in hex, for the record.
        ek_set: what identifies the TPM, see `Submission.ek_set`.
        keys: all keys, EKs first, the naming one foremost; then IAK and IDevID.
        key_id: id of the persistence key; empty for ephemeral instances.
        counter: the store's update counter.
        root: the store's root, hex.
        report_id: REPORT_ID of the launch, hex.
        pair: the pair of issuing CAs that signs for it.
    """

    ephemeral: bool
    kbs_id: str
    resource: str
    salt: str
    volume_salt: str
    ek_set: str
    keys: tuple[KeyClaim, ...]
    key_id: str
    counter: int
    root: str
    report_id: str
    pair: str = DEFAULT_PAIR

    @property
    def issuer_roles(self) -> Mapping[str, IssuerRole]:
        """Which CA signs: for EKs, and for IAK and IDevID ("ek", "devid")."""
        return _EPHEMERAL_ROLES if self.ephemeral else _PERSISTENT_ROLES

    def query(self) -> LedgerQuery:
        """What the database is asked about it; the same each time."""
        return self._query

    @cached_property
    def _query(self) -> LedgerQuery:
        return LedgerQuery(
            kbs_id=self.kbs_id,
            resource=self.resource,
            salt=self.salt,
            key_id=self.key_id,
            names=tuple({key.name for key in self.keys}),
            spkis=tuple({key.spki for key in self.keys}),
            lives=tuple({key.live for key in self.keys}),
        )

    @classmethod
    def of(cls, submission: Submission, policy: Policy) -> Self:
        """The claim in a submission; a KBS that the policy does not list gets a name that no listed one can have."""
        return submission.once("claim", (policy,), lambda: cls._of(submission, policy))

    @classmethod
    def _of(cls, submission: Submission, policy: Policy) -> Self:
        data = submission.claims
        report_id = submission.report.report_id.hex()
        if data.grant is None or data.store is None or is_ephemeral(data):
            return cls._ephemeral(submission, policy, report_id)
        claims, thumbprint = data.grant.claims, data.grant.jwk.thumbprint()
        kbs = kbs_for(policy, thumbprint)
        shared = kbs is not None and kbs.shares(claims.resource)
        return cls(
            ephemeral=False,
            kbs_id=f"unlisted:{thumbprint}" if kbs is None else kbs.id,
            resource=claims.resource,
            salt=data.store.salt.hex() if shared else "",
            volume_salt=data.store.salt.hex(),
            ek_set=submission.ek_set(),
            keys=_keys(submission, policy, launch=""),
            key_id=data.store.key_id,
            counter=data.store.counter,
            root=data.store.root.hex(),
            report_id=report_id,
            pair=DEFAULT_PAIR if kbs is None else kbs.pair or DEFAULT_PAIR,
        )

    @classmethod
    def _ephemeral(cls, submission: Submission, policy: Policy, report_id: str) -> Self:
        keys = _keys(submission, policy, launch=report_id)
        ek = hashlib.sha256(keys[0].name.encode("ascii")).hexdigest()[:_EK_DIGITS]
        return cls(
            ephemeral=True,
            kbs_id=EPHEMERAL_KBS,
            resource=f"ephemeral/{report_id}/{ek}",
            salt="",
            volume_salt="",
            ek_set=submission.ek_set(),
            keys=keys,
            key_id="",
            counter=0,
            root="",
            report_id=report_id,
        )


def _keys(submission: Submission, policy: Policy, *, launch: str) -> tuple[KeyClaim, ...]:
    tpm = submission.claims.tpm
    roles = [("ek", "ek", ek) for ek in tpm.eks]
    roles += [("iak", policy.iak_profile, tpm.iak), ("idevid", "idevid", tpm.idevid)]
    return tuple(
        [
            KeyClaim(
                role, profile, key.template, key.public, name(key.public).hex(), spki_of(key.public), launch
            )
            for role, profile, key in roles
        ]
    )


@lru_cache(maxsize=1024)
def spki_of(public: bytes) -> str:
    """The block list's name of a TPM key; empty for one that is no key at all, which the checks of keys refuse."""
    try:
        return spki_digest(parse_public(public).spki())
    except WireError:
        return ""
