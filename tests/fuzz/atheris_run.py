"""One run of atheris: options, seeds, and a bound on memory. The scripts `fuzz_*.py` say what is fuzzed."""

from __future__ import annotations

import importlib
import resource
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
MEMORY = 2 << 30
"""Bytes of address space: an input of some KiB that makes a parser take more fails with `MemoryError`."""


def main(arguments: list[str], targets: str, packages: list[str], longest: int) -> int:
    """Fuzz one target; the exit code if there is no run.

    Args:
        arguments: the script's name, the target's, then perhaps a corpus and libFuzzer's options.
        targets: a module with `TARGETS`, `seeds()` and `run(target, data)`.
        packages: what the coverage is taken of.
        longest: how many bytes an input has, unless the options say it.
    """
    script = Path(arguments[0]).stem
    try:
        import atheris  # noqa: PLC0415 - it is there or it is not
    except ModuleNotFoundError:
        print(f"{script}: atheris is not installed; see the head of this file", file=sys.stderr)
        return 2
    sys.path[:0] = [str(HERE), str(HERE.parent / "support"), str(HERE.parent.parent)]
    with atheris.instrument_imports(include=packages):
        module = importlib.import_module(targets)
    if len(arguments) < 2 or arguments[1] not in module.TARGETS:
        print(f"usage: {script}.py {{{','.join(module.TARGETS)}}} ...", file=sys.stderr)
        return 2
    target = module.TARGETS[arguments[1]]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    options = arguments[2:]
    corpus = Path(options[0]) if options and not options[0].startswith("-") else None
    if corpus is not None and corpus.is_dir() and not any(corpus.iterdir()):
        for number, seed in enumerate(module.seeds().get(arguments[1], [])):
            (corpus / f"seed-{number}").write_bytes(seed)
    for option in ("-timeout=20", f"-max_len={longest}"):
        if not any(given.startswith(option.split("=")[0]) for given in options):
            options.append(option)
    atheris.Setup([arguments[0], *options], lambda data: module.run(target, data) and None)
    atheris.Fuzz()
    return 0
