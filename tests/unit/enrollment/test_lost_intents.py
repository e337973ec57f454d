"""Intents that a process could not finish are remembered until they are known to be closed, and no longer."""

from datetime import timedelta

import enrollment_world as w
import pytest

from ca_service.enrollment import reset_instance
from ca_service.judgment import Unavailable

BOOT = w.Boot(certify=True)


@pytest.fixture
def tpm(tpms):
    return tpms(0)


def pending(world, enroller, tpm) -> tuple[str, bytes]:
    return w.answer(tpm, enroller.enroll(world.body(enroller.new_nonce().nonce, tpm, BOOT)).body)


def lost(enroller) -> set[str]:
    return enroller._activation._lost


def test_what_was_never_stored_is_forgotten(world, store, tpm):
    """A full disk fails one commit after the other, for as long as clients try."""
    full = [False]

    def fail(point: str) -> None:
        if full[0] and point == "before commit":
            raise Unavailable("the disk is full")

    enroller = world.enroller(world.new_store(fail))
    answer = pending(world, enroller, tpm)
    full[0] = True
    for _ in range(5):
        with pytest.raises(Unavailable, match="full"):
            enroller.activate(*answer)
    assert len(lost(enroller)) == 5
    full[0] = False
    assert enroller.recover() == 0
    assert not lost(enroller)
    enroller.activate(*answer)
    enroller.desk.store.close()


def test_what_others_closed_is_forgotten(world, store, tpm):
    def reset(point: str) -> None:
        if point == "before signing ek":
            reset_instance(
                store,
                world.authority,
                "org-kbs",
                w.RESOURCE,
                at=world.time + timedelta(seconds=1),
                cause="moved",
                limits=enroller.desk.limits,
            )

    enroller = world.enroller(store, reset)
    with pytest.raises(Unavailable, match=r"abandoned|revoked"):
        enroller.activate(*pending(world, enroller, tpm))
    enroller.recover()
    assert not lost(enroller)


def test_what_is_open_is_remembered_until_it_is_abandoned(world, store, tpm, monkeypatch):
    """Of a commit that took effect although nobody heard of it."""

    def unheard(point: str) -> None:
        if deaf and point == "after commit":
            raise Unavailable("the connection is lost")

    deaf = False
    enroller = world.enroller(world.new_store(unheard))
    answer = pending(world, enroller, tpm)
    deaf = True
    with pytest.raises(Unavailable, match="lost"):
        enroller.activate(*answer)
    deaf = False
    (intent,) = lost(enroller)
    enroller._activation.forget_closed()
    assert lost(enroller) == {intent}
    assert enroller.recover() == 1
    assert not lost(enroller)
    enroller.activate(*answer)
    enroller.desk.store.close()
