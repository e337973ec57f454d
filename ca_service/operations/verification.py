"""The audit of a CA's database together with what its directory remembers of it."""

from ca_service.audit import AuditReport
from ca_service.judgment import Unavailable
from ca_service.keys import PublicAuthority
from ca_service.operations.audit import audit_ca
from ca_service.operations.kept import KeptState, check_not_rolled_back, read_state
from ca_service.store import Store, is_bad_value

_ROLLED_BACK = "rolled-back"


def verify_ca(public: PublicAuthority, store: Store, since: bytes | None = None) -> AuditReport:
    """Audit a CA's database, and hold it against the checkpoint and the revocation lists that were kept outside it.

    Raises:
        BadRequest: `since` is no checkpoint of this log.
        Unavailable: the CA has no log, or the database cannot be read.
    """
    # What is remembered is read first: the database may go on meanwhile, but never back.
    kept, unreadable = KeptState(), ""
    try:
        kept = read_state(public)
    except Unavailable as error:
        unreadable = str(error)
    report = audit_ca(public, store, since, kept=kept.crls)
    if unreadable:
        return report.with_finding("kept.unreadable", "", unreadable)
    behind = _behind(public, store)
    return report.with_finding("kept.rolled-back", "", behind) if behind else report


def _behind(public: PublicAuthority, store: Store) -> str:
    try:
        check_not_rolled_back(public, store)
    except Unavailable as error:
        if error.code == _ROLLED_BACK:
            return str(error)
        # A damaged log: the audit has named what is wrong with it.
        return ""
    except Exception as error:
        if not is_bad_value(error):
            raise
        return "the database holds a list or checkpoint that cannot be compared with what is remembered"
    return ""
