"""Other writers wait while a transaction is open, so what a decision says is put into words before it begins."""

from collections.abc import Callable
from contextlib import contextmanager
from types import ModuleType

import pytest

from ca_service.enrollment import issuance, recording
from ca_service.judgment import Refused
from ca_service.store import Store


@pytest.fixture
def writing(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[bool]]:
    """Whether a write transaction was open whenever something was put into words."""
    now, seen = [False], dict[str, list[bool]]()

    def noted(module: ModuleType, name: str) -> None:
        real: Callable[..., object] = getattr(module, name)

        def made(*arguments: object, **named: object) -> object:
            seen.setdefault(name, []).append(now[0])
            return real(*arguments, **named)

        monkeypatch.setattr(module, name, made)

    write = Store.write

    @contextmanager
    def noticed(store: Store, *, together: bool = False):
        with write(store, together=together) as tx:
            now[0] = True
            try:
                yield tx
            finally:
                now[0] = False

    monkeypatch.setattr(Store, "write", noticed)
    noted(recording, "Record")
    noted(recording, "decision_leaf")
    noted(issuance, "certificate_leaf")
    return seen


def test_of_a_new_tpm_and_of_a_known_one(world, enroller, tpms, helpers, writing):
    helpers.issue(world, enroller, tpms(0))
    reply = enroller.enroll(world.body(enroller.new_nonce().nonce, tpms(0)))
    assert reply.status == 200
    assert writing == {
        "Record": [False] * 2,
        "decision_leaf": [False] * 2,
        "certificate_leaf": [False] * 3,
    }


def test_of_a_refusal(world, enroller, tpms, helpers, writing):
    body = world.body(enroller.new_nonce().nonce, tpms(0), helpers.Boot(resource="elsewhere/vtpm/x"))
    with pytest.raises(Refused) as refused:
        enroller.enroll(body)
    assert refused.value.decision_id, "it was stored"
    assert writing == {"Record": [False], "decision_leaf": [False]}
