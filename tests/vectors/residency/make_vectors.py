"""Record the residency vectors with a real swtpm: `python make_vectors.py` rewrites vectors.json beside it.

Each case has the statement, TPMS_ATTEST, TPMT_SIGNATURE, the qualifying data that the verifier expects, and
`refused_by`: the ids of all rules that say no, empty for an honest proof.
"""

import json
from dataclasses import replace
from pathlib import Path

from real_tpm import (
    QUALIFIER,
    SIGN_ONLY_FREE,
    Recipe,
    certified,
    honest,
    keys_of,
    powered_tpm,
    quoted,
    self_certified,
    statement_of,
)
from tpm2_pytss.constants import ESYS_TR

from vtpm.wire.templates import Role, Unique

HONEST = {
    "default": (["L-1"], "H-3", "H-3"),
    "all-rsa-2048": (["H-1"], "H-1", "H-1"),
    "all-p256": (["L-2"], "H-2", "H-2"),
    "all-p521": (["H-4"], "H-4", "H-4"),
    "all-rsa-3072": (["H-6"], "R-3072", "R-3072"),
    "four-eks": (["L-1", "L-2", "H-2", "H-3"], "H-3", "H-3"),
    "mixed-sha384-sha256": (["L-1"], "H-3", "H-2"),
    "mixed-sha256-sha512": (["H-3"], "H-1", "H-4"),
}
OWNER = ESYS_TR.OWNER
IAK = Recipe(Role.IAK, "H-3")
IDEVID = Recipe(Role.IDEVID, "H-3")
EK = Recipe(Role.EK, "L-2")


def case(statement, attest, signature, *refused_by, qualifier=QUALIFIER):
    return {
        "statement": statement.to_json(),
        "qualifier": qualifier.hex(),
        "attest": attest.hex(),
        "signature": signature.hex(),
        "refused_by": sorted(refused_by),
    }


def dishonest(tpm, other):
    def stated(iak, idevid):
        ek, iak_key, idevid_key = keys_of(tpm, [EK, iak, idevid])
        return statement_of(tpm, [ek], iak_key, idevid_key)

    owner_iak, owner_idevid = replace(IAK, hierarchy=OWNER), replace(IDEVID, hierarchy=OWNER)
    free_iak = replace(IAK, attributes=SIGN_ONLY_FREE)
    good = stated(IAK, IDEVID)
    # For signers outside the endorsement and platform hierarchies a TPM obfuscates the firmware version as well.
    yield (
        "owner-iak",
        case(
            stated(owner_iak, IDEVID),
            *certified(tpm, owner_iak, IDEVID),
            "certify.signer",
            "certify.firmware",
        ),
    )
    yield (
        "owner-idevid",
        case(stated(IAK, owner_idevid), *certified(tpm, IAK, owner_idevid), "certify.qualified-name"),
    )
    yield (
        "owner-both",
        case(
            stated(owner_iak, owner_idevid),
            *certified(tpm, owner_iak, owner_idevid),
            "certify.signer",
            "certify.qualified-name",
            "certify.firmware",
        ),
    )
    yield (
        "unrestricted-iak",
        case(
            stated(free_iak, IDEVID),
            *certified(tpm, free_iak, IDEVID),
            "tpm.iak-template",
            "tpm.iak-attributes",
        ),
    )
    yield (
        "idevid-signs-itself",
        case(good, *self_certified(tpm, IDEVID), "certify.signer", "certify.signature"),
    )
    yield (
        "idevid-poses-as-iak",
        case(
            replace(good, iak=good.idevid),
            *self_certified(tpm, IDEVID),
            "tpm.iak-template",
            "tpm.iak-attributes",
            "tpm.keys-distinct",
        ),
    )
    (foreign_iak,) = keys_of(other, [IAK])
    yield (
        "iak-of-another-tpm",
        case(
            replace(good, iak=foreign_iak),
            *certified(tpm, IAK, IDEVID),
            "certify.signer",
            "certify.signature",
        ),
    )
    (foreign_idevid,) = keys_of(other, [IDEVID])
    yield (
        "idevid-of-another-tpm",
        case(
            replace(good, idevid=foreign_idevid),
            *certified(tpm, IAK, IDEVID),
            "certify.name",
            "certify.qualified-name",
        ),
    )
    yield (
        "another-key-certified",
        case(
            good, *certified(tpm, IAK, Recipe(Role.IDEVID, "H-2")), "certify.name", "certify.qualified-name"
        ),
    )
    yield (
        "made-for-other-data",
        case(good, *certified(tpm, IAK, IDEVID, bytes(32)), "certify.qualifier"),
    )
    yield (
        "no-qualifying-data",
        case(good, *certified(tpm, IAK, IDEVID, b""), "certify.qualifier"),
    )
    yield (
        "firmware-claimed-newer",
        case(
            replace(good, firmware="2019102300163637"),
            *certified(tpm, IAK, IDEVID),
            "certify.firmware",
        ),
    )
    yield (
        "quote-for-certify",
        case(
            good,
            *quoted(tpm, IAK),
            "certify.form",
            "certify.type",
            "certify.qualifier",
            "certify.name",
            "certify.qualified-name",
            "certify.signer",
            "certify.firmware",
        ),
    )


def main():
    cases = {}
    with powered_tpm() as tpm:
        for name, templates in HONEST.items():
            cases[name] = case(*honest(tpm, *templates))
        cases["swtpm-unique"] = case(*honest(tpm, ["H-3"], "H-3", "H-3", Unique.X_ONLY))
        with powered_tpm() as other:
            cases.update(dishonest(tpm, other))
    path = Path(__file__).with_name("vectors.json")
    path.write_text(json.dumps(cases, indent=1) + "\n")
    print(f"{len(cases)} cases")


if __name__ == "__main__":
    main()
