"""Documents that cannot be meant: each is refused with these words, at this place, and the entry's name."""

from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from document_edits import both, drop, edited, put, twice, twice_last

from ca_service.judgment import BadRequest
from ca_service.policy import load, load_complete

ORG, SECOND = "org-kbs", "second-kbs"
LOCAL = datetime(2026, 1, 1)  # noqa: DTZ001
"""A time without a zone."""

# What is changed in the fixture `content`, the place, the words, and the entry.
ERRORS = [
    (drop("schema"), "schema", "is missing", None),
    (put("schema", value=2), "schema", "must be at most 1", None),
    (put("schema", value=True), "schema", "must be a whole number", None),
    (put("schema", value="1"), "schema", "must be a whole number", None),
    (put("surprise", value=1), "surprise", "is no member of this table", None),
    (put("grant", "surprise", value=1), "grant.surprise", "is no member of this table", None),
    (put("grant", "max_age_s", value=0), "grant.max_age_s", "must be at least 1", None),
    (put("grant", "max_age_s", value=10**9), "grant.max_age_s", "must be at most 604800", None),
    (put("grant", "max_age_s", value="3600"), "grant.max_age_s", "must be a whole number", None),
    (put("grant", "max_age_s", value=True), "grant.max_age_s", "must be a whole number", None),
    (drop("grant", "max_age_s"), "grant.max_age_s", "is missing", None),
    (put("tpm", "ek", value=[]), "tpm.ek", "must not be empty", None),
    (put("tpm", "ek", value=["L-1", "L-9"]),
     "tpm.ek[1]", "must be one of L-1, L-2, H-1, H-2, H-3, H-4, H-6", None),
    (put("tpm", "iak", value=["L-1"]), "tpm.iak[0]", "must be one of H-1, H-2, H-3, H-4, R-3072", None),
    (put("tpm", "ek", value=["L-1", "L-1"]), "tpm.ek[1]", "stands twice", None),
    (drop("tpm", "idevid"), "tpm.idevid", "is missing", None),
    (put("store", "formats", value=[]), "store.formats", "must not be empty", None),
    (put("store", "formats", value=["cocoonfs/1", "cocoonfs/1"]), "store.formats[1]", "stands twice", None),
    (put("store", "formats", value=["cocoonfs"]),
     "store.formats[0]", 'must be a name and a version, such as "cocoonfs/1"', None),
    (put("store", "formats", value=["none"]),
     "store.formats[0]", 'must be a name and a version, such as "cocoonfs/1"', None),
    (put("kbs", 0, "id", value="Org KBS"),
     "kbs[0].id", "must be 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit", "Org KBS"),
    (put("kbs", 0, "id", value=""),
     "kbs[0].id", "must be 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit", ""),
    (put("kbs", 0, "id", value="unlisted:x"),
     "kbs[0].id", "must be 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit", "unlisted:x"),
    (put("kbs", 1, "id", value="org-kbs"), "kbs[1].id", "stands twice", ORG),
    (put("kbs", 0, "surprise", value=1), "kbs[0].surprise", "is no member of this table", ORG),
    (put("kbs", 0, "status", value="fine"), "kbs[0].status", "must be trusted, suspended or compromised", ORG),
    (drop("kbs", 0, "status"), "kbs[0].status", "is missing", ORG),
    (put("kbs", 0, "status", value="compromised"),
     "kbs[0]", "compromised_since belongs to the status compromised, and to it alone", ORG),
    (put("kbs", 0, "compromised_since", value=datetime(2026, 1, 1, tzinfo=UTC)),
     "kbs[0]", "compromised_since belongs to the status compromised, and to it alone", ORG),
    (put("kbs", 0, "valid_from", value=datetime(2027, 1, 1, tzinfo=UTC)),
     "kbs[0]", "valid_from must be before valid_to", ORG),
    (put("kbs", 0, "valid_from", value=LOCAL),
     "kbs[0].valid_from", "must have a time zone, such as Z at its end", ORG),
    (put("kbs", 0, "valid_from", value="2026-01-01T00:00:00Z"),
     "kbs[0].valid_from", "must be a date and time", ORG),
    (put("kbs", 0, "origins", value=[]), "kbs[0].origins", "must not be empty", ORG),
    (put("kbs", 0, "origins", value=["anywhere"]),
     "kbs[0].origins[0]", "must be kbs-generated or provisioned", ORG),
    (put("kbs", 0, "origins", value=["provisioned", "provisioned"]), "kbs[0].origins[1]", "stands twice", ORG),
    (drop("kbs", 0, "origins"), "kbs[0].origins", "is missing", ORG),
    (put("kbs", 0, "release_policies", value=[]), "kbs[0].release_policies", "must not be empty", ORG),
    (put("kbs", 0, "release_policies", value=["AB" * 32]),
     "kbs[0].release_policies[0]", "must be 64 lower-case hex digits", ORG),
    (put("kbs", 0, "release_policies", value=["ab" * 31]),
     "kbs[0].release_policies[0]", "must be 64 lower-case hex digits", ORG),
    (twice("kbs", 0, "release_policies"), "kbs[0].release_policies[2]", "stands twice", ORG),
    (put("kbs", 0, "key", value=[]), "kbs[0].key", "must not be empty", ORG),
    (put("kbs", 0, "key", 0, value={}), "kbs[0].key[0]", "needs either jwk or pem", ORG),
    (put("kbs", 0, "key", 0, "pem", value="x"), "kbs[0].key[0]", "needs either jwk or pem", ORG),
    (put("kbs", 0, "key", 0, value={"pem": "x"}), "kbs[0].key[0].pem", "is no public key in PEM", ORG),
    (put("kbs", 0, "key", 0, "jwk", "x", value="AAAA"), "kbs[0].key[0].jwk.x", "must be 48 bytes, is 3", ORG),
    (put("kbs", 0, "key", 0, "jwk", "d", value="AAAA"),
     "kbs[0].key[0].jwk.d", "is no member of this object", ORG),
    (put("kbs", 0, "key", 0, "jwk", "crv", value="P-521"),
     "kbs[0].key[0].jwk.crv", "must be one of P-256, P-384", ORG),
    (put("kbs", 0, "key", 0, "jwk", "kty", value=3), "kbs[0].key[0].jwk.kty", "must be a string", ORG),
    (drop("kbs", 0, "key", 0, "jwk", "y"), "kbs[0].key[0].jwk.y", "is missing", ORG),
    (twice("kbs", 0, "key"), "kbs[0].key[2]", 'the key is listed already, under "org-kbs"', ORG),
    (put("kbs", 0, "resource", value=[]), "kbs[0].resource", "must not be empty", ORG),
    (put("kbs", 0, "resource", 0, "pattern", value="default/*"),
     "kbs[0].resource[0].pattern", "must be repository/type/tag of letters, digits, '_', '-' and inner '.'", ORG),
    (put("kbs", 0, "resource", 0, "pattern", value="default/vtpm/vm-*"),
     "kbs[0].resource[0].pattern", "must be repository/type/tag of letters, digits, '_', '-' and inner '.'", ORG),
    (put("kbs", 0, "resource", 0, "pattern", value="a/b/c/d"),
     "kbs[0].resource[0].pattern", "must be repository/type/tag of letters, digits, '_', '-' and inner '.'", ORG),
    (put("kbs", 0, "resource", 0, "pattern", value="**/b/c"),
     "kbs[0].resource[0].pattern", "must be repository/type/tag of letters, digits, '_', '-' and inner '.'", ORG),
    (put("kbs", 0, "resource", 0, "shared", value="yes"),
     "kbs[0].resource[0].shared", "must be true or false", ORG),
    (twice("kbs", 0, "resource"), "kbs[0].resource[2].pattern", "overlaps the pattern at position 0", ORG),
    (put("kbs", 0, "resource", 1, "pattern", value="*/*/*"),
     "kbs[0].resource[1].pattern", "overlaps the pattern at position 0", ORG),
    (put("launch", 0, "measurement", value="11" * 47),
     "launch[0].measurement", "must be 96 lower-case hex digits", "standard"),
    (put("launch", 0, "measurement", value="AA" * 48),
     "launch[0].measurement", "must be 96 lower-case hex digits", "standard"),
    (put("launch", 1, "measurement", value="11" * 48),
     "launch[1].measurement", 'finds the entry "standard" already, on the same platform', "oracle"),
    (put("launch", 1, "name", value="standard"), "launch[1].name", "stands twice", "standard"),
    (put("launch", 0, "capabilities", value=["flies"]),
     "launch[0].capabilities[0]", "must be verifies-grants, reports-state or oracle-free", "standard"),
    (put("launch", 0, "capabilities", value=["oracle-free"] * 2),
     "launch[0].capabilities[1]", "stands twice", "standard"),
    (drop("launch", 0, "capabilities"), "launch[0].capabilities", "is missing", "standard"),
    (put("launch", 0, "products", value=[]), "launch[0].products", "must not be empty", "standard"),
    (put("launch", 0, "products", value=["Rome"]),
     "launch[0].products[0]", "must be Milan, Genoa or Turin", "standard"),
    (put("launch", 0, "products", value=["Milan", "Milan"]),
     "launch[0].products[1]", "stands twice", "standard"),
    (put("kbs", 0, "ear", value={"max_age_s": 60, "key": []}), "kbs[0].ear.key", "must not be empty", ORG),
    (put("kbs", 0, "ear", value={"max_age_s": 60}), "kbs[0].ear.key", "is missing", ORG),
    (put("kbs", 0, "ear", value={"key": [{"pem": "x"}]}), "kbs[0].ear.max_age_s", "is missing", ORG),
    (put("kbs", 0, "ear", value={"max_age_s": 0, "key": [{"pem": "x"}]}),
     "kbs[0].ear.max_age_s", "must be at least 1", ORG),
    (put("kbs", 0, "ear", value={"max_age_s": 604801, "key": [{"pem": "x"}]}),
     "kbs[0].ear.max_age_s", "must be at most 604800", ORG),
    (put("kbs", 0, "ear", value={"max_age_s": 60, "key": [{"pem": "x"}]}),
     "kbs[0].ear.key[0].pem", "is no public key in PEM", ORG),
    (put("launch", 0, "id_keys", value=[]), "launch[0].id_keys", "must not be empty", "standard"),
    (put("launch", 0, "id_keys", value=["00" * 48]),
     "launch[0].id_keys[0]", "must not be all zero: that is how a report says that it has none", "standard"),
    (put("launch", 0, "id_keys", value=["5a" * 47]),
     "launch[0].id_keys[0]", "must be 96 lower-case hex digits", "standard"),
    (put("launch", 0, "id_keys", value=["5a" * 48] * 2), "launch[0].id_keys[1]", "stands twice", "standard"),
    (put("launch", 2, "author_keys", value=["00" * 48]),
     "launch[2].author_keys[0]", "must not be all zero: that is how a report says that it has none", "signed"),
    (twice("launch", 0, "host_data"), "launch[0].host_data[2]", "stands twice", "standard"),
    (put("launch", 0, "host_data", value=["d0" * 31]),
     "launch[0].host_data[0]", "must be 64 lower-case hex digits", "standard"),
    (put("launch", 0, "family_ids", value=["fa" * 17]),
     "launch[0].family_ids[0]", "must be 32 lower-case hex digits", "standard"),
    (put("launch", 0, "image_ids", value=[]), "launch[0].image_ids", "must not be empty", "standard"),
    (put("launch", 0, "min_guest_svn", value=-1), "launch[0].min_guest_svn", "must be at least 0", "standard"),
    (put("launch", 0, "min_guest_svn", value=1 << 32),
     "launch[0].min_guest_svn", "must be at most 4294967295", "standard"),
    (put("launch", 0, "min_abi", value="1"),
     "launch[0].min_abi", 'must be major.minor, such as "1.51"', "standard"),
    (put("launch", 0, "min_abi", value="1.256"),
     "launch[0].min_abi", "must have numbers of at most 255", "standard"),
    (put("launch", 0, "min_abi", value="1.051"),
     "launch[0].min_abi", 'must be major.minor, such as "1.51"', "standard"),
    (put("launch", 0, "min_abi", value=1.51), "launch[0].min_abi", "must be a string", "standard"),
    (put("launch", 0, "guest_policy", "forbid", value=["smt"]),
     "launch[0].guest_policy",
     'each bit must stand once in require, forbid or either: "cxl" is missing, and 2 more problems',
     "standard"),
    (put("launch", 0, "guest_policy", "require", value=["cxl"]),
     "launch[0].guest_policy",
     'each bit must stand once in require, forbid or either: "cxl" stands twice, and 2 more problems',
     "standard"),
    (put("launch", 0, "guest_policy", "require", value=["debug"]),
     "launch[0].guest_policy.require[0]",
     ("must be one of smt, single-socket, cxl, aes-256-xts, rapl-disabled, ciphertext-hiding, "
     "page-swap-disabled, and 2 more problems"),
     "standard"),
    (drop("launch", 0, "guest_policy", "either"),
     "launch[0].guest_policy.either", "is missing, and 2 more problems", "standard"),
    (put("launch", 0, "platform", value="elsewhere"),
     "launch[0].platform", "there is no platform of this name", "standard"),
    (put("launch", 0, "products", value=["Milan", "Turin"]),
     "launch[0].products[1]", 'the platform "fleet" has no tcb entry for this product', "standard"),
    (put("launch", 0, "unconstrained", value=["author-key"] * 2),
     "launch[0].unconstrained[1]", "stands twice", "standard"),
    (put("launch", 0, "unconstrained", value=["author-key", "abi"]),
     "launch[0].unconstrained[1]", 'min_abi is stated, so "abi" cannot be unconstrained', "standard"),
    (put("launch", 0, "unconstrained", value=["product"]),
     "launch[0].unconstrained[0]",
     ("must be measurement, id-key, author-key, host-data, family-id, image-id, guest-svn, abi or "
     "guest-policy"),
     "standard"),
    (lambda content: [content["launch"][2].pop(name) for name in ("id_keys", "author_keys")],
     "launch[2]", "needs measurement, id_keys or author_keys: something must say what was launched", "signed"),
    (twice("platform"), "platform[1].name", "stands twice", "fleet"),
    (put("platform", 0, "name", value=""),
     "platform[0].name", "must be 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit", ""),
    (put("platform", 0, "keys", value=[]), "platform[0].keys", "must not be empty", "fleet"),
    (put("platform", 0, "keys", value=["VCEK", "VCEK"]), "platform[0].keys[1]", "stands twice", "fleet"),
    (put("platform", 0, "keys", value=["none"]), "platform[0].keys[0]", "must be VCEK or VLEK", "fleet"),
    (put("platform", 0, "report_versions", value=[1]),
     "platform[0].report_versions[0]", "must be 2, 3, 4 or 5", "fleet"),
    (put("platform", 0, "report_versions", value=[6]),
     "platform[0].report_versions[0]", "must be 2, 3, 4 or 5", "fleet"),
    (put("platform", 0, "report_versions", value=[3, 3]),
     "platform[0].report_versions[1]", "stands twice", "fleet"),
    (put("platform", 0, "platform_info", "forbid", value=[]),
     "platform[0].platform_info",
     'each bit must stand once in require, forbid or either: "tio" is missing',
     "fleet"),
    (twice("platform", 0, "platform_info", "forbid"),
     "platform[0].platform_info",
     'each bit must stand once in require, forbid or either: "tio" stands twice',
     "fleet"),
    (put("platform", 0, "platform_info", value=
     {"require": ["other"], "forbid": ["tio"],
      "either": ["ecc", "alias-check", "smt", "tsme", "rapl-disabled", "ciphertext-hiding"]}),
     "platform[0].platform_info", '"other" stands for many bits: they can be forbidden, but not required', "fleet"),
    (put("platform", 0, "mitigations", "launch", value=-1),
     "platform[0].mitigations.launch", "must be at least 0", "fleet"),
    (put("platform", 0, "mitigations", "current", value=1 << 53),
     "platform[0].mitigations.current", "must be at most 9007199254740991", "fleet"),
    (put("platform", 0, "chips", value={}), "platform[0].chips", "needs either allow or deny", "fleet"),
    (put("platform", 0, "chips", "deny", value=["01" * 64]),
     "platform[0].chips", "needs either allow or deny", "fleet"),
    (put("platform", 0, "chips", "allow", value=[]), "platform[0].chips.allow", "must not be empty", "fleet"),
    (put("platform", 0, "chips", "allow", value=["00" * 64]),
     "platform[0].chips.allow[0]", "must not be all zero: that is how a report says that it has none", "fleet"),
    (put("platform", 0, "chips", "allow", value=["00" * 8]),
     "platform[0].chips.allow[0]", "must not be all zero: that is how a report says that it has none", "fleet"),
    (put("platform", 0, "chips", "allow", value=["01" * 32]),
     "platform[0].chips.allow[0]", "must be 128 lower-case hex digits, or 16 on Turin", "fleet"),
    (put("platform", 0, "chips", "allow", value=["01" * 8, "01" * 8 + "00" * 56]),
     "platform[0].chips.allow[1]", "stands twice", "fleet"),
    (put("platform", 0, "provisional_firmware", value="no"),
     "platform[0].provisional_firmware", "must be true or false", "fleet"),
    (put("platform", 0, "crl_max_age_days", value=0),
     "platform[0].crl_max_age_days", "must be at least 1", "fleet"),
    (put("platform", 0, "unconstrained", value=["stated"]),
     "platform[0].unconstrained[0]",
     ("must be signing-key, report-version, info, launch-mitigations, current-mitigations, chip, "
     "provisional-firmware, crl-age, reported-tcb, committed-tcb, launch-tcb, api or build"),
     "fleet"),
    (put("platform", 0, "unconstrained", value=["build"]),
     "platform[0].unconstrained[0]", 'firmware is stated, so "build" cannot be unconstrained', "fleet"),
    (put("platform", 0, "tcb", 0, "product", value="Rome"),
     "platform[0].tcb[0].product", "must be Milan, Genoa or Turin", "fleet"),
    (drop("platform", 0, "tcb", 0, "reported", "tee"),
     "platform[0].tcb[0]", "reported must have exactly bootloader, tee, snp, microcode on Milan", "fleet"),
    (put("platform", 0, "tcb", 0, "launch", "fmc", value=0),
     "platform[0].tcb[0]", "launch must have exactly bootloader, tee, snp, microcode on Milan", "fleet"),
    (put("platform", 0, "tcb", 0, "product", value="Turin"),
     "platform[0].tcb[0]", "reported must have exactly fmc, bootloader, tee, snp, microcode on Turin", "fleet"),
    (put("platform", 0, "tcb", 0, "reported", "snp", value=256),
     "platform[0].tcb[0].reported.snp", "must be at most 255", "fleet"),
    (put("platform", 0, "tcb", 0, "firmware", value="1"),
     "platform[0].tcb[0].firmware", 'must be major.minor, or with the build, such as "1.55.29"', "fleet"),
    (put("platform", 0, "tcb", 0, "firmware", value="1.55.300"),
     "platform[0].tcb[0].firmware", "must have numbers of at most 255", "fleet"),
    (put("platform", 0, "tcb", 0, "firmware", value="1.55.29.0"),
     "platform[0].tcb[0].firmware", 'must be major.minor, or with the build, such as "1.55.29"', "fleet"),
    (put("platform", 0, "tcb", 0, "from", value=datetime(2026, 1, 1, tzinfo=UTC)),
     "platform[0].tcb[0].from", "the first floor of a product holds from the beginning", "fleet"),
    (drop("platform", 0, "tcb", 2, "from"),
     "platform[0].tcb[2].from", "a further floor of a product needs a date after the earlier one's", "fleet"),
    (put("platform", 0, "tcb", 2, "from", value=LOCAL),
     "platform[0].tcb[2].from", "must have a time zone, such as Z at its end", "fleet"),
    (twice_last("platform", 0, "tcb"),
     "platform[0].tcb[3].from", "a further floor of a product needs a date after the earlier one's", "fleet"),
    (put("platform", 0, "tcb", 2, "reported", "microcode", value=218),
     "platform[0].tcb[2].reported",
     "floors that contradict: reported.microcode is below the earlier floor's",
     "fleet"),
    (put("platform", 0, "tcb", 2, "committed", "bootloader", value=3),
     "platform[0].tcb[2].committed",
     "floors that contradict: committed.bootloader is below the earlier floor's",
     "fleet"),
    (put("platform", 0, "tcb", 2, "launch", "snp", value=26),
     "platform[0].tcb[2].launch", "floors that contradict: launch.snp is below the earlier floor's", "fleet"),
    (put("platform", 0, "tcb", 2, "firmware", value="1.55.28"),
     "platform[0].tcb[2].firmware", "floors that contradict: firmware is below the earlier floor's", "fleet"),
    (drop("platform", 0, "tcb", 1),
     "launch[0].products[1]", 'the platform "fleet" has no tcb entry for this product', "standard"),
    (put("unsafe", value=[{"name": "UnsafeAllowAll", "gives_up": "x"}]),
     "unsafe[0].name",
     ("must be UnsafeAllowAnyMeasurement, UnsafeAllowMissingCapabilities, UnsafeAllowAnyPlatform, "
     "UnsafeAllowAnyKbs, UnsafeAllowAnyResource, UnsafeAllowAnyOrigin, UnsafeAllowAnyReleasePolicy, "
     "UnsafeAllowAnyGrantAge or UnsafeAllowVolatileStore"),
     "UnsafeAllowAll"),
    (put("unsafe", value=[{"name": "UnsafeAllowAnyKbs"}]),
     "unsafe[0].gives_up", "is missing", "UnsafeAllowAnyKbs"),
    (put("unsafe", value=[{"name": "UnsafeAllowAnyKbs", "gives_up": ""}]),
     "unsafe[0].gives_up", "must be 1 to 256 printable ASCII characters", "UnsafeAllowAnyKbs"),
    (put("unsafe", value=[{"name": "UnsafeAllowAnyKbs", "gives_up": "x"}] * 2),
     "unsafe[1].name", "stands twice", "UnsafeAllowAnyKbs"),
    (put("tpm", "ek", value=["L-1", "H-5"]),
     "tpm.ek[1]", "must be one of L-1, L-2, H-1, H-2, H-3, H-4, H-6", None),
    (put("tpm", "idevid", value=["H-3", "H-2", "H-3"]), "tpm.idevid[2]", "stands twice", None),
    (put("tpm", "iak", value=["H-3 "]), "tpm.iak[0]", 'must be the id of a key template, such as "H-3"', None),
    (put("tpm", "iak_profile", value="aik"), "tpm.iak_profile", "must be iak or iak-webauthn", None),
    (put("tpm", "aik", value=["H-3"]), "tpm.aik", "is no member of this table", None),
    (put("kbs", 0, "tenant", value=""),
     "kbs[0].tenant", "must be 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit", ORG),
    (put("kbs", 1, "tenant", value="Payments"),
     "kbs[1].tenant", "must be 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit", SECOND),
    (put("kbs", 1, "grant_max_age_s", value=0), "kbs[1].grant_max_age_s", "must be at least 1", SECOND),
    (put("kbs", 0, "grant_max_age_s", value=604_801), "kbs[0].grant_max_age_s", "must be at most 604800", ORG),
    (put("kbs", 0, "grant_max_age_s", value=1.5), "kbs[0].grant_max_age_s", "must be a whole number", ORG),
    (put("kbs", 0, "unconstrained", value=["release-policy"]),
     "kbs[0].unconstrained[0]", 'release_policies is stated, so "release-policy" cannot be unconstrained', ORG),
    (put("kbs", 1, "unconstrained", value=["release-policy"] * 2),
     "kbs[1].unconstrained[1]", "stands twice", SECOND),
    (put("kbs", 1, "unconstrained", value=["origin"]),
     "kbs[1].unconstrained[0]", "must be release-policy", SECOND),
    (both(drop("kbs", 1, "status"), drop("kbs", 1, "origins")),
     "kbs[1].status", "is missing, and 1 more problem", SECOND),
    (both(put("kbs", 0, "label", value="\u00e9"), put("kbs", 1, "x", value=1), drop("grant")),
     "kbs[0].label", "must be 1 to 256 printable ASCII characters, and 1 more problem", ORG),
    (put("certificates", value={}), "certificates", "says nothing: name a role, or leave the table out", None),
    (put("certificates", value={"aik": {"validity": "device-lifetime"}}),
     "certificates.aik", "is no member of this table", None),
    (put("certificates", value={"ek": {}}), "certificates.ek.validity", "is missing", None),
    (put("certificates", value={"ek": {"validity": "forever"}}),
     "certificates.ek.validity", "must be device-lifetime or bounded", None),
    (put("certificates", value={"iak": {"validity": "bounded"}}),
     "certificates.iak", "days belongs to the validity bounded, and to it alone", None),
    (put("certificates", value={"iak": {"validity": "device-lifetime", "days": 1}}),
     "certificates.iak", "days belongs to the validity bounded, and to it alone", None),
    (put("certificates", value={"idevid": {"validity": "bounded", "days": 0}}),
     "certificates.idevid.days", "must be at least 1", None),
    (put("certificates", value={"idevid": {"validity": "bounded", "days": 365_001}}),
     "certificates.idevid.days", "must be at most 365000", None),
    (put("limits", value={}), "limits", "says nothing: name a limit, or leave the table out", None),
    (put("limits", value={"instance_enrolments": 0}), "limits.instance_enrolments", "must be at least 1", None),
    (put("limits", value={"instance_enrolments": 10_001}),
     "limits.instance_enrolments", "must be at most 10000", None),
    (put("limits", value={"instance_window_s": 59}), "limits.instance_window_s", "must be at least 60", None),
    (put("limits", value={"instance_window_s": 604_801}),
     "limits.instance_window_s", "must be at most 604800", None),
    (put("limits", value={"launch_refusals_per_hour": 100_001}),
     "limits.launch_refusals_per_hour", "must be at most 100000", None),
    (put("limits", value={"launch_refusals_per_hour": 0}),
     "limits.launch_refusals_per_hour", "must be at least 1", None),
    (put("limits", value={"launches": 1}), "limits.launches", "is no member of this table", None),
    (put("ephemeral", value={"days": 8, "volatile_stores": True}), "ephemeral.days", "must be at most 7", None),
    (put("ephemeral", value={"days": 1}),
     "ephemeral", "admits nothing: name profiles or set volatile_stores, or leave the table out", None),
    (put("ephemeral", value={"days": 1, "profiles": []}), "ephemeral.profiles", "must not be empty", None),
    (put("ephemeral", value={"days": 1, "profiles": ["amd-svsm-services"] * 2}),
     "ephemeral.profiles[1]", "stands twice", None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("edit", "path", "words", "entry"), ERRORS, ids=[f"{i}-{row[1]}" for i, row in enumerate(ERRORS)]
)
def test_what_cannot_be_meant_is_refused_in_so_many_words(content, toml, edit, path, words, entry):
    with pytest.raises(BadRequest) as caught:
        load(toml(edited(content, edit)))
    assert caught.value.code == "policy-invalid"
    assert caught.value.path == path
    named = "" if entry is None else f' (entry "{entry}")'
    assert caught.value.detail == f"{path}: {words}{named}"


def pem_of(key):
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.mark.parametrize(("kbs", "owner"), [(0, ORG), (1, SECOND)])
def test_a_key_stands_once_in_whatever_form_and_under_whatever_id(content, toml, keys, kbs, owner):
    content["kbs"][kbs]["key"].append({"pem": pem_of(keys[0])})
    at = len(content["kbs"][kbs]["key"]) - 1
    with pytest.raises(BadRequest) as caught:
        load(toml(content))
    assert caught.value.detail == (
        f'kbs[{kbs}].key[{at}]: the key is listed already, under "org-kbs" (entry "{owner}")'
    )


def test_the_same_resource_of_two_key_brokers_is_two_instances(content, toml):
    content["kbs"][1]["resource"] = content["kbs"][0]["resource"]
    load_complete(toml(content))


# -- what judges as it did, but is not put in force any more -----------------------------------------------------

_HIDDEN = {
    "require": ["ciphertext-hiding"],
    "forbid": ["smt", "cxl"],
    "either": ["single-socket", "aes-256-xts"],
}
_SHOWN = {"require": ["ecc", "alias-check"], "forbid": ["tio", "rapl-disabled", "ciphertext-hiding"]}


def hides_what_is_forbidden(content):
    content["launch"][0]["guest_policy"] = _HIDDEN | {
        "either": [*_HIDDEN["either"], "rapl-disabled", "page-swap-disabled"]
    }
    content["platform"][0]["platform_info"] = _SHOWN | {"either": ["smt", "tsme", "other"]}


UNREACHABLE = [
    (
        put("platform", 0, "report_versions", value=[3, 4]),
        (
            "platform[0].mitigations.launch: no report can meet this: before version 5 the vector is zero "
            '(entry "fleet"), and 1 more problem'
        ),
    ),
    (
        both(
            put("platform", 0, "report_versions", value=[4]),
            put("platform", 0, "mitigations", value={"launch": 0, "current": 1}),
        ),
        'platform[0].mitigations.current: no report can meet this: before version 5 the vector is zero (entry "fleet")',
    ),
    (
        hides_what_is_forbidden,
        (
            'launch[0].guest_policy.require[0]: no machine can meet this: the platform "fleet" forbids it '
            '(entry "standard")'
        ),
    ),
]


@pytest.mark.parametrize(("edit", "detail"), UNREACHABLE, ids=range(len(UNREACHABLE)))
def test_what_nothing_can_meet_is_refused_before_it_is_in_force(content, toml, edit, detail):
    text = toml(edited(content, edit))
    assert load(text).contradictions
    with pytest.raises(BadRequest) as caught:
        load_complete(text)
    assert caught.value.code == "policy-invalid"
    assert caught.value.path == detail.partition(": ")[0]
    assert caught.value.detail == detail


def test_a_platform_without_demands_on_mitigations_takes_any_version(content, toml):
    content["platform"][0] |= {"report_versions": [3], "mitigations": {"launch": 0, "current": 0}}
    load_complete(toml(content))


def test_a_second_key_in_one_pem_is_not_passed_over(content, toml, keys):
    content["kbs"][1]["key"] = [{"pem": pem_of(keys[1]) + pem_of(keys[0])}]
    policy = load(toml(content))
    assert policy.kbs[keys[1].thumbprint()].id == SECOND
    with pytest.raises(BadRequest) as caught:
        load_complete(toml(content))
    assert caught.value.detail == (
        'kbs[1].key[0].pem: holds more than one block, and only the first is looked at (entry "second-kbs")'
    )
