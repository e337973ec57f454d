"""The untrusted host: it relays what an SVSM says to the key broker and the CA, honestly or not.

`HostProxy` serves one UNIX socket with one `Behaviour`; `malicious` has the attacks; `python -m vtpm.host` is a process
of it. Nothing that a host does needs to be trusted: whatever could go wrong here must be caught by the SVSM or the CA.
"""

from vtpm.host.behaviour import Behaviour, HostConfig
from vtpm.host.broker import BrokerSession, KbsRefused, Release, TrusteeSession
from vtpm.host.malicious import BEHAVIOURS, Attack
from vtpm.host.proxy import HostProxy

__all__ = [
    "BEHAVIOURS",
    "Attack",
    "Behaviour",
    "BrokerSession",
    "HostConfig",
    "HostProxy",
    "KbsRefused",
    "Release",
    "TrusteeSession",
]
