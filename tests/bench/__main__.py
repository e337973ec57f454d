"""`make bench`: what CA, evidence, manufacture and volume cost, as ratios to what they cannot do without, in one run.

Prints a table and writes ``build/bench.json``: a list of ``{name, value, unit, floor, aim, met}``. A `floor` is
measured in the same run, on the same noisy machine; `aim` is the greatest value that counts as met (of a rate the
least), null where a figure is only reported. `met` is null too where the machine is not one that the aim speaks of.

The first run of a schema fills a database with a million certificates, which takes minutes; it is kept in
``build/bench``.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

sys.path.insert(0, str(Path(__file__).parent))

import allowlist
import authority
import enrollment_world as w
import evidence
import publication
import restart
import volume
from floors import bare_cryptography, checks_of_own, cpu_ms, flush_ms

from vtpm.tpm import Swtpm, manufacture
from vtpm.wire.templates import Role, template

ENROLMENTS = 30
REPEATS = 200
MANUFACTURES = 10

DESIGN_BARE_MS = 1.25
"""What the bare cryptography of an enrolment took on the machine on which the bounds were set (design, 3.2)."""

FAST_DISK = 1000
"""Flushes per second from which on the aim for durable enrolments counts."""


def enrolment_ms(folder: Path) -> tuple[float, float]:
    """CPU and wall time of one full enrolment in the CA's process, from the request's bytes to the answer's."""
    world = w.World.create(folder)
    store = world.new_store()
    world.apply(store, world.policy())
    enroller = world.enroller(store)
    enroller.recover()
    cpu, wall = [], []
    for i in range(ENROLMENTS):
        tpm = w.SoftTpm()
        boot = w.Boot(resource=f"default/vtpm/bench-{i}", secret=os.urandom(32), salt=os.urandom(16))
        body = world.body(enroller.new_nonce().nonce, tpm, boot)
        start, begun = time.process_time(), time.perf_counter()
        reply = enroller.enroll(body)
        spent, passed = time.process_time() - start, time.perf_counter() - begun
        enrolment, answer = w.answer(tpm, reply.body)
        start, begun = time.process_time(), time.perf_counter()
        enroller.activate(enrolment, answer)
        cpu.append((spent + time.process_time() - start) * 1000)
        wall.append((passed + time.perf_counter() - begun) * 1000)
    store.close()
    return statistics.median(cpu), statistics.median(wall)


def manufacture_ms(ek: str, identity: str) -> float:
    """Wall time from starting swtpm to a TPM with EK, IAK and IDevID at their handles, and its state taken."""
    times = []
    for _ in range(MANUFACTURES):
        start = time.perf_counter()
        with Swtpm() as tpm:
            tpm.power_on(None)
            manufacture(
                tpm, [template(Role.EK, ek)], template(Role.IAK, identity), template(Role.IDEVID, identity)
            )
            tpm.take_state()
            times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)


def figure(
    name: str, value: float, unit: str, *, floor: float | None = None, aim: float | None = None
) -> dict[str, object]:
    """One line of the result."""
    met = None if aim is None else value <= aim
    return {
        "name": name,
        "value": round(value, 3),
        "unit": unit,
        "floor": None if floor is None else round(floor, 3),
        "aim": aim,
        "met": met,
    }


def authority_figures(ca: dict[str, dict[str, float]]) -> list[dict[str, object]]:
    """The lines about the authority: bounds of design and issue as aims."""
    inside, cpu, load, full = ca["in_process"], ca["cpu"], ca["throughput"], ca["full"]
    floor = cpu["bare"] + cpu["requests"] + cpu["commits"]
    rate = figure("authority: durable enrolments with two workers", load["rate"], "1/s", aim=150)
    fast = load["flushes"] >= FAST_DISK
    rate["met"] = load["rate"] >= 150 if fast else None
    return [
        figure(
            "authority: decision and issuance to bare crypto",
            inside["spent"] / inside["bare"],
            "ratio",
            floor=1.0,
            aim=3,
        ),
        figure("authority: decision and issuance", inside["spent"], "ms", floor=inside["bare"]),
        figure(
            "authority: the same to all its cryptography",
            inside["spent"] / (inside["bare"] + inside["own"]),
            "ratio",
            floor=1.0,
        ),
        figure("authority: CPU of an enrolment to F", cpu["ratio"], "ratio", floor=1.0, aim=3),
        figure("authority: CPU of an enrolment", cpu["ca"], "ms", floor=floor),
        figure("authority: of F, three empty requests", cpu["requests"], "ms"),
        figure("authority: of F, the same commits", cpu["commits"], "ms"),
        rate,
        figure(
            "authority: the same, as fast as where aims were set",
            load["rate"] * load["bare"] / DESIGN_BARE_MS,
            "1/s",
        ),
        figure("authority: flushes that the idle disk takes", load["flushes"], "1/s"),
        figure("authority: median enrolment under that load", load["latency"], "ms"),
        figure("authority: median enrolment, 1,000 certificates", full["small"], "ms"),
        figure("authority: 1,000,000 to 1,000 certificates", full["large"] / full["small"], "ratio", aim=1.3),
    ]


def publication_figures(lists: dict[str, float]) -> list[dict[str, object]]:
    """The lines about revocation lists: bounds of the issue as aims."""
    return [
        figure("publication: lists of 100,000 revocations", lists["wall"], "s", floor=lists["cpu"], aim=2),
        figure("publication: the largest of them", lists["largest"], "KiB", aim=200),
        figure(
            "publication: from a revocation to its list", lists["one"], "s", floor=lists["one_cpu"], aim=1
        ),
        figure("revocation: 100,000 certificates by cause", lists["cause"], "s", floor=lists["cause_cpu"]),
    ]


def restart_figures(times: dict[str, float]) -> list[dict[str, object]]:
    """The lines about a start: the issue's bound as aim, and how it stands to what no start can do without."""
    return [
        figure(
            "restart: from SIGTERM to the next answer", times["restart"], "s", floor=times["floor"], aim=2
        ),
        figure("restart: start to the libraries' own", times["start"] / times["floor"], "ratio", floor=1.0),
    ]


def policy_figures(found: dict[str, float]) -> list[dict[str, object]]:
    """The lines about a policy of 10,000 launches: the issue's bound as aim, for the rules alone and for a decision."""
    return [
        figure("policy: its rules, 10,000 launches to 10", found["rules"], "ratio", floor=1.0, aim=1.2),
        figure("policy: its rules, of 10 launches", found["rules_few"], "ms"),
        figure("policy: a decision, 10,000 launches to 10", found["decision"], "ratio", floor=1.0, aim=1.2),
        figure("policy: a decision, of 10 launches", found["decision_few"], "ms"),
        figure("policy: reading 10,000 launches", found["load"], "s", floor=found["parse"], aim=3),
        figure("policy: applying a change of it", found["apply"], "s", floor=2 * found["parse"]),
        figure("policy: length of that document", found["size"], "MiB"),
        figure("policy: memory of a worker for it", found["memory"], "MiB"),
    ]


PARTS: dict[str, Callable[[], list[dict[str, object]]]] = {
    "authority": lambda: _in_folder(
        lambda folder: authority_figures(authority.measure(folder, bare_cryptography(), checks_of_own()))
    ),
    "publication": lambda: _in_folder(lambda folder: publication_figures(publication.measure(folder))),
    "restart": lambda: restart_figures(restart.measure()),
    "policy": lambda: _in_folder(lambda folder: policy_figures(allowlist.measure(folder / "policy"))),
}
"""What can be measured alone: `python tests/bench/__main__.py publication`."""


def _in_folder(measured: Callable[[Path], list[dict[str, object]]]) -> list[dict[str, object]]:
    with tempfile.TemporaryDirectory() as folder:
        return measured(Path(folder))


def main() -> None:
    """Measure, print, write; parts that are named are measured alone, and only printed."""
    if sys.argv[1:]:
        show([line for part in sys.argv[1:] for line in PARTS[part]()])
        return
    figures = measure_all()
    show(figures)
    out = Path("build/bench.json")
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(figures, indent=1) + "\n")
    print(f"written to {out}")


def show(figures: list[dict[str, object]]) -> None:
    """Print them as a table."""
    print(f"{'figure':<52}{'value':>10}  {'unit':<6}{'floor':>10}{'aim':>8}  met")
    for f in figures:
        shown = {name: "-" if f[name] is None else f[name] for name in ("floor", "aim", "met")}
        print(
            f"{f['name']:<52}{f['value']:>10}  {f['unit']:<6}{shown['floor']:>10}{shown['aim']:>8}  {shown['met']}"
        )


def measure_all() -> list[dict[str, object]]:
    """All lines."""
    with tempfile.TemporaryDirectory() as folder:
        work = bare_cryptography()
        bare, flush = cpu_ms(work, REPEATS), flush_ms(Path(folder))
        cpu, wall = enrolment_ms(Path(folder) / "world")
        disk = volume.measure(Path(folder))
        ca = authority.measure(Path(folder), work, checks_of_own())
        lists = publication.measure(Path(folder))
        policy = allowlist.measure(Path(folder) / "policy")
    restarted, snp = restart.measure(), evidence.measure()
    rsa_ms, ecc_ms = manufacture_ms("L-1", "H-3"), manufacture_ms("H-3", "H-3")
    return [
        figure("enrolment: CPU to bare cryptography", cpu / bare, "ratio", floor=1.0),
        figure("enrolment: CPU in the CA", cpu, "ms", floor=bare),
        figure("enrolment: wall time in the CA", wall, "ms", floor=bare + 3 * flush),
        *authority_figures(ca),
        *publication_figures(lists),
        *restart_figures(restarted),
        *policy_figures(policy),
        figure("manufacture: EK L-1, IAK and IDevID H-3", rsa_ms, "ms"),
        figure("manufacture: EK, IAK and IDevID H-3", ecc_ms, "ms"),
        figure("evidence: SNP report, chain known", snp["warm"], "ms", floor=snp["bare"]),
        figure("evidence: the same to a bare P-384 verify", snp["warm"] / snp["bare"], "ratio", aim=1.5),
        figure("evidence: SNP report, chain new", snp["cold"], "ms", floor=snp["bare"]),
        figure("volume: open and verify 8 MiB", disk["opening"], "ms", floor=disk["opening_floor"]),
        figure(
            "volume: the same to bare cryptography", disk["opening"] / disk["opening_floor"], "ratio", aim=3
        ),
        figure("volume: commit 16 KiB in 8 MiB", disk["commit"], "ms", floor=disk["commit_floor"]),
        figure(
            "volume: the same to cryptography and flushes",
            disk["commit"] / disk["commit_floor"],
            "ratio",
            aim=3,
        ),
        figure(
            "volume: commit in 1 GiB to commit in 8 MiB",
            disk["commit_large"] / disk["commit"],
            "ratio",
            aim=1.5,
        ),
    ]


if __name__ == "__main__":
    main()
