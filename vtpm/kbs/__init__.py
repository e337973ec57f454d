"""The simulated key broker: wire-compatible with Trustee's KBS 0.4.0, plus the grant.

It hands a resource's secret to an SVSM whose SEV-SNP report it verified at VMPL 0 and whose launch measurement
its release policy allows. On an attested session the protected header of the answer carries a *grant*: the KBS's
signed statement which exchange, which secret and which VM launch it was. What is simulated about it is its size;
the checks are real.

`Kbs` is the directory with keys, policy and resources; `create_app` and `serve` put it on HTTP.
"""

from vtpm.kbs.app import create_app
from vtpm.kbs.directory import Kbs, Secret
from vtpm.kbs.errors import KbsError
from vtpm.kbs.policy import ReleasePolicy
from vtpm.kbs.server import make_kbs_server, serve

__all__ = ["Kbs", "KbsError", "ReleasePolicy", "Secret", "create_app", "make_kbs_server", "serve"]
