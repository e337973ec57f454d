"""Issuing CAs from prepared to retired: what each verb does, what it refuses, and that issuance agrees."""

import os
import shutil
import threading
from dataclasses import replace
from datetime import timedelta

import enrollment_world as w
import operations_stage as s
import pytest
import structlog
import structlog.testing
from cryptography import x509

from ca_service.enrollment import Limits, activation
from ca_service.judgment import BadRequest, Conflict, NotFound, Unavailable, VtpmCaError
from ca_service.keys import load_authority, load_root, prepare_issuing
from ca_service.operations import (
    OperationContext,
    ensure_issuers,
    missing_keys,
    open_database,
    perform,
    publish_root_list,
)
from ca_service.store import IssuerState
from vtpm.wire.enrollment import CertificatesReply

GUEST_B = w.Boot(resource="default/vtpm/guest-b", secret=bytes(range(32, 64)), salt=b"b" * 16)
VERBS = ("issuer-activate", "issuer-taint", "issuer-retire")


@pytest.fixture(scope="module")
def tpms():
    return [w.SoftTpm(), w.SoftTpm()]


def skids(desk, generation: int) -> dict[str, str]:
    return {ca.role: ca.skid for ca in desk.world.authority.issuers if ca.generation == generation}


def states(desk) -> dict[tuple[str, int], str]:
    return {(row["role"], row["generation"]): row["state"] for row in desk("issuer-list")}


def counts(desk) -> dict[tuple[str, int], int]:
    return {(row["role"], row["generation"]): row["live"] for row in desk("issuer-list") if row["live"]}


def announce(desk):
    return desk("issuer-announce", skids=list(skids(desk, 2).values()))


def issuers_of(desk, reply: bytes) -> list[int]:
    """The generations that signed EK, IAK and IDevID."""
    parsed = CertificatesReply.parse(reply)
    generations = {ca.skid: ca.generation for ca in desk.world.authority.issuers}
    found = []
    for entry in (*parsed.ek, parsed.iak, parsed.idevid):
        leaf, above = (x509.load_der_x509_certificate(d) for d in (entry.certificate, entry.chain[0]))
        leaf.verify_directly_issued_by(above)
        key_id = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        found.append(generations[key_id.hex()])
    return found


@pytest.fixture
def enrol(rolled):
    enrollers = []

    def run(tpm, boot, **options) -> bytes:
        enroller = rolled.world.enroller(rolled.store, **options)
        enrollers.append(enroller)
        return w.issue(rolled.world, enroller, tpm, boot)

    yield run
    for enroller in enrollers:
        enroller.desk.liveness.close()


class TestTakingUp:
    def test_the_first_generation_signs_in_an_empty_database(self, rolled):
        with rolled.store.write() as tx:
            tx.connection.exec_driver_sql("DELETE FROM issuers")
        shown = states(rolled)
        assert len(ensure_issuers(rolled.store, rolled.world.authority, rolled.world.time)) == 5
        assert ensure_issuers(rolled.store, rolled.world.authority, rolled.world.time) == []
        assert states(rolled) == shown
        assert shown == {
            ("ek", 1): "active",
            ("ek", 2): "prepared",
            ("devid", 1): "active",
            ("devid", 2): "prepared",
            ("ephemeral", 1): "active",
        }

    def test_afterwards_nothing_signs_by_itself(self, rolled):
        with rolled.store.write() as tx:
            tx.connection.exec_driver_sql("DELETE FROM issuers WHERE role = 'ek'")
        ensure_issuers(rolled.store, rolled.world.authority, rolled.world.time)
        assert (states(rolled)["ek", 1], states(rolled)["ek", 2]) == ("prepared", "prepared")

    def test_several_nodes_at_once(self, rolled):
        with rolled.store.write() as tx:
            tx.connection.exec_driver_sql("DELETE FROM issuers")
        added = []

        def node():
            added.extend(ensure_issuers(rolled.store, rolled.world.authority, rolled.world.time))

        threads = [threading.Thread(target=node) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(added) == 5

    def test_the_database_of_another_ca(self, rolled):
        with rolled.store.write() as tx:
            tx.connection.exec_driver_sql("UPDATE issuers SET skid = substr('ff' || skid, 1, 40)")
        for ask in (lambda: rolled("issuer-list"), lambda: rolled("issuer-activate")):
            with pytest.raises(BadRequest, match="another CA"):
                ask()

    def test_announcing_publishes_the_first_crls(self, rolled):
        made = announce(rolled)
        assert [(row["role"], row["generation"], row["state"]) for row in made] == [
            ("ek", 2, "prepared"),
            ("devid", 2, "prepared"),
        ]
        with rolled.store.read() as tx:
            assert all(tx.crls.latest(skid).number == 1 for skid in skids(rolled, 2).values())
        assert announce(rolled) == made
        with pytest.raises(Unavailable, match="does not find"):
            rolled("issuer-announce", skids=["00" * 20])

    def test_a_first_preparation_may_begin(self, desk):
        allowed = desk("issuer-preparable")
        assert (allowed["pair"], allowed["roles"]) == ("default", ["ek", "devid"])
        assert allowed["generations"] == {"ek": 2, "devid": 2}

    def test_a_second_one_waits_for_the_first(self, rolled):
        with pytest.raises(Conflict, match="prepared already"):
            rolled("issuer-preparable")
        assert rolled("issuer-preparable", roles=["ephemeral"])["roles"] == ["ephemeral"]
        assert rolled("issuer-preparable", pair="blue")["pair"] == "blue"


class TestTheOrder:
    def test_from_prepared_to_retired(self, rolled, enrol, tpms):
        first, second = tpms
        announce(rolled)
        assert issuers_of(rolled, enrol(first, GUEST_B)) == [1, 1, 1]
        assert counts(rolled) == {("ek", 1): 2, ("devid", 1): 4}
        moved = rolled("issuer-activate")["changed"]
        assert [(row["role"], row["generation"], row["state"]) for row in moved] == [
            ("ek", 1, "old"),
            ("ek", 2, "active"),
            ("devid", 1, "old"),
            ("devid", 2, "active"),
        ]
        other = replace(GUEST_B, resource="default/vtpm/guest-c", secret=bytes(range(64, 96)))
        assert issuers_of(rolled, enrol(second, other)) == [2, 2, 2]
        # A known TPM keeps its certificates: keylime would refuse it with others.
        assert issuers_of(rolled, enrol(first, replace(GUEST_B, counter=2))) == [1, 1, 1]
        assert [row["state"] for row in rolled("issuer-taint")["changed"]] == ["tainted", "tainted"]
        assert rolled("issuer-taint")["changed"] == []
        assert issuers_of(rolled, enrol(first, replace(GUEST_B, counter=3))) == [2, 2, 2]
        # Those that were replaced are still good, so they count.
        assert counts(rolled) == {("ek", 1): 2, ("devid", 1): 4, ("ek", 2): 2, ("devid", 2): 4}
        for abandon in (None, 0, 5, 7):
            given = {} if abandon is None else {"abandon": abandon}
            with pytest.raises(Conflict, match="6") as refusal:
                rolled("issuer-retire", yes=True, **given)
            assert refusal.value.code == "in-use"
            assert f"--abandon {6}" in refusal.value.remedy or abandon is not None
        dry = rolled("issuer-retire", abandon=6)
        assert (dry["done"], states(rolled)["ek", 1]) == (False, "tainted")
        done = rolled("issuer-retire", abandon=6, yes=True)
        assert (done["done"], len(done["abandoned"])) == (True, 6)
        assert {row["serial"] for row in dry["abandoned"]} == {row["serial"] for row in done["abandoned"]}
        assert {row["issuer"] for row in done["abandoned"]} == {skids(rolled, 1)[r] for r in ("ek", "devid")}
        assert (states(rolled)["ek", 1], states(rolled)["devid", 1]) == ("retired", "retired")
        trusted = rolled("issuer-certificates")
        assert {row["skid"] for row in trusted["trusted"]} == {
            *skids(rolled, 2).values(),
            skids(rolled, 1)["ephemeral"],
        }
        assert set(trusted["retired"]) == {skids(rolled, 1)[r] for r in ("ek", "devid")}
        # Its certificates may still have to be revoked.
        with rolled.store.read() as tx:
            before = tx.crls.latest(skids(rolled, 1)["ek"]).number
        rolled("crl-publish")
        with rolled.store.read() as tx:
            assert tx.crls.latest(skids(rolled, 1)["ek"]).number == before + 1

    @pytest.mark.parametrize(("verb", "given"), [("issuer-activate", {}), ("issuer-taint", {"active": True})])
    def test_the_lists_of_those_that_begin_to_sign_are_remembered(self, rolled, verb, given):
        rolled(verb, **given)
        kept = {path.name for path in (rolled.world.directory / "ca" / "state").iterdir()}
        assert {f"crl-{skid}.der" for skid in skids(rolled, 2).values()} <= kept

    def test_one_that_the_root_has_revoked_never_signs_and_is_not_exported(self, rolled):
        announce(rolled)
        ca, bad = rolled.world.directory / "ca", skids(rolled, 2)["ek"]
        publish_root_list(ca, load_root(ca, w.PASSPHRASE), rolled.world.time, revoke=[bad])
        before = states(rolled)
        for verb, given in (
            ("issuer-activate", {}),
            ("issuer-activate", {"roles": ["ek"], "generation": 2}),
            ("issuer-taint", {"active": True}),
        ):
            with pytest.raises(Conflict, match="revoked on the root's list") as caught:
                rolled(verb, **given)
            assert caught.value.code == "revoked"
        assert states(rolled) == before
        given = rolled("issuer-certificates")
        assert bad not in {row["skid"] for row in given["trusted"]}
        assert (len(given["trusted"]), given["revoked"]) == (4, [bad])
        # Who cannot know what is revoked neither lets sign nor exports.
        shutil.rmtree(ca / "crl")
        (ca / "certs" / "root.crl").unlink()
        for verb, given in (("issuer-activate", {"roles": ["devid"]}), ("issuer-certificates", {})):
            with pytest.raises(Unavailable) as lost:
                rolled(verb, **given)
            assert lost.value.code == "crl"

    def test_one_that_has_ended_or_not_begun_never_takes_over(self, tmp_path):
        """Prepared long ahead for a theft, and forgotten: to taint what signs cannot be taken back."""
        rules = "[validity]\nkind = 'bounded'\nroot_days = 30\nissuing_days = 9\ndevice_days = 3\n"
        fresh = s.new(tmp_path / "new", s.CONFIG + rules)
        world = s.rolled(fresh, tmp_path / "rolled")
        desk = Desk(world, open_database(world.url))
        announce(desk)
        before, now = states(desk), world.time
        for days in (-1, 10):
            world.time = now + timedelta(days=days)
            for verb, given in (("issuer-activate", {}), ("issuer-taint", {"active": True})):
                with pytest.raises(Conflict, match=r"is valid from .* only") as caught:
                    desk(verb, **given)
                assert caught.value.code == "validity"
        assert states(desk) == before
        world.time = now
        desk("issuer-taint", active=True)
        assert states(desk)["ek", 2] == "active"
        desk.store.close()

    def test_what_nobody_announced_has_its_crl_when_it_begins_to_sign(self, rolled):
        rolled("issuer-activate")
        with rolled.store.read() as tx:
            assert all(tx.crls.latest(skid).number == 1 for skid in skids(rolled, 2).values())

    def test_a_pair_rolls_over_role_by_role_if_named(self, rolled):
        announce(rolled)
        rolled("issuer-activate", roles=["devid"])
        assert (states(rolled)["ek", 1], states(rolled)["devid", 1]) == ("active", "old")

    def test_an_activation_is_undone_by_the_generation_of_the_old_one(self, rolled):
        announce(rolled)
        rolled("issuer-activate")
        rolled("issuer-activate", generation=1)
        assert (states(rolled)["ek", 1], states(rolled)["ek", 2]) == ("active", "old")
        assert rolled("issuer-activate", generation=1)["changed"] == []

    def test_after_a_compromise_the_successor_signs_at_once(self, rolled, enrol, tpms):
        announce(rolled)
        enrol(tpms[0], GUEST_B)
        moved = rolled("issuer-taint", active=True)["changed"]
        assert [row["state"] for row in moved] == ["tainted", "active"] * 2
        assert issuers_of(rolled, enrol(tpms[0], replace(GUEST_B, counter=2))) == [2, 2, 2]

    def test_what_ended_does_not_count(self, rolled):
        announce(rolled)
        rolled("issuer-activate")
        serials = {row["profile"]: row["serial"] for row in rolled("cert-list")}
        rolled("cert-revoke", serial=serials["ek"], yes=True)
        with rolled.store.write() as tx:
            tx.connection.exec_driver_sql(
                "UPDATE certificates SET not_after = '2020-01-01T00:00:00Z' WHERE profile = 'iak'"
            )
        assert counts(rolled) == {("devid", 1): 1}
        rolled("issuer-retire", roles=["ek"], yes=True)
        assert states(rolled)["ek", 1] == "retired"
        # What has no end on record counts as live.
        with rolled.store.write() as tx:
            tx.connection.exec_driver_sql("UPDATE certificates SET not_after = NULL")
        assert counts(rolled) == {("devid", 1): 2}


class TestRefusals:
    def refuse(self, desk, name, error=Conflict, **arguments):
        before = states(desk)
        with pytest.raises(error) as refusal:
            desk(name, **arguments)
        assert states(desk) == before
        return refusal.value

    def test_without_a_successor_nothing_ends(self, desk):
        for name, arguments in (
            ("issuer-activate", {}),
            ("issuer-taint", {}),
            ("issuer-taint", {"active": True}),
            ("issuer-retire", {"yes": True}),
            ("issuer-retire", {"yes": True, "abandon": 3}),
            ("issuer-retire", {"yes": True, "generation": 1, "abandon": 3}),
        ):
            assert self.refuse(desk, name, **arguments).remedy

    def test_a_compromise_of_one_role_needs_the_successor_of_each_named(self, rolled):
        announce(rolled)
        roles = ["ek", "ephemeral"]
        assert "ephemeral" in self.refuse(rolled, "issuer-taint", active=True, roles=roles).detail
        assert (
            "issuing" not in self.refuse(rolled, "issuer-taint", BadRequest, active=True, generation=1).path
        )

    @pytest.mark.parametrize("ended", ["issuer-taint", "issuer-retire"])
    def test_what_is_tainted_or_retired_never_signs_again(self, rolled, ended):
        announce(rolled)
        rolled("issuer-activate")
        rolled("issuer-taint")
        if ended == "issuer-retire":
            rolled("issuer-retire", yes=True, abandon=3)
            assert rolled("issuer-retire", yes=True, generation=1)["retired"] == []
        self.refuse(rolled, "issuer-activate", generation=1)
        self.refuse(rolled, "issuer-activate")
        if ended == "issuer-retire":
            self.refuse(rolled, "issuer-taint")
            self.refuse(rolled, "issuer-retire", yes=True)

    def test_one_that_never_signed_is_retired_by_its_generation_only(self, rolled):
        announce(rolled)
        self.refuse(rolled, "issuer-retire", yes=True)
        assert len(rolled("issuer-retire", yes=True, generation=2)["retired"]) == 2
        assert states(rolled)["ek", 2] == "retired"
        self.refuse(rolled, "issuer-activate")

    def test_a_key_that_cannot_sign_does_not_begin_to(self, rolled, monkeypatch):
        announce(rolled)
        devid = rolled.world.authority.issuer_of(skids(rolled, 2)["devid"])
        monkeypatch.setattr(devid.signer, "sign", lambda _data: bytes(8))
        assert self.refuse(rolled, "issuer-activate", VtpmCaError).code == "signer"

    def test_names_that_do_not_exist(self, rolled):
        for name in VERBS:
            self.refuse(rolled, name, NotFound, pair="blue")
            self.refuse(rolled, name, BadRequest, roles=["root"])
            self.refuse(rolled, name, BadRequest, roles=["ek", "ek"])
            self.refuse(rolled, name, BadRequest, generation=0)
        self.refuse(rolled, "issuer-retire", NotFound, generation=9)

    def test_a_node_without_the_key_neither_activates_nor_revokes(self, rolled, worked_ca, enrol, tpms):
        announce(rolled)
        # What it remembers must not be told to the other tests that copy this CA.
        behind = replace(worked_ca.authority, directory=rolled.world.authority.directory)
        short = replace(rolled.context, public=behind, unlock=lambda: behind)
        with pytest.raises(Unavailable, match="key") as error:
            perform(short, "issuer-activate", {})
        assert (error.value.code, states(rolled)["ek", 1]) == ("issuer", "active")
        rolled("issuer-activate")
        assert sorted(missing_keys(rolled.store, worked_ca.authority)) == sorted(skids(rolled, 2).values())
        assert missing_keys(rolled.store, rolled.world.authority) == []
        reply = CertificatesReply.parse(enrol(tpms[0], GUEST_B))
        serial = f"{x509.load_der_x509_certificate(reply.iak.certificate).serial_number:034x}"
        with pytest.raises(Unavailable):
            perform(short, "cert-revoke", {"serial": serial, "yes": True})
        assert rolled("cert-show", serial=serial)["revoked_at"] is None
        assert rolled("cert-revoke", serial=serial, yes=True)["done"]


class TestRaces:
    def test_retiring_waits_for_a_signature_that_is_under_way(self, rolled, enrol, tpms):
        announce(rolled)
        seen = []

        def faults(point):
            if point == "before signing ek":
                rolled("issuer-activate")
                with pytest.raises(Conflict) as refusal:
                    rolled("issuer-retire", yes=True, abandon=3)
                seen.append(refusal.value)

        reply = enrol(tpms[0], GUEST_B, faults=faults)
        assert "about to be signed" in seen[0].detail
        assert issuers_of(rolled, reply) == [1, 1, 1]
        with pytest.raises(Conflict, match="6, not 3"):
            rolled("issuer-retire", yes=True, abandon=3)
        assert len(rolled("issuer-retire", yes=True, abandon=6)["abandoned"]) == 6

    def test_an_issuance_that_was_drafted_before_goes_to_the_successor(
        self, rolled, enrol, tpms, monkeypatch
    ):
        announce(rolled)
        drafts = []
        genuine = activation.plan

        def plan(*arguments, **options):
            drafted = genuine(*arguments, **options)
            if not drafts:
                rolled("issuer-activate")
                rolled("issuer-retire", yes=True, abandon=3)
            drafts.append({piece.issuer.generation for piece in drafted.pieces})
            return drafted

        monkeypatch.setattr(activation, "plan", plan)
        reply = enrol(tpms[0], GUEST_B)
        assert drafts == [{1}, {2}]
        assert issuers_of(rolled, reply) == [2, 2, 2]
        with rolled.store.read() as tx:
            assert tx.issuers.live_counts(rolled.world.time)[skids(rolled, 1)["ek"]] == 1
            assert tx.issuers.states()[skids(rolled, 1)["ek"]] is IssuerState.RETIRED


@pytest.fixture
def anywhere(rolled_ca, tmp_path, database):
    """An operator at a CA on each kind of database, which knows nothing yet."""
    world = w.World(shutil.copytree(rolled_ca.directory, tmp_path / "world"), rolled_ca.authority, database)
    world.time = rolled_ca.time
    # What the CA remembers of the database in its directory does not fit this one.
    s.forget(world.authority.directory)
    world.authority = replace(world.authority, state_kept=False)
    store = open_database(database)
    world.apply(store, world.policy())
    desk = Desk(world, store)
    yield desk
    world.close()
    store.close()


class Desk:
    def __init__(self, world, store) -> None:
        self.world, self.store = world, store
        self.context = OperationContext(
            world.authority, lambda: world.authority, store, lambda: world.time, "alice", Limits()
        )

    def __call__(self, name: str, **arguments: object):
        return perform(self.context, name, arguments)


def test_on_every_kind_of_database(anywhere, tpms, monkeypatch):
    """Several nodes begin at once, an issuance and the end of its issuing CA race, and the transactions decide."""
    world, added = anywhere.world, []

    def node():
        added.extend(ensure_issuers(anywhere.store, world.authority, world.time))

    threads = [threading.Thread(target=node) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(added) == 5
    announce(anywhere)
    enroller = world.enroller(anywhere.store)
    assert issuers_of(anywhere, w.issue(world, enroller, tpms[0], GUEST_B)) == [1, 1, 1]
    genuine, drafts = activation.plan, []

    def plan(*arguments, **options):
        drafted = genuine(*arguments, **options)
        drafts.append({piece.issuer.generation for piece in drafted.pieces})
        if len(drafts) == 1:
            anywhere("issuer-activate")
            with pytest.raises(Conflict, match=": 3"):
                anywhere("issuer-retire", yes=True)
            anywhere("issuer-retire", yes=True, abandon=3)
        return drafted

    monkeypatch.setattr(activation, "plan", plan)
    other = replace(GUEST_B, resource="default/vtpm/guest-c", secret=bytes(range(64, 96)))
    assert issuers_of(anywhere, w.issue(world, enroller, tpms[1], other)) == [2, 2, 2]
    assert drafts == [{1}, {2}]
    assert counts(anywhere) == {("ek", 1): 1, ("devid", 1): 2, ("ek", 2): 1, ("devid", 2): 2}


def test_who_did_it_stands_in_the_servers_log(rolled, capsys):
    announce(rolled)
    assert capsys.readouterr() == ("", "")
    rolled.context = replace(rolled.context, served=True)
    key = "00" * 32
    with structlog.testing.capture_logs() as log:
        rolled("issuer-activate")
        rolled("issuer-taint")
        rolled("issuer-activate", roles=["ek"], generation=2)
        rolled("issuer-retire", generation=1, roles=["ek"], abandon=1)
        rolled("issuer-retire", generation=1, roles=["ek"], abandon=1, yes=True)
        rolled("key-block", digest=key, cause="x")
        rolled("key-unblock", digest=key)
        rolled("key-unblock", digest=key, yes=True)
    assert {entry["by"] for entry in log} == {"alice"}
    assert [entry["event"].split()[-1] for entry in log] == [
        "activated",
        "tainted",
        "activated",
        "retired",
        "blocked",
        "unblocked",
    ]
    assert log[3]["abandoned"] == 1
    assert set(log[1]["skids"]) == {skids(rolled, 1)[role] for role in ("ek", "devid")}


class TestTwoNodes:
    """Two directories, one database: no two issuing CAs may have one name."""

    @pytest.fixture
    def behind(self, rolled):
        """A node whose directory has only what there was at first."""
        authority = rolled.world.authority
        first = tuple(ca for ca in authority.issuers if ca.generation == 1)
        return replace(rolled.context, public=replace(authority, issuers=first))

    def test_the_node_that_is_behind_prepares_nothing(self, rolled, behind):
        allowed = perform(behind, "issuer-preparable", {})
        assert allowed["generations"] == {"ek": 2, "devid": 2}
        assert set(allowed["known"]) == set(skids(rolled, 1).values())
        announce(rolled)
        self.refused(behind, "prepared already")
        rolled("issuer-activate")
        self.refused(behind, "lacks what another node has prepared")
        rolled("issuer-activate", generation=1)
        rolled("issuer-retire", generation=2, yes=True)
        self.refused(behind, "lacks what another node has prepared")
        assert rolled("issuer-preparable")["generations"] == {"ek": 3, "devid": 3}
        assert perform(behind, "issuer-preparable", {"roles": ["ephemeral"]})["generations"] == {
            "ephemeral": 2
        }

    def refused(self, context, match):
        with pytest.raises(Conflict, match=match):
            perform(context, "issuer-preparable", {})

    def test_the_generation_is_the_certificates_where_the_directory_knows_none(self, rolled, behind):
        announce(rolled)
        listed = {row["skid"]: row["generation"] for row in perform(behind, "issuer-list", {})}
        assert {listed[skid] for skid in skids(rolled, 2).values()} == {2}

    def test_the_second_of_one_name_is_never_known(self, worked_ca, rolled, tmp_path):
        """Both asked before either told."""
        node = tmp_path / "node" / "ca"
        shutil.copytree(worked_ca.directory / "ca", node)
        root = load_root(node, w.PASSPHRASE)
        made = prepare_issuing(
            node, root, ["ek"], passphrase=w.PASSPHRASE, clock=lambda: rolled.world.time, entropy=os.urandom
        )
        announce(rolled)
        theirs = load_authority(node, w.PASSPHRASE)
        context = replace(rolled.context, public=theirs, unlock=lambda: theirs)
        for verb, given in (
            ("issuer-announce", {"skids": [made[0].skid]}),
            ("issuer-activate", {}),
            ("issuer-list", {}),
        ):
            with pytest.raises(Conflict, match=r"G2.* as well as this one") as caught:
                perform(context, verb, given)
            assert caught.value.code == "issuer-name"
            assert "private/ek-default.g2.sealed" in caught.value.remedy
        with pytest.raises(Conflict):
            ensure_issuers(rolled.store, theirs, rolled.world.time)
        assert len(rolled("issuer-list")) == 5
        # As the remedy says it: out of the way, the other node's, ca.toml last.
        (node / "certs" / "ek-default.g2.pem").unlink()
        (node / "private" / "ek-default.g2.sealed").rename(tmp_path / "aside")
        for folder in ("certs", "private"):
            for path in (rolled.world.directory / "ca" / folder).iterdir():
                if not (node / folder / path.name).exists():
                    shutil.copy2(path, node / folder)
        shutil.copy2(rolled.world.directory / "ca" / "ca.toml", node)
        theirs = load_authority(node, w.PASSPHRASE)
        context = replace(rolled.context, public=theirs, unlock=lambda: theirs)
        assert len(perform(context, "issuer-activate", {})["changed"]) == 4
