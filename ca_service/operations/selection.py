"""What an operator means by a cause: the arguments of a revocation, read and looked up."""

import re
from collections.abc import Mapping
from datetime import datetime

from ca_service.judgment import BadRequest, NotFound, Unavailable
from ca_service.operations.certificates import read_serial
from ca_service.policy import load
from ca_service.policy.entries.floors import meets
from ca_service.store import Cause, Transaction
from vtpm.wire.encoding import Members, unb64url
from vtpm.wire.errors import WireError
from vtpm.wire.grant import check_resource
from vtpm.wire.message_fields import parse_time
from vtpm.wire.report import TCB_LAYOUT, Product

_MEASUREMENT, _CHIP, _SHORT_CHIP, _THUMBPRINT = 48, 64, 8, 32
_MOST_LEVEL = 255
_KBS_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")
_FLOOR = re.compile(r"([A-Za-z]+):((?:[a-z]+=[0-9]{1,3})(?:,[a-z]+=[0-9]{1,3})*)\Z")

_SELECTORS = (
    "serial", "instance", "kbs_key", "kbs", "chip", "measurement", "tcb_below", "policy_version",
)  # fmt: skip
"""Arguments that choose; each one narrows what the others choose."""


def read_cause(arguments: Members, tx: Transaction) -> Cause:
    """Take the selectors from the arguments.

    Raises:
        BadRequest: there is none, or one is malformed.
        WireError: likewise.
        NotFound: a certificate, an instance or a policy version is named that does not exist.
    """
    if not any(arguments.has(name) for name in _SELECTORS):
        raise BadRequest(
            "", "names nothing to revoke", remedy="Choose with one or more of " + ", ".join(_SELECTORS) + "."
        )
    kbs_id, resource, salt = _instance(arguments, tx)
    kbs = _kbs(arguments)
    return Cause(
        serial=_serial(arguments, tx),
        kbs_id=kbs_id,
        resource=resource,
        salt=salt,
        measurement=_hex(arguments, "measurement", _MEASUREMENT),
        chip_id=_chip(arguments),
        kbs_key=_thumbprint(arguments),
        kbs=kbs,
        kbs_keys=() if kbs is None else keys_of(tx, kbs),
        since=_since(arguments),
        tcbs=_tcbs(arguments, tx),
        policy_version=_policy_version(arguments, tx),
    )


def _serial(arguments: Members, tx: Transaction) -> str | None:
    if not arguments.has("serial"):
        return None
    serial = read_serial(arguments)
    row = tx.certificates.get(serial)
    if row is None or row.der is None:
        raise NotFound("there is no issued certificate with this serial number")
    return serial


def _instance(arguments: Members, tx: Transaction) -> tuple[str | None, str | None, str | None]:
    if not arguments.has("instance"):
        return None, None, None
    members = arguments.members("instance")
    kbs = members.text("kbs", most=128)
    resource = check_resource(members.text("resource", most=128), members.at("resource"))
    salt = members.text("salt", least=0, most=512) if members.has("salt") else None
    members.end()
    if not tx.causes.has_instance(kbs, resource, salt):
        raise NotFound("there is no such instance", remedy="`vtpm-ca instance list` names them.")
    return kbs, resource, salt


def _hex(arguments: Members, name: str, size: int) -> str | None:
    return arguments.hex(name, size=size).hex() if arguments.has(name) else None


def _chip(arguments: Members) -> str | None:
    """A CHIP_ID as the report has it, or the 8 bytes of it that Turin fills."""
    if not arguments.has("chip"):
        return None
    chip = arguments.hex("chip", most=_CHIP)
    if len(chip) not in (_CHIP, _SHORT_CHIP):
        raise BadRequest("chip", f"must be {_CHIP} bytes in hex, or the {_SHORT_CHIP} that Turin has")
    if not any(chip):
        raise BadRequest("chip", "is no chip: a platform that masks its chip id reports zeros")
    return chip.ljust(_CHIP, b"\0").hex()


def _thumbprint(arguments: Members) -> str | None:
    if not arguments.has("kbs_key"):
        return None
    text = arguments.text("kbs_key", most=128)
    unb64url(text, "kbs_key", size=_THUMBPRINT)
    return text


def _kbs(arguments: Members) -> str | None:
    if not arguments.has("kbs"):
        return None
    text = arguments.text("kbs", most=128)
    if not _KBS_ID.match(text):
        raise BadRequest("kbs", "must be the id of a [[kbs]] entry of the policy")
    return text


def keys_of(tx: Transaction, kbs: str) -> tuple[str, ...]:
    """Thumbprints of all keys that a KBS has in a version that came in force, or will, if this release can read it."""
    found = set[str]()
    for row in tx.policies.released():
        try:
            policy = load(row.text)
        except BadRequest:
            continue
        found |= {thumbprint for thumbprint, entry in policy.kbs.items() if entry.id == kbs}
    return tuple(sorted(found))


def _since(arguments: Members) -> datetime | None:
    """From when on a KBS's key counts as another's; that all of its decisions count must be said."""
    about_kbs = arguments.has("kbs_key") or arguments.has("kbs")
    every = arguments.boolean("all") if arguments.has("all") else False
    since = (
        parse_time(arguments.text("compromised_since", most=20), "compromised_since")
        if arguments.has("compromised_since")
        else None
    )
    if not about_kbs and (every or since):
        raise BadRequest("all" if every else "compromised_since", "goes with kbs_key or kbs only")
    if about_kbs and every == (since is not None):
        raise BadRequest(
            "compromised_since",
            "is needed with kbs_key and kbs, or else all",
            remedy="Say from when on the key was not its owner's alone. If secrets leaked that it keeps, all of its "
            "decisions count.",
        )
    return since


def _tcbs(arguments: Members, tx: Transaction) -> tuple[tuple[str, str], ...] | None:
    """Every REPORTED_TCB on record that is below the floor of its product."""
    if not arguments.has("tcb_below"):
        return None
    floors: dict[Product, Mapping[str, int]] = {}
    for value, path in arguments.array("tcb_below", 1, len(Product)):
        product, floor = _floor(value, path)
        if product in floors:
            raise WireError(path, "names a product a second time")
        floors[product] = floor
    return tuple(
        (product.value, raw)
        for product, floor in floors.items()
        for raw in tx.causes.tcbs(product.value)
        if _is_below(raw, floor, product)
    )


def _is_below(raw: str, floor: Mapping[str, int], product: Product) -> bool:
    try:
        return not meets(bytes.fromhex(raw), floor, product)
    except (ValueError, WireError):
        raise Unavailable(
            "a TCB beside the evidence in the database is none",
            code="store",
            remedy="Run `vtpm-ca audit verify`; choose by --instance meanwhile.",
        ) from None


def _floor(value: object, path: str) -> tuple[Product, dict[str, int]]:
    """A floor such as ``Milan:snp=20,microcode=210``."""
    match = _FLOOR.match(value) if isinstance(value, str) else None
    if match is None:
        raise WireError(path, "must be PRODUCT:COMPONENT=LEVEL,... such as Milan:snp=20,microcode=210")
    product = next((product for product in Product if product.value.lower() == match[1].lower()), None)
    if product is None:
        raise WireError(path, "must begin with one of " + ", ".join(Product))
    floor: dict[str, int] = {}
    for part in match[2].split(","):
        component, level = part.split("=")
        if component not in TCB_LAYOUT[product] or component in floor:
            known = ", ".join(TCB_LAYOUT[product])
            raise WireError(path, f"must name components of {product}, each once: {known}")
        if int(level) > _MOST_LEVEL:
            raise WireError(path, f"must have levels up to {_MOST_LEVEL}")
        floor[component] = int(level)
    return product, floor


def _policy_version(arguments: Members, tx: Transaction) -> int | None:
    if not arguments.has("policy_version"):
        return None
    version = arguments.integer("policy_version", 1, 2**31 - 1)
    if tx.policies.get(version) is None:
        raise NotFound(f"there is no policy of version {version}", remedy="`vtpm-ca policy log` names them.")
    return version
