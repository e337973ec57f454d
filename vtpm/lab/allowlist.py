"""Entries of a CA's allow-list for the simulated machine: `vtpm measure` prints them, throwaway CAs judge by them."""

from collections.abc import Iterable

from ca_service.policy import example_document
from vtpm.wire.report_bits import GUEST_POLICY_BITS

PLATFORM = "simulated"
"""Name of the `[[platform]]` in `policies/simulation.toml`."""

# No policy decides on debugging and migration: a CA always refuses them. CXL the entry forbids.
_OPEN_BITS = tuple(name for name in GUEST_POLICY_BITS if name not in ("debug", "migration", "cxl"))


def _quoted(words: Iterable[str]) -> str:
    return ", ".join(f'"{word}"' for word in words)


def launch_entry(
    name: str, measurement: bytes, capabilities: Iterable[str], *, platform: str = PLATFORM
) -> str:
    """A `[[launch]]` for a build of the simulated SVSM: with every constraint stated or given up.

    Args:
        name: of the entry.
        measurement: 48 bytes.
        capabilities: what the build was reviewed for.
        platform: name of the `[[platform]]` that it may run on.
    """
    return f"""
[[launch]]
name = "{name}"
measurement = "{measurement.hex()}"
guest_policy = {{ require = [], forbid = ["cxl"], either = [{_quoted(_OPEN_BITS)}] }}
capabilities = [{_quoted(capabilities)}]
products = ["Milan"]
platform = "{platform}"
unconstrained = ["id-key", "author-key", "host-data", "family-id", "image-id", "guest-svn", "abi"]
"""


def platform_entry() -> str:
    """The `[[platform]]` of the simulated processor, as the example for simulation CAs has it, with its floors."""
    text = example_document("simulation.toml")
    return text[text.index("[[platform]]") :]
