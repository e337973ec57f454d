"""What a decision costs under a large policy, as a ratio to the same decision under one of ten entries of each kind.

Both are asked in turn about the same evidence in one run. A decision looks entries up and never goes through them; the
ratio says whether somebody has begun to.
"""

import gc
import os
import statistics
import time
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import enrollment_world as w
import large_policy as large

from ca_service.enrollment.claim import Claim
from ca_service.enrollment.judge import Judge
from ca_service.enrollment.submission import Submission
from ca_service.judgment import judge_all
from ca_service.policy import Policy, PolicyFacts, checks, launch_checks, load

MODE = "simulation"
ROUNDS, WARM_UP = 200, 20
BODIES = 40
TIMES = 5
"""How often a round asks the rules alone: they cost less than the clock shows."""

LOADS = 3
_MIB = 1024 * 1024


def _cpu_s(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def _in_turn(few: Callable[[], object], many: Callable[[], object]) -> tuple[float, float]:
    """Median CPU seconds of two works, done in turn; which of them is first changes from round to round."""
    spent: dict[Callable[[], object], list[float]] = {few: [], many: []}
    for n in range(WARM_UP + ROUNDS):
        for work in (few, many) if n % 2 else (many, few):
            spent[work].append(_cpu_s(work))
    return statistics.median(spent[few][WARM_UP:]), statistics.median(spent[many][WARM_UP:])


def _asked(world: w.World, judge: Judge, submission: Submission) -> list[PolicyFacts]:
    """Facts that are found by measurement, by ID key, by author key and not at all."""
    facts = judge._facts(submission, judge.evidence(submission, world.time), world.time)
    found = [facts, replace(facts, kbs_thumbprint="nobody's", resource="no/such/one")]
    reports = large.strangers(world).values()
    return found + [replace(facts, launch=replace(facts.launch, report=report)) for report in reports]


def _rules(policy: Policy, asked: list[PolicyFacts]) -> Callable[[], object]:
    """All rules of a policy, on facts that it has never met."""

    def work() -> None:
        for _ in range(TIMES):
            for facts in asked:
                new = replace(facts, launch=replace(facts.launch))
                judge_all(launch_checks(policy, MODE), new.launch)
                judge_all(checks(policy, MODE), new)

    return work


def _decision(judge: Judge, policy: Policy, bodies: list[bytes], world: w.World) -> Callable[[], object]:
    """From a request's bytes to the trace and the claim, of requests that the process has not met before."""
    turn = iter(bodies * (WARM_UP + ROUNDS))

    def work() -> None:
        Submission.parse.cache_clear()
        submission = Submission.parse(next(turn))
        trace = judge.authenticate(submission, world.time)
        trace += judge.decide(submission, policy, world.time, certify=True)
        if not trace.admitted:
            raise SystemExit(f"evidence that is good was refused by {trace.refusal}")
        Claim.of(submission, policy)

    return work


def _resident() -> int:
    """Bytes of this process that lie in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _memory_mib(text: str) -> float:
    """How much a process grows that puts a document in force, once what it needed only for reading is free again."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        before = _resident()
        policy = load(text)
        launch_checks(policy, MODE), checks(policy, MODE)
        os.write(write, str(_resident() - before).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        grown = int(file.read())
    os.waitpid(child, 0)
    return grown / _MIB


def measure(folder: Path) -> dict[str, float]:
    """Ratios of a policy of 10,000 launches, 1,000 key brokers and 10,000 chips to one of ten, and what it costs.

    Returns:
        ``rules`` and ``decision``: ratios, of the policy's own rules and of a whole decision about a request; with
        ``rules_few`` and ``decision_few``, in milliseconds of CPU, what they are ratios to. ``load``: CPU seconds from
        the document's text to a policy, ``parse`` those of the TOML parser alone, ``apply`` those of an operator's
        change of it; ``size``: of the text, and ``memory``: of a process that has it in force, MiB.
    """
    world = w.World.create(folder)
    judge = Judge.of(world.authority.ca_id, MODE)
    store = world.new_store()
    world.apply(store, world.policy())
    enroller, tpm = world.enroller(store), w.SoftTpm()
    enroller.recover()
    bodies = [world.body(enroller.new_nonce().nonce, tpm) for _ in range(BODIES)]
    text = large.document(world, large.LARGE)
    w.operate(world, store, "policy-apply", text=text)
    narrower = text.replace("max_age_s = 3600", "max_age_s = 3599")
    applying = _cpu_s(lambda: w.operate(world, store, "policy-apply", text=narrower))
    store.close()
    memory = _memory_mib(text)
    few, many = load(large.document(world, large.TEN)), load(text)
    loading = statistics.median(_cpu_s(lambda: load(text)) for _ in range(LOADS))
    parsing = statistics.median(_cpu_s(lambda: tomllib.loads(text)) for _ in range(LOADS))
    asked = _asked(world, judge, Submission.parse(bodies[0]))
    rules = _in_turn(_rules(few, asked), _rules(many, asked))
    whole = _in_turn(*(_decision(judge, policy, bodies, world) for policy in (few, many)))
    return {
        "rules": rules[1] / rules[0],
        "rules_few": rules[0] * 1000 / TIMES / len(asked),
        "decision": whole[1] / whole[0],
        "decision_few": whole[0] * 1000,
        "load": loading,
        "parse": parsing,
        "apply": applying,
        "size": len(text) / _MIB,
        "memory": memory,
    }
