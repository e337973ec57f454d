"""`vtpm-ca-ek-check`: what keylime's tenant runs to learn whether an EK certificate counts.

keylime itself looks at the issuer's name and one signature. It starts this program without arguments, without a shell
and without a time limit, and logs what it prints, decoded as UTF-8; the status 0 means that the EK is good.
"""

from ca_service.export.ek_check.program import main

__all__ = ["main"]
