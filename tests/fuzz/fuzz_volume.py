"""Coverage-guided fuzzing of the volume's opener, with atheris; a run by hand, and no part of the test suite.

    python -m venv FUZZ && FUZZ/bin/pip install atheris cryptography
    FUZZ/bin/python tests/fuzz/fuzz_volume.py TARGET [CORPUS] [libFuzzer options, such as -runs=100000]

TARGET is one of `volume_targets.TARGETS`. An empty CORPUS directory is given some seeds. Atheris is no dependency of
the project: hypothesis runs the same targets in `test_volume_fuzz.py`. An input that fails is left in a file; with its
name as CORPUS it is run again.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
MEMORY = 2 << 30
"""Bytes of address space: an input of some KiB that makes the opener take more fails with `MemoryError`."""


def main(arguments: list[str]) -> int:
    try:
        import atheris  # noqa: PLC0415 - it is there or it is not
    except ModuleNotFoundError:
        print("fuzz_volume: atheris is not installed; see the head of this file", file=sys.stderr)
        return 2
    sys.path[:0] = [str(HERE), str(HERE.parent / "support"), str(HERE.parent.parent)]
    with atheris.instrument_imports(include=["vtpm.volume"]):
        import volume_targets  # noqa: PLC0415 - after instrumentation
    if len(arguments) < 2 or arguments[1] not in volume_targets.TARGETS:
        print(f"usage: fuzz_volume.py {{{','.join(volume_targets.TARGETS)}}} ...", file=sys.stderr)
        return 2
    target = volume_targets.TARGETS[arguments[1]]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    options = arguments[2:]
    corpus = Path(options[0]) if options and not options[0].startswith("-") else None
    if corpus is not None and corpus.is_dir() and not any(corpus.iterdir()):
        for number, seed in enumerate(volume_targets.seeds().get(arguments[1], [])):
            (corpus / f"seed-{number}").write_bytes(seed)
    for option in ("-timeout=20", "-max_len=1024"):
        if not any(given.startswith(option.split("=")[0]) for given in options):
            options.append(option)
    atheris.Setup([arguments[0], *options], lambda data: volume_targets.run(target, data) and None)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
