"""What the CA knows, durably: SQL tables, their migrations, and one repository per subject.

Enter by `open_store` (an existing database) or `create_store` (a new one). `Store.read` gives a consistent
view, `Store.write` one durable transaction; both hand out a `Transaction` with the repositories.
"""

from typing import TYPE_CHECKING

from ca_service.faces import on_demand

if TYPE_CHECKING:
    from ca_service.store.authority import active_key, spki_digest
    from ca_service.store.backends import parse_url, sqlite_url
    from ca_service.store.brokers import Resting, RestingOnBrokers, resting_on_brokers
    from ca_service.store.causes import BesideRow, Cause, HitRow, MatchRow
    from ca_service.store.copying import clear_rows, copy_rows, take_time
    from ca_service.store.counters import precedes
    from ca_service.store.database import Store, create_store, no_faults, open_store
    from ca_service.store.failures import Taken, is_bad_value
    from ca_service.store.fleet import CertifiedTpm, NewestEvidence
    from ca_service.store.gauges import Gauges, IssuerStanding, ListState, read_gauges, revocations_by_reason
    from ca_service.store.invariants import INVARIANTS, Breach, check_invariants
    from ca_service.store.issuance import live_key
    from ca_service.store.log import LoggedCertificate
    from ca_service.store.overview import (
        CertifiedRow,
        DecidedRow,
        StatusSources,
        Verdicts,
        certificate,
        certificates_of,
        certified,
        decision,
        decisions_of,
        hourly,
        policy_versions,
        refusals,
        status_sources,
    )
    from ca_service.store.policy_rows import (
        APPROVED,
        PolicyEnd,
        PolicyRow,
        PolicyStartRow,
        PolicyVerdictRow,
        VersionRecord,
    )
    from ca_service.store.presence import Presence
    from ca_service.store.rows import (
        AlarmRow,
        BlockedKeyRow,
        CertificateRow,
        CertificateState,
        CrlRow,
        DecisionRow,
        EnrollmentRow,
        EnrollmentState,
        EpochRow,
        EvidenceFacts,
        HeadRow,
        InstanceRow,
        IntentRow,
        IntentState,
        IssuerRow,
        IssuerState,
        LeafRow,
        ListedRow,
        ListKey,
        ListTimes,
        ResponderRow,
        RestingRow,
        RevocationRow,
        SubmissionRow,
        TpmRow,
        TpmState,
    )
    from ca_service.store.schedule import PENDING, Schedule, State, read_schedule
    from ca_service.store.sessions import Faults
    from ca_service.store.transaction import Transaction
    from ca_service.store.views import LedgerQuery, LedgerView, Standing
    from ca_service.store.whose import named_issuers
else:
    __getattr__ = on_demand(
        __name__,
        {
            ".authority": "active_key spki_digest",
            ".backends": "parse_url sqlite_url",
            ".brokers": "Resting RestingOnBrokers resting_on_brokers",
            ".causes": "BesideRow Cause HitRow MatchRow",
            ".copying": "clear_rows copy_rows take_time",
            ".counters": "precedes",
            ".database": "Store create_store no_faults open_store",
            ".failures": "Taken is_bad_value",
            ".fleet": "CertifiedTpm NewestEvidence",
            ".gauges": "Gauges IssuerStanding ListState read_gauges revocations_by_reason",
            ".invariants": "INVARIANTS Breach check_invariants",
            ".issuance": "live_key",
            ".log": "LoggedCertificate",
            ".overview": (
                "CertifiedRow DecidedRow StatusSources Verdicts certificate certificates_of certified "
                "decision decisions_of hourly policy_versions refusals status_sources"
            ),
            ".policy_rows": "APPROVED PolicyEnd PolicyRow PolicyStartRow PolicyVerdictRow VersionRecord",
            ".presence": "Presence",
            ".rows": (
                "AlarmRow BlockedKeyRow CertificateRow CertificateState CrlRow DecisionRow "
                "EnrollmentRow EnrollmentState EpochRow EvidenceFacts HeadRow InstanceRow IntentRow "
                "IntentState IssuerRow IssuerState LeafRow ListedRow ListKey ListTimes ResponderRow "
                "RestingRow RevocationRow SubmissionRow TpmRow TpmState"
            ),
            ".schedule": "PENDING Schedule State read_schedule",
            ".sessions": "Faults",
            ".transaction": "Transaction",
            ".views": "LedgerQuery LedgerView Standing",
            ".whose": "named_issuers",
        },
    )

__all__ = [
    "APPROVED",
    "INVARIANTS",
    "PENDING",
    "AlarmRow",
    "BesideRow",
    "BlockedKeyRow",
    "Breach",
    "Cause",
    "CertificateRow",
    "CertificateState",
    "CertifiedRow",
    "CertifiedTpm",
    "CrlRow",
    "DecidedRow",
    "DecisionRow",
    "EnrollmentRow",
    "EnrollmentState",
    "EpochRow",
    "EvidenceFacts",
    "Faults",
    "Gauges",
    "HeadRow",
    "HitRow",
    "InstanceRow",
    "IntentRow",
    "IntentState",
    "IssuerRow",
    "IssuerStanding",
    "IssuerState",
    "LeafRow",
    "LedgerQuery",
    "LedgerView",
    "ListKey",
    "ListState",
    "ListTimes",
    "ListedRow",
    "LoggedCertificate",
    "MatchRow",
    "NewestEvidence",
    "PolicyEnd",
    "PolicyRow",
    "PolicyStartRow",
    "PolicyVerdictRow",
    "Presence",
    "ResponderRow",
    "Resting",
    "RestingOnBrokers",
    "RestingRow",
    "RevocationRow",
    "Schedule",
    "Standing",
    "State",
    "StatusSources",
    "Store",
    "SubmissionRow",
    "Taken",
    "TpmRow",
    "TpmState",
    "Transaction",
    "Verdicts",
    "VersionRecord",
    "active_key",
    "certificate",
    "certificates_of",
    "certified",
    "check_invariants",
    "clear_rows",
    "copy_rows",
    "create_store",
    "decision",
    "decisions_of",
    "hourly",
    "is_bad_value",
    "live_key",
    "named_issuers",
    "no_faults",
    "open_store",
    "parse_url",
    "policy_versions",
    "precedes",
    "read_gauges",
    "read_schedule",
    "refusals",
    "resting_on_brokers",
    "revocations_by_reason",
    "spki_digest",
    "sqlite_url",
    "status_sources",
    "take_time",
]
