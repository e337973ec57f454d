"""Proofs by a real TPM for the residency tests: honest ones, and what a dishonest requester could have it sign."""

import contextlib
from dataclasses import dataclass, replace

from tpm2_pytss import (
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPML_DIGEST,
    TPML_PCR_SELECTION,
    TPMT_PUBLIC,
    TPMT_SIG_SCHEME,
)
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_CC

from vtpm.tpm import Swtpm, properties
from vtpm.tpm.esapi import flushing, policy_session
from vtpm.wire.public_area import pack_public, parse_public
from vtpm.wire.runtime_data import KeyStatement, TpmStatement
from vtpm.wire.templates import Role, Unique, devid_branches, template

QUALIFIER = bytes(range(32))
SIGN_ONLY_FREE = 0x000400F2
"""Attributes of an IDevID: sign without restricted."""


@contextlib.contextmanager
def powered_tpm():
    with Swtpm() as tpm:
        tpm.power_on(None)
        yield tpm


@dataclass(frozen=True)
class Recipe:
    """How a key is made: role, template id, hierarchy, other attributes, and how `unique` is filled."""

    role: Role
    id: str
    hierarchy: ESYS_TR = ESYS_TR.ENDORSEMENT
    attributes: int | None = None
    unique: Unique = Unique.X_AND_Y

    @property
    def public(self):
        public = template(self.role, self.id, unique=self.unique).public
        if self.attributes is not None:
            public = pack_public(replace(parse_public(public), attributes=self.attributes))
        return public


@contextlib.contextmanager
def created(esapi, recipe):
    public, _ = TPMT_PUBLIC.unmarshal(recipe.public)
    handle, made, *_ = esapi.create_primary(
        TPM2B_SENSITIVE_CREATE(), TPM2B_PUBLIC(publicArea=public), recipe.hierarchy
    )
    with flushing(esapi, handle):
        yield handle, KeyStatement(recipe.id, bytes(made.publicArea.marshal()))


def keys_of(tpm, recipes):
    statements = []
    for recipe in recipes:
        with tpm.esapi("making a key") as esapi, created(esapi, recipe) as (_, statement):
            statements.append(statement)
    return statements


def certified(tpm, signer, subject, qualifier=QUALIFIER):
    """TPM2_Certify of one key by another: attest, signature."""
    with (
        tpm.esapi("certifying") as esapi,
        created(esapi, signer) as (signing, _),
        created(esapi, subject) as (object_, _),
    ):
        name_alg = template(subject.role, subject.id).name_alg
        with policy_session(esapi, name_alg) as session:
            esapi.policy_secret(ESYS_TR.ENDORSEMENT, session)
            esapi.policy_command_code(session, TPM2_CC.Certify)
            esapi.policy_or(session, TPML_DIGEST(list(devid_branches(subject.role, name_alg))))
            attest, signature = esapi.certify(
                object_, signing, qualifier, TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL), session1=session
            )
    return bytes(attest), bytes(signature.marshal())


def self_certified(tpm, recipe, qualifier=QUALIFIER):
    """TPM2_Certify of a key by itself."""
    name_alg = template(recipe.role, recipe.id).name_alg
    with (
        tpm.esapi("certifying") as esapi,
        created(esapi, recipe) as (handle, _),
        policy_session(esapi, name_alg) as session,
    ):
        esapi.policy_secret(ESYS_TR.ENDORSEMENT, session)
        esapi.policy_command_code(session, TPM2_CC.Certify)
        esapi.policy_or(session, TPML_DIGEST(list(devid_branches(recipe.role, name_alg))))
        attest, signature = esapi.certify(
            handle, handle, qualifier, TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL), session1=session
        )
    return bytes(attest), bytes(signature.marshal())


def quoted(tpm, signer, qualifier=QUALIFIER):
    """TPM2_Quote of PCR 0 by a key."""
    with tpm.esapi("quoting") as esapi, created(esapi, signer) as (handle, _):
        attest, signature = esapi.quote(handle, TPML_PCR_SELECTION.parse("sha256:0"), qualifier)
    return bytes(attest), bytes(signature.marshal())


def statement_of(tpm, eks, iak, idevid):
    """What an SVSM would state about the TPM and these keys."""
    manufacturer, vendor, firmware, spec = properties(tpm)
    return TpmStatement(tuple(eks), iak, idevid, manufacturer, vendor, firmware, spec, "manufactured")


def honest(tpm, eks, iak, idevid, unique=Unique.X_AND_Y):
    """Statement, attest and signature of an honest TPM with these templates."""
    iak_recipe = Recipe(Role.IAK, iak, unique=unique)
    idevid_recipe = Recipe(Role.IDEVID, idevid, unique=unique)
    made = keys_of(tpm, [*(Recipe(Role.EK, ek) for ek in eks), iak_recipe, idevid_recipe])
    return statement_of(tpm, made[:-2], made[-2], made[-1]), *certified(tpm, iak_recipe, idevid_recipe)
