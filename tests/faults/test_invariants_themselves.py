"""Each invariant is broken by hand once, and must be the one that is reported."""

import base64
import copy
import hashlib
import json
from collections.abc import Callable

import enrollment_world as w
import invariants
import pytest
import second_log
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from enrolment_load import Client, Habits, Machine, Record, load_world, make_tpms
from fault_site import Founding, Site
from hypothesis import given
from hypothesis import strategies as st
from invariants import INVARIANTS, Evidence, Row
from serving import Nursery

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ORIGIN = "test/log"


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _note(size: int, root: bytes) -> str:
    text = f"{ORIGIN}\n{size}\n{base64.b64encode(root).decode()}\n"
    verifier = second_log.Verifier.of(ORIGIN, KEY.public_key().public_bytes_raw())
    signed = base64.b64encode(verifier.key_hash + KEY.sign(text.encode())).decode()
    return f"{text}\n\u2014 {ORIGIN} {signed}\n"


def give_log(e: Evidence) -> None:
    """A log made by hand: what the CA's own one is, whatever it looks like, does not matter here."""
    e.__dict__["log_key"] = second_log.Verifier.of(ORIGIN, KEY.public_key().public_bytes_raw())
    subjects = [("decision", row.id, b"") for row in e.decisions]
    subjects += [("certificate", row.serial, row.der) for row in e.certificates if row.der is not None]
    leaves = [
        Row(position=i, kind=kind, subject=subject, data=f"{subject} {_digest(der)}".encode())
        for i, (kind, subject, der) in enumerate(subjects)
    ]
    tree = second_log.Tree([row.data for row in leaves])
    size = len(leaves)
    _set_hashes(leaves, tree)
    frontier, at = b"", 0
    for level in reversed(range(size.bit_length())):
        if size >> level & 1:
            frontier, at = frontier + tree.node(level, at >> level), at + (1 << level)
    head = Row(size=size, frontier=frontier, checkpoint=_note(size, tree.root(size)))
    e.tables.update(log_leaves=leaves, log_head=[head])
    # Each answer was given when the log ended with its certificates.
    for number, (certificates, _) in enumerate(e.received.logs):
        digests = [_digest(der) for der in certificates]
        places = [row.position for row in leaves if row.data.split()[-1].decode() in digests]
        then = max(places) + 1
        proofs = [
            {
                "leaf": _b64(leaves[place].data),
                "position": str(place),
                "path": [_b64(hash_) for hash_ in tree.path(place, then)],
            }
            for place in places
        ]
        log = {"proofs": proofs, "checkpoints": [_note(then, tree.root(then))]}
        e.received.logs[number] = (certificates, log)


def _set_hashes(leaves: list[Row], tree: second_log.Tree) -> None:
    for row in leaves:
        levels = [level for level in range(64) if (row.position + 1) % (1 << level) == 0]
        row["hashes"] = b"".join(tree.node(level, row.position >> level) for level in levels)


def _digest(der: bytes) -> str:
    return hashlib.sha256(der).hexdigest()


@pytest.fixture(scope="module")
def whole(founding: Founding, nursery: Nursery):
    """All that there is of a CA after three enrolments, one of them reset, and an abandoned intent."""
    site = Site(founding, nursery, None)
    node = site.start(workers=1).until_ready()
    client = Client(0, [node.base], site.record, Habits(again=0.0))
    machines = [Machine(site.world, tpm, number) for number, tpm in enumerate(make_tpms(3))]
    for machine in machines:
        client.enrol(machine)
    client.enrol(machines[0])
    client.close()
    node.stop()
    world = w.World(site.folder, founding.world.authority)
    world.url, world.time = site.url, load_world(site.folder).time
    store = world.open_store()

    def fails(point: str) -> None:
        if point == "after signing ek":
            raise RuntimeError

    with pytest.raises(RuntimeError):
        w.issue(world, world.enroller(store, fails), w.SoftTpm(), w.Boot(f"{w.RESOURCE}-x", bytes(32)))
    store.close()
    evidence = invariants.gather(site.url, site.ca, [site.records])
    assert invariants.judge(evidence).violations == {}
    give_log(evidence)
    assert invariants.judge(_copy(evidence)).violations == {}
    yield evidence
    site.close()


def _copy(whole: Evidence) -> Evidence:
    log_key = whole.log_key
    broken = Evidence(
        copy.deepcopy(whole.tables), whole.directory, copy.deepcopy(whole.received), dict(whole.published)
    )
    broken.__dict__["log_key"] = log_key
    return broken


def _abandoned(e: Evidence) -> Row:
    return next(row for row in e.certificates if row.state == "abandoned")


def _issued(e: Evidence) -> Row:
    return next(row for row in e.certificates if row.state == "issued")


def _reissued(e: Evidence, **changes: object) -> None:
    row = _issued(e)
    e.certificates.append(Row(row | {"serial": "7f" * 17, "der": None} | changes))


def _unsent(e: Evidence) -> None:
    """A certificate that a client has, and that the database never heard of."""
    row = _issued(e)
    e.certificates.remove(row)


def _unused_nonce(e: Evidence) -> None:
    e.received.nonces[next(iter(e.received.nonces))] += 1


def _evidence_twice(e: Evidence) -> None:
    row = e.evidence[0]
    body = json.loads(row.body)
    body.pop("certify", None)
    e.evidence.append(Row(digest="00" * 32, body=json.dumps(body).encode()))


def _two_tpms(e: Evidence) -> None:
    row = e.tpms[0]
    served = next(c for c in e.certificates if c.tpm_id == row.id)
    e.tpms.append(Row(row | {"id": 999, "occupies": None}))
    e.certificates.append(
        Row(
            served
            | {"serial": "7e" * 17, "key_name": "beef", "live": None, "tpm_id": 999, "state": "revoked"}
        )
    )
    e.tpm_keys.append(Row(name="beef", instance_id=row.instance_id))
    e.revoked.setdefault(served.issuer, set()).add(int("7e" * 17, 16))
    e.certificates[-1]["der"] = None


def _unbacked(e: Evidence) -> None:
    e.tpms.append(Row(e.tpms[0] | {"id": 999, "instance_id": 999, "occupies": 999}))


def _set(table: str, state: str, /, **changes: object) -> Callable[[Evidence], None]:
    def apply(e: Evidence) -> None:
        next(row for row in e.tables[table] if row.get("state", state) == state).update(changes)

    return apply


def _not_listed(e: Evidence) -> None:
    row = _abandoned(e)
    e.revoked[row.issuer].discard(int(row.serial, 16))


def _listed(e: Evidence) -> None:
    row = _issued(e)
    e.revoked[row.issuer].add(int(row.serial, 16))


def _other_tbs(e: Evidence) -> None:
    row = next(row for row in e.certificates if row.state == "issued" and row.slot is not None)
    row["tbs_digest"] = "00" * 32


def _reply_of_another(e: Evidence) -> None:
    rows = [row for row in e.enrollments if row.reply is not None]
    reply = json.loads(rows[0].reply)
    reply["iak"]["certificate"] = _b64(b"another")
    unseen = Row(rows[0] | {"nonce": "unseen", "reply": json.dumps(reply).encode()})
    e.enrollments.append(unseen)


def _proof_of_another(e: Evidence) -> None:
    proof = e.received.logs[0][1]["proofs"][0]
    proof["path"][0] = _b64(bytes(32))


def _later_checkpoint(e: Evidence) -> None:
    """A client saw a longer log than there is: the database was put back behind its back."""
    e.received.logs[0][1]["checkpoints"].append(_note(len(e.log_leaves) + 1, bytes(32)))


def _forked(e: Evidence) -> None:
    size = len(e.log_leaves) - 1
    e.received.logs[0][1]["checkpoints"].append(_note(size, bytes(32)))


def _drop_leaf(kind: str) -> Callable[[Evidence], None]:
    def apply(e: Evidence) -> None:
        e.received.certificates.clear()
        e.received.logs.clear()
        row = [row for row in e.log_leaves if row.kind == kind][-1]
        e.log_leaves.remove(row)
        kept = [Row(row | {"position": i}) for i, row in enumerate(e.log_leaves)]
        e.tables["log_leaves"] = kept
        _remake(e)

    return apply


def _remake(e: Evidence) -> None:
    """Hashes, frontier and checkpoint that fit the leaves."""
    tree = second_log.Tree([row.data for row in e.log_leaves])
    size = len(tree)
    _set_hashes(e.log_leaves, tree)
    frontier, at = b"", 0
    for level in reversed(range(size.bit_length())):
        if size >> level & 1:
            frontier, at = frontier + tree.node(level, at >> level), at + (1 << level)
    e.tables["log_head"] = [Row(size=size, frontier=frontier, checkpoint=_note(size, tree.root(size)))]


def _lost_in_log(e: Evidence) -> None:
    """The leaf is there, about other bytes."""
    e.received.logs.clear()
    row = next(row for row in e.log_leaves if row.kind == "certificate")
    row["data"] = b"something else"
    _remake(e)


BREAKS: list[tuple[str, str, Callable[[Evidence], None]]] = [
    ("received.in-database", "not in the database", _unsent),
    ("received.in-database", "other bytes", lambda e: _issued(e).update(der=_issued_der(e))),
    ("received.in-log", "leaf about other bytes", _lost_in_log),
    ("answers.stored", "another body", lambda e: e.submissions[0].update(body_digest="00" * 32)),
    ("answers.stored", "another answer", lambda e: e.submissions[0].update(reply=b"{}")),
    ("nonce.once", "handed out twice", _unused_nonce),
    ("nonce.once", "two bodies", _evidence_twice),
    ("nonce.once", "judged twice", lambda e: e.decisions.append(Row(e.decisions[0]))),
    ("certificate.one-live", "two of one key", lambda e: _reissued(e, state="issued")),
    ("certificate.one-live", "column live", lambda e: _issued(e).update(live=None)),
    ("tpm.one-live", "two in one instance", _two_tpms),
    ("tpm.one-live", "column occupies", lambda e: e.tpms[0].update(occupies=None)),
    ("tpm.backed", "never certified", _unbacked),
    ("key.one-instance", "bound elsewhere", lambda e: e.tpm_keys[0].update(instance_id=999)),
    ("intent.closed", "open", _set("intents", "abandoned", state="open")),
    ("intent.closed", "issuing", _set("enrollments", "pending", state="issuing")),
    ("serial.accounted", "abandoned, not listed", _not_listed),
    ("serial.accounted", "issued, listed", _listed),
    ("serial.accounted", "issued, no bytes", lambda e: _reissued(e, state="superseded", live=None)),
    ("certificate.as-intended", "other TBS", _other_tbs),
    ("enrolment.answered", "no reply", _set("enrollments", "pending", state="issued")),
    ("enrolment.answered", "certificate not stored", _reply_of_another),
    ("log.tree", "a gap", lambda e: e.log_leaves[-1].update(position=99)),
    ("log.tree", "a wrong hash", lambda e: e.log_leaves[0].update(hashes=bytes(32))),
    ("log.tree", "a wrong size", lambda e: e.log_head[0].update(size=1)),
    ("log.tree", "a wrong frontier", lambda e: e.log_head[0].update(frontier=bytes(32))),
    (
        "log.tree",
        "not signed",
        lambda e: e.log_head[0].update(checkpoint=_note(1, bytes(32))[:-8] + "AAAA===\n"),
    ),
    ("log.complete", "a decision is missing", _drop_leaf("decision")),
    ("log.complete", "a certificate is missing", _drop_leaf("certificate")),
    ("log.proofs", "another path", _proof_of_another),
    ("log.proofs", "taken back", _later_checkpoint),
    ("log.proofs", "forked", _forked),
    ("log.proofs", "no proof", lambda e: e.received.logs[0][1]["proofs"].clear()),
]

ALSO = {
    ("received.in-database", "not in the database"): {
        "enrolment.answered",
        "log.complete",
        "received.in-log",
    },
    ("received.in-database", "other bytes"): {"certificate.as-intended", "enrolment.answered"},
    ("certificate.one-live", "two of one key"): {"serial.accounted", "log.complete"},
    ("serial.accounted", "issued, no bytes"): {"log.complete"},
    ("log.tree", "a gap"): {"received.in-log", "log.proofs"},
}
"""What a damage breaks besides, because the facts hang together."""


def _issued_der(e: Evidence) -> bytes:
    return [row.der for row in e.certificates if row.state == "issued"][-1]


@pytest.mark.parametrize(("name", "how", "damage"), BREAKS, ids=[f"{name}: {how}" for name, how, _ in BREAKS])
def test_each_invariant_is_reported_when_it_is_broken(whole, name, how, damage):
    evidence = _copy(whole)
    damage(evidence)
    reported = set(invariants.judge(evidence).violations)
    assert name in reported
    assert reported - {name} <= ALSO.get((name, how), set())


def test_no_invariant_without_a_damage():
    assert {name for name, _, _ in BREAKS} == set(INVARIANTS)


def test_a_real_database_is_read(whole, tmp_path):
    """Not only what was read before: the damage lies in the file."""
    source = whole.directory / "ca.sqlite3"
    copied = tmp_path / "ca.sqlite3"
    copied.write_bytes(source.read_bytes())
    url = f"sqlite:///{copied}"
    assert invariants.check(url, whole.directory).violations == {}
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE certificates SET state = 'intended' WHERE state = 'abandoned'"))
    engine.dispose()
    found = invariants.check(url, whole.directory)
    assert {"certificate.one-live", "intent.closed"} <= set(found.violations)
    assert "is intended" in str(found)


@given(st.integers(1, 70), st.data())
def test_the_second_log_agrees_with_itself_and_the_rfc(size, data):
    leaves = [bytes([i]) for i in range(size)]
    tree = second_log.Tree(leaves)
    position = data.draw(st.integers(0, size - 1))
    path = tree.path(position, size)
    leaf = second_log.leaf_hash(leaves[position])
    assert second_log.root_of_path(leaf, position, size, path) == tree.root(size)
    if path:
        path[data.draw(st.integers(0, len(path) - 1))] = bytes(32)
        assert second_log.root_of_path(leaf, position, size, path) != tree.root(size)


def test_known_roots():
    """Roots of the leaves that implementations of RFC 6962 commonly test with."""
    leaves = [bytes.fromhex(text) for text in ("", "00", "10", "2021", "3031", "40414243")]
    tree = second_log.Tree(leaves)
    roots = {
        0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        4: "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        5: "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        6: "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    }
    assert {size: tree.root(size).hex() for size in roots} == roots


def test_a_record_is_read_as_it_was_written(tmp_path):
    record = Record(tmp_path / "record")
    record(client=1, step="nonce", status=201, nonce="n", certificates=[])
    record(client=1, step="enroll", status=0)
    assert record.until_more(1, 0.0) is False
    assert record.until_more(0, 0.0) is True
    record.close()
    received = invariants.Received.read([record.path])
    assert (received.lines, received.nonces, received.answers) == (2, {"n": 1}, set())
