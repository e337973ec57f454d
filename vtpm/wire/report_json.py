"""An attestation report in the JSON form of the sev crate, as Trustee takes it for evidence.

Named numbers, byte strings as lists of numbers, a TCB as its named components. The form leaves out reserved
bytes; see `report_to_json`. Source: virtee/sev, AttestationReport and TcbVersion with serde.
"""

from collections.abc import Mapping
from typing import Final

from vtpm.wire.encoding import Members
from vtpm.wire.errors import WireError
from vtpm.wire.report import TCB_LAYOUT, Product, Report, pack_report, pack_signature

_COORDINATE: Final = 72
_U32: Final = 2**32 - 1
_SAFE: Final = 2**53 - 1
_BYTE: Final = 255
_V2: Final = 2
_TURIN_CHIP_ID: Final = 8
_MIT_VECTORS_SINCE: Final = 5
_COMPONENTS: Final = ("bootloader", "tee", "snp", "microcode")


def _layout(report: Report, path: str = "report") -> Mapping[str, int]:
    """The TCB layout that the sev crate takes for a report."""
    if report.version <= _V2:
        if not any(report.chip_id):
            raise WireError(path, "a version 2 report with a masked chip id does not tell its product")
        turin = not any(report.chip_id[_TURIN_CHIP_ID:])
        return TCB_LAYOUT[Product.TURIN if turin else Product.GENOA]
    product = Product.from_cpuid(report.cpuid[0], report.cpuid[1])
    if product is None:
        raise WireError(path, "is of an unknown product")
    return TCB_LAYOUT[product]


def _tcb_to_json(raw: bytes, layout: Mapping[str, int]) -> dict[str, int | None]:
    fmc = {"fmc": raw[layout["fmc"]] if "fmc" in layout else None}
    return fmc | {name: raw[layout[name]] for name in _COMPONENTS}


def _firmware_to_json(version: tuple[int, int, int]) -> dict[str, int]:
    return dict(zip(("major", "minor", "build"), version, strict=True))


def report_to_json(report: Report) -> dict[str, object]:
    """A report in the JSON form of the sev crate.

    What that form does not carry, and `report_from_json` sets to zero: 0x4c..0x4f, the CPUID bytes of a
    version 2 report and the reserved bytes after them, the reserved bytes of each TCB, 0x1eb, 0x1ef, the
    mitigation vectors before version 5, the reserved rest of the signed part, and everything behind s.
    Genuine reports have zeros there.

    Raises:
        WireError: the report has a product without a known TCB layout, or something in those bytes, or a
            number over 2^53-1: the receiver would see other bytes than were signed.
    """
    layout = _layout(report)
    has_cpuid = report.version > _V2
    has_vectors = report.version >= _MIT_VECTORS_SINCE
    family, model, stepping = report.cpuid if has_cpuid else (None, None, None)
    r, s = (list(report.raw[at : at + _COORDINATE]) for at in (0x2A0, 0x2A0 + _COORDINATE))
    value: dict[str, object] = {
        "version": report.version,
        "guest_svn": report.guest_svn,
        "policy": report.policy,
        "family_id": list(report.family_id),
        "image_id": list(report.image_id),
        "vmpl": report.vmpl,
        "sig_algo": report.signature_algo,
        "current_tcb": _tcb_to_json(report.current_tcb, layout),
        "plat_info": report.platform_info,
        "key_info": report.key_flags,
        "report_data": list(report.report_data),
        "measurement": list(report.measurement),
        "host_data": list(report.host_data),
        "id_key_digest": list(report.id_key_digest),
        "author_key_digest": list(report.author_key_digest),
        "report_id": list(report.report_id),
        "report_id_ma": list(report.report_id_ma),
        "reported_tcb": _tcb_to_json(report.reported_tcb, layout),
        "cpuid_fam_id": family,
        "cpuid_mod_id": model,
        "cpuid_step": stepping,
        "chip_id": list(report.chip_id),
        "committed_tcb": _tcb_to_json(report.committed_tcb, layout),
        "current": _firmware_to_json(report.current_firmware),
        "committed": _firmware_to_json(report.committed_firmware),
        "launch_tcb": _tcb_to_json(report.launch_tcb, layout),
        "launch_mit_vector": report.launch_mit_vector if has_vectors else None,
        "current_mit_vector": report.current_mit_vector if has_vectors else None,
        "signature": {"r": r, "s": s},
    }
    if report_from_json(value, "report") != report.raw:
        raise WireError("report", "has something in bytes that its JSON form does not carry")
    return value


def _bytes(members: Members, name: str, size: int) -> bytes:
    return octets(members.array(name, size, size))


def octets(elements: list[tuple[object, str]]) -> bytes:
    """The bytes of a list of numbers with their paths; raises `WireError` for one that is no byte."""
    out = bytearray()
    for value, path in elements:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _BYTE:
            raise WireError(path, f"must be an integer from 0 to {_BYTE}")
        out.append(value)
    return bytes(out)


def _optional(members: Members, name: str, most: int) -> int | None:
    """A number that may be null or, as the crate's deserializer allows, missing."""
    if not members.has(name) or members.value(name) is None:
        return None
    return members.integer(name, 0, most)


def _tcb(members: Members, name: str, layout: Mapping[str, int]) -> bytes:
    part = members.members(name)
    values = {component: part.integer(component, 0, _BYTE) for component in _COMPONENTS}
    fmc = _optional(part, "fmc", _BYTE)
    part.end()
    if ("fmc" in layout) != (fmc is not None):
        raise WireError(part.at("fmc"), "must be there for Turin and for no other product")
    if fmc is not None:
        values["fmc"] = fmc
    raw = bytearray(8)
    for component, index in layout.items():
        raw[index] = values[component]
    return bytes(raw)


def _firmware(members: Members, name: str) -> tuple[int, int, int]:
    part = members.members(name)
    major, minor, build = (part.integer(member, 0, _BYTE) for member in ("major", "minor", "build"))
    part.end()
    return major, minor, build


def report_from_json(value: object, path: str = "attestation_report") -> bytes:
    """The 1184 bytes of a report in the JSON form of the sev crate; what the form does not carry is zero.

    A report whose signed bytes were not zero there comes out with other bytes, so its signature fails:
    nothing is lost by it.

    Raises:
        WireError: another form; a version before 2; CPUID or FMC numbers that do not fit the version or
            product.
    """
    members = Members(value, path)
    version = members.integer("version", _V2, _U32)
    cpuid = _cpuid(members, version)
    chip_id = _bytes(members, "chip_id", 64)
    bare = pack_report(version=version, cpuid=cpuid, chip_id=chip_id) + pack_signature(0, 0)
    layout = _layout(Report.parse(bare), path)
    launch_vector, current_vector = _vectors(members, version)
    body = pack_report(
        version=version,
        guest_svn=members.integer("guest_svn", 0, _U32),
        policy=members.integer("policy", 0, _SAFE),
        family_id=_bytes(members, "family_id", 16),
        image_id=_bytes(members, "image_id", 16),
        vmpl=members.integer("vmpl", 0, _U32),
        signature_algo=members.integer("sig_algo", 0, _U32),
        current_tcb=_tcb(members, "current_tcb", layout),
        platform_info=members.integer("plat_info", 0, _SAFE),
        key_flags=members.integer("key_info", 0, _U32),
        report_data=_bytes(members, "report_data", 64),
        measurement=_bytes(members, "measurement", 48),
        host_data=_bytes(members, "host_data", 32),
        id_key_digest=_bytes(members, "id_key_digest", 48),
        author_key_digest=_bytes(members, "author_key_digest", 48),
        report_id=_bytes(members, "report_id", 32),
        report_id_ma=_bytes(members, "report_id_ma", 32),
        reported_tcb=_tcb(members, "reported_tcb", layout),
        cpuid=cpuid,
        chip_id=chip_id,
        committed_tcb=_tcb(members, "committed_tcb", layout),
        current_firmware=_firmware(members, "current"),
        committed_firmware=_firmware(members, "committed"),
        launch_tcb=_tcb(members, "launch_tcb", layout),
        launch_mit_vector=launch_vector,
        current_mit_vector=current_vector,
    )
    signature = members.members("signature")
    r, s = (_bytes(signature, name, _COORDINATE) for name in ("r", "s"))
    signature.end()
    members.end()
    return body + pack_signature(int.from_bytes(r, "little"), int.from_bytes(s, "little"))


def _cpuid(members: Members, version: int) -> tuple[int, int, int]:
    names = ("cpuid_fam_id", "cpuid_mod_id", "cpuid_step")
    family, model, stepping = (_optional(members, name, _BYTE) for name in names)
    if version <= _V2:
        if (family, model, stepping) != (None, None, None):
            raise WireError(members.at(names[0]), "must be null in a version 2 report")
        return 0, 0, 0
    if family is None or model is None or stepping is None:
        raise WireError(members.at(names[0]), "must be there from version 3 on")
    return family, model, stepping


def _vectors(members: Members, version: int) -> tuple[int, int]:
    names = ("launch_mit_vector", "current_mit_vector")
    launch, current = (_optional(members, name, _SAFE) for name in names)
    if version < _MIT_VECTORS_SINCE:
        if launch is not None or current is not None:
            raise WireError(members.at(names[0]), "must be null before version 5")
        return 0, 0
    if launch is None or current is None:
        raise WireError(members.at(names[0]), "must be there from version 5 on")
    return launch, current
