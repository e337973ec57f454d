"""Coverage-guided fuzzing of the volume's opener, with atheris; a run by hand, and no part of the test suite.

    python -m venv FUZZ && FUZZ/bin/pip install atheris cryptography
    FUZZ/bin/python tests/fuzz/fuzz_volume.py TARGET [CORPUS] [libFuzzer options, such as -runs=100000]

TARGET is one of `volume_targets.TARGETS`. An empty CORPUS directory is given some seeds. Atheris is no dependency of
the project: hypothesis runs the same targets in `test_volume_fuzz.py`. An input that fails is left in a file; with its
name as CORPUS it is run again.
"""

from __future__ import annotations

import sys

import atheris_run

if __name__ == "__main__":
    sys.exit(atheris_run.main(sys.argv, "volume_targets", ["vtpm.volume"], 1024))
