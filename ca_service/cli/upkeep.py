"""What each process of a server does beside its requests: close what others left open, publish in time, remember."""

import contextlib
import functools
import threading
import time

import structlog

from ca_service.enrollment import Enroller
from ca_service.judgment import Unavailable, VtpmCaError
from ca_service.operations import ensure_issuers, keep_seen, keep_state, missing_keys

_ROUND_S = 600.0
_KEEP_S = 10.0
_LOOK_S = 2.0
_RETRY_S = 60.0


def remember_at_end(enroller: Enroller) -> None:
    """At the end, when all workers have gone: keep where the database stands."""
    try:
        keep_state(enroller.desk.authority, enroller.desk.store)
    except VtpmCaError as error:
        structlog.get_logger(__name__).warning("the state could not be kept", reason=error.detail)
    finally:
        enroller.desk.store.close()


def start_upkeep(enroller: Enroller) -> None:
    """Let each worker look after what others may have left, at once and then now and again."""
    upkeep = functools.partial(keep_up, enroller, threading.Event())
    threading.Thread(target=upkeep, name="upkeep", daemon=True).start()


def keep_up(enroller: Enroller, pause: threading.Event) -> None:
    """Close the intents of workers that were killed, publish CRLs in time, take up new issuing CAs, remember the state.

    Whatever goes wrong once is tried again. Only a database that was rolled back stops the process: it answers so
    until it is started anew, on the right one.
    """
    log = structlog.get_logger(__name__)
    desk, known, due, keeping = enroller.desk, None, 0.0, 0.0
    while True:
        wait = _LOOK_S
        try:
            desk.log.check_going()
            authority = desk.source.fresh()
            if authority is not known:
                ensure_issuers(desk.store, authority, desk.now())
                known, due = authority, 0.0
            if time.monotonic() >= due:
                enroller.recover()
                for skid in missing_keys(desk.store, authority):
                    with contextlib.suppress(Unavailable):
                        # Says in the log what is to be copied.
                        desk.source.holding(skid)
                due = time.monotonic() + _ROUND_S
            if time.monotonic() >= keeping:
                keep_state(authority, desk.store)
                keeping = time.monotonic() + _KEEP_S
        except Exception as error:  # noqa: BLE001 - a thread that dies here would let the CRLs expire
            if isinstance(error, Unavailable) and error.code == "rolled-back":
                _stop(enroller, error)
            log.warning("upkeep failed", error=type(error).__name__, reason=getattr(error, "detail", ""))
            wait = _RETRY_S
        if pause.wait(wait):
            break


def _stop(enroller: Enroller, error: Unavailable) -> None:
    """Serve nothing from a database that was rolled back, and let nobody start on it unawares."""
    desk = enroller.desk
    desk.log.stop(error.detail)
    try:
        keep_seen(desk.authority, desk.log.seen)
    except (VtpmCaError, OSError) as failure:
        reason = getattr(failure, "detail", type(failure).__name__)
        structlog.get_logger(__name__).warning("the state could not be kept", reason=reason)
