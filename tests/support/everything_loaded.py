"""To be imported by a process from which commands and servers are forked: all that they would load one by one."""

import importlib

from ca_service.cli.serving import load_everything

load_everything()
for _name in (
    "ca_service.audit.database",
    "ca_service.audit.export",
    "ca_service.cli.direct",
    "ca_service.cli.verdict",
    "ca_service.export.keylime",
    "ca_service.export.issuers",
    "ca_service.keys.ceremony",
    "ca_service.keys.generations",
    "ca_service.operations.audit",
    "ca_service.operations.replay",
    "ca_service.operations.setup",
    "ca_service.operations.verification",
    "ca_service.policy.editing.brokers",
    "ca_service.store.invariants",
):
    importlib.import_module(_name)
