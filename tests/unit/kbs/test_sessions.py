from datetime import UTC, datetime, timedelta

from vtpm.kbs.sessions import Sessions
from vtpm.wire.encoding import unb64std


class Clock:
    def __init__(self):
        self.now = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)

    def __call__(self):
        return self.now


class Counter:
    def __init__(self):
        self.count = 0

    def __call__(self, size):
        self.count += 1
        return self.count.to_bytes(size, "big")


def test_a_session_has_a_32_byte_nonce_and_a_32_digit_id():
    session = Sessions(Clock(), Counter()).open()
    assert len(unb64std(session.nonce, "nonce")) == 32
    assert len(bytes.fromhex(session.id)) == 16


def test_a_session_lives_for_five_minutes():
    clock = Clock()
    sessions = Sessions(clock, Counter())
    session = sessions.open()
    assert session.expires == datetime(2026, 1, 2, 3, 9, 5, tzinfo=UTC)
    clock.now = session.expires - timedelta(microseconds=1)
    assert sessions.get(session.id) == session
    clock.now = session.expires
    assert sessions.get(session.id) is None
    assert len(sessions) == 0


def test_an_expired_session_is_not_attested():
    clock = Clock()
    sessions = Sessions(clock, Counter())
    session = sessions.open()
    clock.now = session.expires
    assert sessions.attested(session.id, object(), "t") is None


def test_the_first_attestation_stays():
    sessions = Sessions(Clock(), Counter())
    session = sessions.open()
    first, second = object(), object()
    assert sessions.attested(session.id, first, "first").token == "first"
    assert sessions.attested(session.id, second, "second").token == "first"
    assert sessions.get(session.id).attestation is first


def test_a_flood_does_not_grow_beyond_the_bound_and_spares_the_attested():
    clock = Clock()
    sessions = Sessions(clock, Counter(), most=8)
    attested = sessions.open()
    sessions.attested(attested.id, object(), "token")
    opened = []
    for _ in range(100):
        clock.now += timedelta(seconds=1)
        opened.append(sessions.open())
    assert len(sessions) == 8
    assert sessions.get(attested.id) is not None
    assert [sessions.get(s.id) is not None for s in opened[-8:]] == [False] + [True] * 7


def test_the_expired_make_room_first():
    clock = Clock()
    sessions = Sessions(clock, Counter(), most=2)
    old = sessions.open()
    sessions.attested(old.id, object(), "token")
    clock.now += timedelta(minutes=4)
    young = sessions.open()
    clock.now += timedelta(minutes=1)
    sessions.open()
    assert sessions.get(old.id) is None
    assert sessions.get(young.id) is not None


def test_no_credential_in_repr():
    session = Sessions(Clock(), Counter()).open()
    assert session.id not in repr(session)
