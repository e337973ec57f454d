"""Coverage-guided fuzzing of the readers and judges of evidence, with atheris; run by hand like `fuzz_volume.py`.

    python -m venv FUZZ && FUZZ/bin/pip install atheris cryptography rfc8785 joserfc
    FUZZ/bin/python tests/fuzz/fuzz_evidence.py TARGET [CORPUS] [libFuzzer options, such as -runs=1000000]

TARGET is one of `evidence_targets.TARGETS`; hypothesis runs the same ones in `test_evidence_fuzz.py`.
"""

from __future__ import annotations

import sys

import atheris_run

if __name__ == "__main__":
    packages = ["ca_service.evidence", "vtpm.wire"]
    sys.exit(atheris_run.main(sys.argv, "evidence_targets", packages, 4096))
