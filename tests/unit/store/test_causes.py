"""What a cause hits, against a model in Python that looks at every row; and that databases look at few."""

import itertools
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ca_service.store import Cause, CertificateState, RevocationRow, create_store, schema
from ca_service.store import causes as causes_module

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
TIMES = [NOW - timedelta(days=days) for days in (3, 2, 1)]
MEASUREMENTS, CHIPS, KEYS = ("aa" * 48, "bb" * 48), ("c1" * 64, "c2" * 64), ("k" * 43, "l" * 43)
EK_SETS, TCBS = ("e1" * 32, "e2" * 32), ("01" * 8, "02" * 8)
INSTANCES = list(itertools.product(("a", "ephemeral:"), ("x/y/1", "x/y/2"), ("", "5a")))
GOOD = (CertificateState.ISSUED, CertificateState.SUPERSEDED)


@dataclass(frozen=True)
class Tpm:
    instance: int
    ek_set: str
    live: bool


@dataclass(frozen=True)
class Judged:
    """A decision with what its evidence says."""

    kbs_id: str
    resource: str
    admitted: bool
    at: datetime
    policy_version: int
    measurement: str | None
    chip_id: str | None
    kbs_key: str | None
    product: str | None
    reported_tcb: str | None
    ek_set: str | None


NOBODY = Judged("", "", False, NOW, 0, *[None] * 6)


@dataclass(frozen=True)
class Issued:
    tpm: int
    state: CertificateState
    not_after: datetime | None


@dataclass(frozen=True)
class Ca:
    tpms: tuple[Tpm, ...]
    judged: tuple[Judged, ...]
    certificates: tuple[Issued, ...]


def maybe(*values):
    return st.sampled_from((None, *values))


@st.composite
def cas(draw):
    tpms = draw(
        st.lists(st.builds(Tpm, st.integers(0, 7), st.sampled_from(EK_SETS), st.booleans()), max_size=4)
    )
    occupied = set()
    for number, tpm in enumerate(tpms):
        if tpm.live and tpm.instance in occupied:
            tpms[number] = replace(tpm, live=False)
        occupied |= {tpm.instance} if tpm.live else set()
    # Mostly about the TPMs that there are.
    subjects = [(*INSTANCES[tpm.instance][:2], tpm.ek_set) for tpm in tpms] * 3
    subjects += [(*INSTANCES[tpm.instance][:2], EK_SETS[0]) for tpm in tpms]
    subjects += [("a", "x/y/1", None), ("ephemeral:", "x/y/2", EK_SETS[1])]

    @st.composite
    def judged(draw):
        kbs_id, resource, ek_set = draw(st.sampled_from(subjects))
        return Judged(
            kbs_id,
            resource,
            draw(st.integers(0, 4)) > 0,
            draw(st.sampled_from(TIMES)),
            draw(st.integers(1, 2)),
            draw(maybe(*MEASUREMENTS)),
            draw(maybe(*CHIPS)),
            draw(maybe(*KEYS)),
            draw(maybe("Milan", "Turin")),
            draw(st.sampled_from(TCBS)),
            ek_set,
        )

    issued = st.builds(
        Issued,
        st.integers(0, max(0, len(tpms) - 1)),
        st.sampled_from(CertificateState),
        maybe(NOW - timedelta(hours=1), NOW, NOW + timedelta(days=1)),
    )
    return Ca(
        tuple(tpms),
        tuple(draw(st.lists(judged(), max_size=6))),
        tuple(draw(st.lists(issued, max_size=6))) if tpms else (),
    )


@st.composite
def questions(draw):
    """A CA, a cause that one of its decisions may have brought to mind, and another."""
    ca = draw(cas())
    asked = []
    for _ in range(2):
        fields = ("serial", "instance", "measurement", "chip", "key", "kbs", "since", "tcb", "policy")
        chosen = draw(st.sets(st.sampled_from(fields), min_size=1, max_size=3))
        known = draw(st.sampled_from(ca.judged)) if ca.judged else NOBODY
        asked.append(
            Cause(
                serial=draw(st.sampled_from(("00", "01"))) if "serial" in chosen else None,
                kbs_id=known.kbs_id if "instance" in chosen else None,
                resource=known.resource if "instance" in chosen else None,
                salt=draw(maybe("", "5a")) if "instance" in chosen else None,
                measurement=known.measurement if "measurement" in chosen else None,
                chip_id=known.chip_id if "chip" in chosen else None,
                kbs_key=known.kbs_key if "key" in chosen else None,
                kbs="a" if "kbs" in chosen else None,
                kbs_keys=draw(st.sampled_from(((), KEYS[:1]))),
                since=known.at if "since" in chosen else None,
                tcbs=draw(
                    st.sampled_from(((), (("Milan", TCBS[0]),), (("Milan", TCBS[1]), ("Turin", TCBS[0]))))
                )
                if "tcb" in chosen
                else None,
                policy_version=known.policy_version if "policy" in chosen else None,
            )
        )
    return ca, *asked


def evidence_fits(cause, judged):
    own = judged.kbs_id == cause.kbs
    launched = judged.kbs_id == "ephemeral:" and judged.kbs_key in cause.kbs_keys
    return (
        judged.admitted
        and cause.measurement in (None, judged.measurement)
        and cause.chip_id in (None, judged.chip_id)
        and cause.kbs_key in (None, judged.kbs_key)
        and (cause.kbs is None or own or launched)
        and (cause.since is None or judged.at >= cause.since)
        and (cause.tcbs is None or (judged.product, judged.reported_tcb) in cause.tcbs)
        and cause.policy_version in (None, judged.policy_version)
    )


def fitting(ca, cause, tpm):
    """The decisions about a TPM that fit."""
    kbs_id, resource, _ = INSTANCES[tpm.instance]
    return [
        judged
        for judged in ca.judged
        if (judged.kbs_id, judged.resource, judged.ek_set) == (kbs_id, resource, tpm.ek_set)
        and evidence_fits(cause, judged)
    ]


def model(ca, cause):
    """Serials of the certificates that are to be ended."""
    found = set()
    for number, certificate in enumerate(ca.certificates):
        serial, tpm = f"{number:02x}", ca.tpms[certificate.tpm]
        kbs_id, resource, salt = INSTANCES[tpm.instance]
        if (
            cause.serial in (None, serial)
            and cause.kbs_id in (None, kbs_id)
            and cause.resource in (None, resource)
            and cause.salt in (None, salt)
            and (not cause.about_evidence or fitting(ca, cause, tpm))
            and endable(certificate, tpm, kbs_id, by_serial=cause.serial is not None)
        ):
            found.add(serial)
    return found


def beside(ca, cause, hit):
    """Numbers of the TPMs that are where evidence that fits came from, and are not hit; decisions here have no salt."""
    if not cause.about_evidence:
        return []
    fits = [judged for judged in ca.judged if evidence_fits(cause, judged)]
    places = {(judged.kbs_id, judged.resource, "", judged.ek_set) for judged in fits}
    left = model(ca, replace(cause, **dict.fromkeys(EVIDENCE)))
    tpms = {ca.certificates[int(serial, 16)].tpm for serial in left}
    return [
        number
        for number in sorted(tpm + 1 for tpm in tpms)
        if number not in hit
        and any(
            place[:3] == INSTANCES[ca.tpms[number - 1].instance] and place[3] != ca.tpms[number - 1].ek_set
            for place in places
        )
    ]


EVIDENCE = ("measurement", "chip_id", "kbs_key", "kbs", "tcbs", "policy_version")


def endable(certificate, tpm, kbs_id, *, by_serial):
    if by_serial:
        return certificate.state in GOOD
    if certificate.state is CertificateState.INTENDED:
        return True
    if certificate.state not in GOOD:
        return False
    if certificate.not_after is None or certificate.not_after >= NOW:
        return True
    return certificate.state is CertificateState.ISSUED and tpm.live and kbs_id != "ephemeral:"


def put(tx, ca):
    """Fill the tables with this CA, and nothing else."""
    connection = tx.connection
    for table in reversed(schema.metadata.sorted_tables):
        connection.execute(table.delete())

    def insert(table, rows):
        if rows:
            connection.execute(table.insert(), rows)

    def decision(name, judged, evidence):
        return {
            "id": name,
            "at": judged.at,
            "stage": "enroll",
            "admitted": int(judged.admitted),
            "rule": "",
            "trace": "[]",
            "policy_version": judged.policy_version,
            "policy_digest": "",
            "evidence_digest": evidence,
            "kbs_id": judged.kbs_id,
            "resource": judged.resource,
            "salt": "",
        }

    insert(
        schema.evidence,
        [
            {
                "digest": f"{number:064}",
                "body": b"",
                "received_at": NOW,
                **{name: getattr(judged, name) for name in list(vars(judged))[5:]},
            }
            for number, judged in enumerate((*ca.judged, NOBODY))
        ],
    )
    none = len(ca.judged)
    insert(
        schema.decisions,
        [
            *(decision(f"d{number}", judged, f"{number:064}") for number, judged in enumerate(ca.judged)),
            decision("d", NOBODY, f"{none:064}"),
        ],
    )
    insert(
        schema.submissions,
        [
            {
                "nonce": "n",
                "body_digest": "",
                "consumed_at": NOW,
                "decision_id": "d",
                "status": 201,
                "reply": b"",
            }
        ],
    )
    insert(
        schema.enrollments,
        [
            {
                "id": "e",
                "nonce": "n",
                "state": "issued",
                "expires_at": NOW,
                "decision_id": "d",
                "policy_version": 0,
                "evidence_digest": f"{none:064}",
                "reply": None,
            }
        ],
    )
    insert(
        schema.instances,
        [
            {"id": number + 1, "kbs_id": kbs, "resource": resource, "salt": salt, "created_at": NOW}
            for number, (kbs, resource, salt) in enumerate(INSTANCES)
        ],
    )
    insert(
        schema.tpms,
        [
            {
                "id": number + 1,
                "instance_id": tpm.instance + 1,
                "occupies": tpm.instance + 1 if tpm.live else None,
                "ek_set": tpm.ek_set,
                "counter": 1,
                "root": "",
                "salt": "",
                "report_id": "",
                "first_at": NOW,
                "last_at": NOW,
                "freed_at": None if tpm.live else NOW,
            }
            for number, tpm in enumerate(ca.tpms)
        ],
    )
    if ca.certificates:
        insert(
            schema.intents,
            [
                {
                    "id": "i",
                    "enrollment_id": "e",
                    "tpm_id": 1,
                    "decision_id": "d",
                    "policy_version": 0,
                    "evidence_digest": "",
                    "owner": "",
                    "state": "issued",
                    "created_at": NOW,
                    "closed_at": NOW,
                }
            ],
        )
    insert(
        schema.certificates,
        [
            {
                "serial": f"{number:02x}",
                "issuer": f"ca{number % 2}",
                "profile": "ek",
                "template": "",
                "key_name": "",
                "live": f"{number}" if issued.state in ("issued", "intended") else None,
                "intent_id": "i",
                "tpm_id": issued.tpm + 1,
                "state": issued.state.value,
                "tbs": b"",
                "slot": None,
                "der": b"",
                "issued_at": NOW,
                "not_after": issued.not_after,
                "replaces": None,
            }
            for number, issued in enumerate(ca.certificates)
        ],
    )


def states(tx):
    query = sa.select(schema.certificates.c.serial, schema.certificates.c.state)
    return {serial: CertificateState(state) for serial, state in tx.connection.execute(query)}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=questions())
def test_it_hits_what_the_model_hits_and_nothing_comes_back(store, asked):
    ca, cause, narrower = asked
    with store.write() as tx:
        put(tx, ca)
        before = states(tx)
        rows = tx.causes.hits(cause, NOW, 1000)
        hit = {row.serial for row in rows}
        assert hit == model(ca, cause)
        tpm_ids = tx.causes.tpms(cause, NOW)
        assert tpm_ids == sorted({ca.certificates[int(serial, 16)].tpm + 1 for serial in hit})
        assert tx.causes.hits_of(cause, NOW, tpm_ids) == rows
        assert all(row.live == ca.tpms[row.tpm_id - 1].live for row in rows)
        counts = tx.causes.counts(cause, NOW)
        intended = {serial for serial in hit if before[serial] is CertificateState.INTENDED}
        assert (counts.tpms, counts.certificates, counts.being_issued) == (
            len(tpm_ids),
            len(hit - intended),
            len(intended),
        )
        about = cause.about_evidence
        assert counts.decisions == (sum(evidence_fits(cause, j) for j in ca.judged) if about else 0)

        assert [row.tpm_id for row in tx.causes.beside(cause, NOW, 1000)] == beside(ca, cause, tpm_ids)

        matches = tx.causes.matches(cause, range(1, len(ca.tpms) + 1))
        for number, tpm in enumerate(ca.tpms, 1):
            fits = fitting(ca, cause, tpm) if about else []
            assert (number in matches) == bool(fits)
            if fits:
                assert matches[number].at == min(judged.at for judged in fits)

        # What is asked besides narrows. A serial number is asked for even if the certificate has expired.
        asked = vars(replace(narrower, serial=None, kbs_keys=()))
        more = {name: value for name, value in asked.items() if value and getattr(cause, name) is None}
        assert {row.serial for row in tx.causes.hits(replace(cause, **more), NOW, 1000)} <= hit

        # Once revoked, revoked for good; what is only intended is not for this to end.
        tx.causes.end(sorted(hit))
        after = states(tx)
        assert {serial for serial, state in after.items() if state is not before[serial]} == hit - intended
        assert {after[serial] for serial in hit - intended} <= {CertificateState.REVOKED}
        assert {row.serial for row in tx.causes.hits(cause, NOW, 1000)} == intended
        tx.causes.end(sorted(hit))
        assert states(tx) == after


ASKED = {
    "serial": Cause(serial="00"),
    "instance": Cause(kbs_id="a", resource="x/y/1"),
    "measurement": Cause(measurement=MEASUREMENTS[0]),
    "chip": Cause(chip_id=CHIPS[0]),
    "kbs-key": Cause(kbs_key=KEYS[0], since=NOW),
    "kbs": Cause(kbs="a", kbs_keys=KEYS),
    "tcb": Cause(tcbs=(("Milan", TCBS[0]), ("Turin", TCBS[1]))),
    "policy": Cause(policy_version=1),
    "all": Cause(
        "00", "a", "x/y/1", "", MEASUREMENTS[0], CHIPS[0], KEYS[0], "a", KEYS, NOW, (("Milan", TCBS[0]),), 1
    ),
}


@pytest.mark.parametrize("name", ASKED)
def test_no_table_is_looked_through(empty_sqlite, name):
    """A table of a million rows may only be entered by an index."""
    cause, plans = ASKED[name], []

    def explain(_connection, cursor, statement, parameters, *_rest):
        if statement.startswith("SELECT"):
            cursor.execute("EXPLAIN QUERY PLAN " + statement, parameters)
            plans.extend(row[3] for row in cursor.fetchall())

    with empty_sqlite.write() as tx:
        sa.event.listen(tx.connection, "before_cursor_execute", explain)
        tx.causes.counts(cause, NOW)
        tx.causes.hits(cause, NOW, 10)
        tx.causes.tpms(cause, NOW)
        tx.causes.hits_of(cause, NOW, [1, 2])
        tx.causes.tcbs("Milan")
        tx.causes.beside(cause, NOW, 10)
        tx.causes.has_instance("a", "x/y/1", None)
        before = len(plans)
        tx.causes.matches(cause, [1, 2])
    scanned = {line.split()[1] for line in plans if line.startswith("SCAN ")}
    assert any(line.startswith("SEARCH certificates USING") for line in plans)
    assert not scanned & set(schema.metadata.tables), plans
    # The few TPMs that are listed are not looked for among all that fits.
    assert not [line for line in plans[before:] if "ix_evidence" in line or "ix_decisions_policy" in line]


@pytest.fixture(scope="module")
def empty_sqlite(tmp_path_factory):
    opened = create_store(f"sqlite:///{tmp_path_factory.mktemp('causes')}/ca.sqlite3")
    yield opened
    opened.close()


def test_a_chunk_is_what_one_statement_can_name(store, monkeypatch):
    monkeypatch.setattr(causes_module, "_CHUNK", 2)
    tpms = tuple(Tpm(number, EK_SETS[0], live=True) for number in range(8))
    issued = tuple(Issued(number // 3, CertificateState.ISSUED, None) for number in range(24))
    with store.write() as tx:
        put(tx, Ca(tpms, (), issued))
        cause = Cause(kbs_id="a")
        rows = tx.causes.hits_of(cause, NOW, tx.causes.tpms(cause, NOW))
        assert rows == tx.causes.hits(cause, NOW, 100)
        assert len(rows) == 12
        tx.causes.end(row.serial for row in rows)
        assert list(states(tx).values()).count(CertificateState.REVOKED) == 12
        assert tx.causes.tpms(cause, NOW) == []


def test_what_is_ended_goes_on_the_lists_of_its_issuers_once(store):
    """By one statement for many, as one after the other."""
    tpms = (Tpm(0, EK_SETS[0], live=True),)
    issued = tuple(Issued(0, CertificateState.ISSUED, None) for _ in range(4))
    with store.write() as tx:
        put(tx, Ca(tpms, (), issued))
        table, issuer, serials = schema.certificates, "aa", sorted(states(tx))
        for shard, serial in enumerate(serials):
            change = table.update().where(table.c.serial == serial)
            tx.connection.execute(change.values(shard=shard, issuer=issuer))
        tx.revocations.add(RevocationRow(issuer, serials[3], NOW, "superseded", "before"))
        tx.revocations.published((issuer, 3))
        tx.revocations.add_certificates([], NOW, "keyCompromise", "t")
        assert tx.revocations.touched == frozenset()
        for _ in range(2):
            tx.revocations.add_certificates([*serials, "no such"], NOW, "keyCompromise", "t")
        assert tx.revocations.touched == {(issuer, shard) for shard in range(3)}
        assert tx.revocations.of_issuer(issuer) == [
            *(RevocationRow(issuer, s, NOW, "keyCompromise", "t", n) for n, s in enumerate(serials[:3])),
            RevocationRow(issuer, serials[3], NOW, "superseded", "before", 3),
        ]


def test_every_tcb_on_record_is_found_by_its_product(store):
    raws = ["00" * 8, "04000000000014c8", "ff" * 8]
    judged = [
        Judged("a", "x/y/1", True, NOW, 1, None, None, None, product, raw, None)
        for product, raw in (
            *(("Milan", raw) for raw in [*raws, *raws]),
            ("Turin", "01" * 8),
            (None, "02" * 8),
        )
    ]
    with store.write() as tx:
        put(tx, Ca((), tuple(judged), ()))
        assert tx.causes.tcbs("Milan") == raws
        assert tx.causes.tcbs("Turin") == ["01" * 8]
        assert tx.causes.tcbs("Genoa") == []


@pytest.mark.parametrize(
    ("cause", "unknown"),
    [
        (Cause(measurement=MEASUREMENTS[0]), 1),
        (Cause(chip_id=CHIPS[0]), 2),
        (Cause(tcbs=()), 3),
        (Cause(chip_id=CHIPS[0], tcbs=()), 4),
        (Cause(serial="00"), 0),
    ],
)
def test_evidence_that_does_not_say_is_counted(store, cause, unknown):
    full = Judged("a", "x/y/1", True, NOW, 1, MEASUREMENTS[0], CHIPS[0], None, "Milan", TCBS[0], EK_SETS[0])
    judged = (
        full,
        replace(full, measurement=None, chip_id=None, product=None),
        replace(full, chip_id=None),
        replace(full, product=None),
        replace(full, product=None),
        replace(full, measurement=None, admitted=False),
    )
    with store.write() as tx:
        put(tx, Ca((), judged, ()))
        assert tx.causes.counts(cause, NOW).unknown == unknown


@pytest.mark.parametrize(
    ("kbs_id", "live", "state", "hit"),
    [
        ("a", True, "issued", True),  # else the TPM would get new ones
        ("a", True, "superseded", False),
        ("a", False, "issued", False),
        ("ephemeral:", True, "issued", False),
    ],
)
def test_expired_certificates_are_left_unless_they_keep_a_tpm_out(store, kbs_id, live, state, hit):
    instance = INSTANCES.index((kbs_id, "x/y/1", ""))
    expired = Issued(0, CertificateState(state), NOW - timedelta(seconds=1))
    with store.write() as tx:
        put(tx, Ca((Tpm(instance, EK_SETS[0], live),), (), (expired,)))
        assert bool(tx.causes.hits(Cause(kbs_id=kbs_id), NOW, 9)) == hit
        assert bool(tx.causes.hits(Cause(kbs_id=kbs_id), NOW - timedelta(seconds=1), 9))
        assert bool(tx.causes.hits(Cause(serial="00"), NOW, 9))


def test_a_kbs_vouched_for_ephemeral_tpms_by_its_keys(store):
    instances = [INSTANCES.index((kbs, "x/y/1", "")) for kbs in ("a", "ephemeral:")]
    tpms = tuple(Tpm(instance, ek_set, live=True) for instance in instances for ek_set in EK_SETS[:1])
    judged = tuple(
        replace(NOBODY, kbs_id=kbs, resource="x/y/1", admitted=True, kbs_key=key, ek_set=EK_SETS[0])
        for kbs, key in (("a", KEYS[1]), ("ephemeral:", KEYS[0]))
    )
    issued = tuple(Issued(number, CertificateState.ISSUED, None) for number in range(2))
    with store.write() as tx:
        put(tx, Ca(tpms, judged, issued))
        for keys, serials in (((), ["00"]), (KEYS[1:], ["00"]), (KEYS[:1], ["00", "01"])):
            rows = tx.causes.hits(Cause(kbs="a", kbs_keys=keys), NOW, 9)
            assert [row.serial for row in rows] == serials
        assert tx.causes.hits(Cause(kbs="b", kbs_keys=KEYS[1:]), NOW, 9) == []
