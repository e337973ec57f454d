"""The HTTP face of the CA. No decision is made here: requests are bounded, handed on, and answered.

`create_app` makes the Flask application from `Services`. The blueprints: `enrolment` (the ``/v1`` protocol),
`publication` (certificates, CRLs, health), `operator` and `metrics` (only over the CA's Unix socket). `watching` counts
and logs what comes in; `journal` is the form of the log.
"""

from ca_service.api.application import create_app
from ca_service.api.services import HttpLimits, Operations, Services

__all__ = ["HttpLimits", "Operations", "Services", "create_app"]
