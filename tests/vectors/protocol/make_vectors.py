"""Writes the protocol's test vectors next to this file.

With --check it compares instead, and exits 1 on a difference.

Keys come from labels and ECDSA nonces from RFC 6979, so that every run writes the same bytes.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import set_amd
import set_evidence
import set_exchange
import set_log
import set_messages
import set_statements
import set_tpm

FILES: dict[str, Callable[[], dict[str, object]]] = {
    "tpm.json": set_tpm.make,
    "runtime_data.json": set_statements.runtime_data,
    "grant.json": set_statements.grants,
    "kbs.json": set_exchange.kbs,
    "relay.json": set_exchange.relay,
    "messages.json": set_messages.make,
    "log.json": set_log.make,
    "evidence.json": set_evidence.make,
    "amd_evidence.json": set_amd.make,
}


def render(make: Callable[[], dict[str, object]]) -> str:
    """A file's text."""
    return json.dumps(make(), indent=1, ensure_ascii=True) + "\n"


def main(arguments: list[str]) -> int:
    """Write or check the files; returns the exit code."""
    check = arguments == ["--check"]
    differing = []
    for name, make in FILES.items():
        path, text = Path(__file__).with_name(name), render(make)
        if not path.exists() or path.read_text() != text:
            differing.append(name)
            if not check:
                path.write_text(text)
    print("\n".join(differing) or "all vectors are as the code makes them")
    return 1 if check and differing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
