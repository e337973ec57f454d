"""The HTTP face of the CA. No decision is made here: requests are bounded, handed on, and answered.

`create_app` makes the Flask application from `Services`. The blueprints: `enrolment` (the ``/v1`` protocol),
`publication` (certificates, CRLs, health), `operator` and `metrics` (for operators). Each `Surface` is served where it
belongs. `watching` counts and logs what comes in; `journal` is the form of the log.
"""

from ca_service.api.application import create_app
from ca_service.api.services import HttpLimits, Operations, Services
from ca_service.api.surfaces import Surface

__all__ = ["HttpLimits", "Operations", "Services", "Surface", "create_app"]
