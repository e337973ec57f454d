"""The tables of docs/consumers.md: what each program said of each certificate in this very run.

``python tests/consumers`` writes them; a test compares them with what stands there.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from consumer_tools import NOT_FOR_IT, PASS, Programs, refused
from consumer_tpm import Machine
from cryptography.hazmat.primitives.serialization import Encoding
from every_certificate import EveryCertificate, Issued

from ca_service.profiles import CONTRACTS, contract_report

DOCUMENT = Path(__file__).parents[2] / "docs" / "consumers.md"
BEGIN = "<!-- What follows is written by `python tests/consumers`. -->"
END = "<!-- What was written ends here. -->"

TOOLS = ("openssl", "certtool", "pkilint", "tpm2-tools", "Linux")

Cells = Mapping[tuple[str, str], str]
"""By the id of a certificate and the name of a consumer."""


@dataclass(frozen=True)
class Seen:
    """What was seen: `rows` of certificates, and a cell for each and each consumer."""

    rows: tuple[Issued, ...]
    cells: Cells

    def of(self, consumer: str) -> dict[str, str]:
        """The cells of a column, by the certificate's id."""
        return {one.id: self.cells[one.id, consumer] for one in self.rows}


def look(every: EveryCertificate, programs: Programs, machines: Sequence[Machine]) -> Seen:
    """Ask all programs about all certificates."""
    cells: dict[tuple[str, str], str] = {}
    linted = programs.pkilint.certificates({one.id: (one.der, issuer_of(every, one)) for one in every.issued})
    for one in every.issued:
        cells[one.id, "openssl"] = programs.openssl.judge(one)
        cells[one.id, "certtool"] = programs.certtool.judge(one)
        cells[one.id, "pkilint"] = linted[one.id]
        cells |= {(one.id, tool): NOT_FOR_IT for tool in ("tpm2-tools", "Linux")}
        cells |= {(one.id, consumer): cell for consumer, cell in by_rules(one)}
    for machine, one in in_tpms(machines):
        cells[one.id, "tpm2-tools"] = machine.judge_by_tools(one)
        cells[one.id, "Linux"] = machine.judge_by_linux(one)
    return Seen(every.issued, cells)


def issuer_of(every: EveryCertificate, one: Issued) -> bytes | None:
    """The certificate of the CA that signed; None of the root's own."""
    if one.profile == "root-ca":
        return None
    role = "root" if one.profile == "issuing-ca" else one.issuer
    return every.authority_of(role).public_bytes(Encoding.DER)


def in_tpms(machines: Sequence[Machine]) -> Iterator[tuple[Machine, Issued]]:
    """One TPM for each kind of certificate and template."""
    known = set()
    for machine in machines:
        for one in machine.held:
            if one.id not in known:
                known.add(one.id)
                yield machine, one


def by_rules(one: Issued) -> Iterator[tuple[str, str]]:
    """Consumers whose rules were read, each with its cell."""
    found = {}
    if one.device:
        found = {report.consumer: report for report in contract_report(one.der)}
    for consumer in consumers():
        if consumer not in found:
            yield consumer, NOT_FOR_IT
        else:
            broken = [f"`{rule.removeprefix(f'compat.{consumer}.')}`" for rule in found[consumer].failed]
            yield consumer, refused(", ".join(broken)) if broken else PASS


def consumers() -> tuple[str, ...]:
    """The consumers that have rules, in the order of the rules."""
    return tuple(dict.fromkeys(rule.consumer for rule in CONTRACTS))


def rendered(seen: Seen) -> str:
    """Both tables."""
    return "\n\n".join(
        [
            "### Programs that were run",
            _table(seen, TOOLS, seen.rows),
            "### Programs whose rules were read",
            _table(seen, consumers(), [one for one in seen.rows if one.device]),
        ]
    )


def _table(seen: Seen, columns: Sequence[str], rows: Sequence[Issued]) -> str:
    heads = ("certificate", "issuer", "template", "key", *columns)
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for one in rows:
        words = (f"`{one.profile}`", one.issuer, one.template or "—", one.key)
        cells = (seen.cells[one.id, column] for column in columns)
        lines.append("| " + " | ".join((*words, *cells)) + " |")
    return "\n".join(lines)


def document_with(text: str, seen: Seen) -> str:
    """The document with these tables in the place of those that it has.

    Raises:
        ValueError: it does not have the two marks.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{DOCUMENT.name} lacks the marks between which the tables stand")
    return f"{before}{BEGIN}\n\n{rendered(seen)}\n\n{END}{after}"
