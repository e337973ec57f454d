"""The targets of `fuzz_evidence.py` under hypothesis, and what fuzzing has found."""

import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import evidence_targets
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

FOUND = {
    # A leaf, and then an intermediate, whose issuer is no name: the library decodes it when it is asked for.
    "leaf": [bytes.fromhex("010002ffffffffffffff047bff02")],
    "authority": [bytes.fromhex("69ae0202ad21003700")],
}

inputs = st.one_of(
    st.binary(max_size=300),
    st.lists(st.one_of(st.just(0), st.integers(0, 255)), max_size=200).map(bytes),
)


def fuzz(name: str, examples: int) -> int:
    target, count = evidence_targets.TARGETS[name], 0
    near = st.builds(
        lambda seed, at, piece: seed[: at % (len(seed) + 1)] + piece + seed[at % (len(seed) + 1) :],
        st.sampled_from(evidence_targets.seeds()[name]),
        st.integers(0, 1 << 16),
        st.binary(max_size=12),
    )

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.one_of(inputs, near))
    @example(b"")
    def body(data: bytes) -> None:
        nonlocal count
        count += 1
        evidence_targets.run(target, data)

    body()
    return count


@pytest.mark.parametrize("name", evidence_targets.TARGETS)
def test_readers_say_no_with_a_wire_error_and_judges_with_a_finding(name: str):
    assert fuzz(name, 100) > 20


@pytest.mark.slow
@pytest.mark.parametrize("name", evidence_targets.TARGETS)
def test_thousands_of_inputs_are_read_or_refused(name: str, capsys: pytest.CaptureFixture[str]):
    start = time.monotonic()
    count = fuzz(name, 2000)
    assert count > 400
    with capsys.disabled():
        print(f"\n{name}: {count} inputs in {time.monotonic() - start:.0f} s")


@pytest.mark.parametrize(("name", "data"), [(name, data) for name, found in FOUND.items() for data in found])
def test_what_was_found_stays_found(name: str, data: bytes):
    evidence_targets.run(evidence_targets.TARGETS[name], data)


@pytest.mark.parametrize("name", evidence_targets.TARGETS)
def test_each_target_can_go_through(name: str):
    """Else it would only ever see one refusal, and show nothing."""
    target = evidence_targets.TARGETS[name]
    assert any(evidence_targets.run(target, seed) for seed in evidence_targets.seeds()[name])


@pytest.mark.skipif(find_spec("atheris") is not None, reason="atheris is installed")
def test_without_atheris_the_script_says_so():
    script = Path(__file__).parent / "fuzz_evidence.py"
    ran = subprocess.run([sys.executable, script, "report"], capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "fuzz_evidence: atheris is not installed" in ran.stderr
