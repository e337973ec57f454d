"""What the disk was told before an answer left, as the kernel saw it: a system call trace of the serving CA."""

import re
import shutil
import time
from dataclasses import dataclass

import pytest

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
]

CALLS = "fsync,fdatasync,pwrite64,write,writev,sendto,sendmsg,recvfrom,recvmsg,read"
LINE = re.compile(r"^(?P<pid>\d+) +(?P<rest>.*)$")
BEGUN = re.compile(r"^(?P<call>\w+)\((?P<arguments>.*?)(?:\) += (?P<result>-?\d+).*| <unfinished \.\.\.>)$")
RESUMED = re.compile(r"^<\.\.\. (?P<call>\w+) resumed>(?P<arguments>.*)\) += (?P<result>-?\d+)")


@dataclass
class Call:
    """A system call that has returned, in the order of their returns; those that send, in the order of their begin."""

    name: str
    arguments: str


def parse(text):
    calls, open_calls = [], {}
    for line in text.splitlines():
        pid, rest = LINE.match(line).group("pid", "rest")
        if resumed := RESUMED.match(rest):
            name, before = open_calls.pop(pid)
            assert name == resumed["call"]
            if name not in SENDS:
                calls.append(Call(name, before + resumed["arguments"]))
        elif begun := BEGUN.match(rest):
            name, arguments = begun["call"], begun["arguments"]
            finished = begun["result"] is not None
            if not finished:
                open_calls[pid] = (name, arguments)
            if finished or name in SENDS:
                calls.append(Call(name, arguments))
    return calls


SENDS = {"sendto", "sendmsg", "write", "writev"}
SYNCS = {"fsync", "fdatasync"}


def between(calls, request, status):
    """The calls from the arrival of a request to the first byte of its answer, without these two."""
    arrived = next(
        i
        for i, c in enumerate(calls)
        if c.name in {"recvfrom", "recvmsg", "read"} and re.search(request, c.arguments)
    )
    left = next(
        i
        for i, c in enumerate(calls)
        if i > arrived and c.name in SENDS and "<TCP" in c.arguments and "HTTP/1.1" in c.arguments
    )
    assert f"HTTP/1.1 {status}" in calls[left].arguments
    return calls[arrived + 1 : left]


def commits(calls):
    """How often the database's log was flushed after a write to it; nothing may be left unflushed."""
    found, unflushed = 0, False
    for call in calls:
        if call.name == "pwrite64" and "ca.sqlite3-wal>" in call.arguments:
            unflushed = True
        elif call.name in SYNCS and "ca.sqlite3-wal>" in call.arguments:
            found += unflushed
            unflushed = False
    assert not unflushed, "an answer left before the log was flushed"
    return found


def _complete(trace):
    """The trace, once strace has written all of it."""
    deadline = time.monotonic() + 30
    while not trace.read_text().endswith("+++ exited with 0 +++\n"):
        assert time.monotonic() < deadline, trace.read_text()[-1000:]
        time.sleep(0.02)
    return trace.read_text()


def test_the_log_is_flushed_before_the_answer_leaves(parties, tmp_path):
    trace = tmp_path / "trace"
    parties.stop("ca")
    parties.start_ca(
        trace=("strace", "-D", "-f", "-y", "-yy", "-s", "96", "-e", f"trace={CALLS}", "-o", str(trace))
    )
    machine = parties.new_machine()
    told = parties.good_boot(machine)
    parties.stop("ca")
    calls = parse(_complete(trace))
    # T1: nonce, evidence, decision and answer. T2: the intent. T3: the certificates.
    assert commits(between(calls, r"POST /v1/enrollments HTTP", 201)) >= 1
    assert commits(between(calls, r"POST /v1/enrollments/\w+/activation HTTP", 200)) >= 2
    parties.start()
    parties.check_whole(machine, told)
