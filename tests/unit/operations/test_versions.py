"""How policy versions come in force: at once, at their time, or when a second operator has approved them."""

import shutil
import threading
from datetime import timedelta

import pytest
from policy_team import ALICE, BOB, HOUR, NOON, ROOT, Operators, document

from ca_service.judgment import BadRequest, Conflict, NotFound, Unavailable
from ca_service.operations.identity import same_operator
from ca_service.store import DecisionRow, create_store, schema


@pytest.fixture(scope="session")
def began(tmp_path_factory):
    """The file of a database in which one version is in force; it is only copied."""
    path = tmp_path_factory.mktemp("began") / "ca.sqlite3"
    create_store(f"sqlite:///{path}").close()
    made = Operators(f"sqlite:///{path}")
    begin(made)
    made.close()
    return path


def begin(team):
    """Alice applies the first version, which says nothing of approval."""
    team.put(ALICE, 100)
    return team


@pytest.fixture
def team(began, tmp_path):
    """A production CA under a version that alice applied and that says nothing of approval."""
    shutil.copyfile(began, tmp_path / "ca.sqlite3")
    made = Operators(f"sqlite:///{tmp_path}/ca.sqlite3")
    yield made
    made.close()


@pytest.fixture
def nodes(database):
    """The same on each kind of database."""
    made = begin(Operators(database))
    yield made
    made.close()


@pytest.fixture
def fresh(tmp_path):
    url = f"sqlite:///{tmp_path}/ca.sqlite3"
    create_store(url).close()
    made = Operators(url)
    yield made
    made.close()


def refusal(do, *args, **arguments) -> Conflict:
    with pytest.raises(Conflict) as error:
        do(*args, **arguments)
    return error.value


class TestFourEyes:
    def test_what_widens_waits_for_another_operator(self, team):
        told = team.put(ALICE, 200)
        assert (told["version"], told["state"], told["effect"]) == (2, "waiting", "widens")
        assert "policy approve 2" in told["notes"][-1]
        assert team.in_force() == 1
        assert refusal(team, ALICE, "approve", version=2).code == "policy-own"
        assert team.in_force() == 1
        told = team(BOB, "approve", version=2)
        assert (told["state"], told["effect"], team.in_force()) == ("in-force", "widens", 2)
        (verdict,) = team(ROOT, "log")[1]["verdicts"]
        assert (verdict["verdict"], verdict["by"], verdict["at"]) == ("approve", BOB, "2026-11-26T12:00:00Z")

    def test_what_does_not_widen_is_in_force_at_once(self, team):
        assert team.put(ALICE, 50)["state"] == "in-force"
        assert team(ALICE, "apply", text="# a remark\n" + document(50))["changed"] is False
        assert team.put(BOB, 50, "two")["effect"] == "neutral"
        assert (team.in_force(), team.states()) == (3, ["past", "past", "in-force"])

    def test_the_way_back_is_no_way_round(self, team):
        team.put(ALICE, 50)
        told = team(ALICE, "rollback", version=1)
        assert (told["version"], told["state"], team.in_force()) == (3, "waiting", 2)
        assert refusal(team, ALICE, "approve", version=3).code == "policy-own"

    def test_to_ask_for_one_operator_only_takes_two(self, team):
        told = team.put(ALICE, 100, "one")
        assert (told["state"], [change["subject"] for change in told["changes"]]) == ("waiting", ["approval"])
        # The document's own word does not count before it is in force.
        assert team.put(ALICE, 300, "one")["state"] == "waiting"
        team(BOB, "approve", version=2)
        assert team.put(ALICE, 300, "one")["state"] == "in-force"
        assert team.put(ALICE, 300, "two")["state"] == "in-force"
        assert team.put(ALICE, 301, "two")["state"] == "waiting"

    def test_what_is_not_in_force_yet_does_not_loosen_the_rule(self, team):
        team.put(ALICE, 100, "one", at="2026-11-26T13:00:00Z")
        team(BOB, "approve", version=2)
        told = team.put(ALICE, 200, "one", at="2026-11-26T14:00:00Z")
        assert (told["base"], told["state"]) == (2, "waiting")
        team.now = NOON + HOUR
        assert team.put(ALICE, 200, "one")["state"] == "in-force"

    @pytest.mark.parametrize(
        ("mode", "rule", "state"),
        [
            ("production", "", "in-force"),
            ("production", "two", "waiting"),
            ("production", "one", "in-force"),
            ("simulation", "", "in-force"),
            ("simulation", "two", "waiting"),
            ("", "", "in-force"),
        ],
    )
    def test_the_first_version_is_judged_by_its_own_word(self, fresh, mode, rule, state):
        fresh.mode = mode
        assert fresh.put(ALICE, 100, rule)["state"] == state
        assert fresh.in_force() == int(state == "in-force")

    @pytest.mark.parametrize(
        ("text", "digest"), [("nonsense", "0" * 64), (document(100, "one"), "0" * 64)], ids=["form", "digest"]
    )
    def test_a_version_that_cannot_be_trusted_has_no_say(self, team, text, digest):
        with team.stores[ROOT].write() as tx:
            tx.policies.append(digest, text, NOON, "damage")
        assert team.put(ALICE, 10, "one")["state"] == "waiting"
        team.mode = "simulation"
        assert team.put(BOB, 11, "one")["state"] == "in-force"

    def test_what_was_altered_can_be_put_right(self, team):
        team.put(BOB, 100, "one", base=1)
        team(ALICE, "approve", version=2)
        with team.stores[ROOT].write() as tx:
            tx.connection.execute(schema.policies.update().values(text=document(999)))
        told = team.put(ALICE, 100, "one")
        assert (told["version"], told["state"], told["effect"]) == (3, "waiting", "widens")
        assert team(BOB, "approve", version=3)["state"] == "in-force"

    def test_what_was_altered_while_it_waited_is_not_approved(self, team):
        team.put(ALICE, 200)
        with team.stores[ROOT].write() as tx:
            tx.connection.execute(schema.policies.update().values(text=document(999)))
        with pytest.raises(Unavailable) as error:
            team(BOB, "approve", version=2)
        assert (error.value.code, team.in_force()) == ("policy", 1)

    def test_what_this_ca_does_not_take_any_more_is_not_approved(self, team):
        team.put(ALICE, 200)
        with team.stores[ROOT].write() as tx:
            text = document(200) + '[[unsafe]]\nname = "UnsafeAllowAnyKbs"\ngives_up = "all"\n'
            table = schema.policies
            tx.connection.execute(table.update().where(table.c.version == 2).values(text=text))
        with pytest.raises(BadRequest, match="Unsafe"):
            team(BOB, "approve", version=2)
        assert team.states() == ["in-force", "waiting"]

    @pytest.mark.parametrize("state", ["in-force", "past", "withdrawn", "dropped", "scheduled", "missing"])
    def test_only_what_waits_can_be_approved(self, team, state):
        version = {
            "in-force": lambda: 1,
            "past": lambda: team.put(ALICE, 50)["version"] - 1,
            "withdrawn": lambda: team(BOB, "withdraw", version=team.put(ALICE, 200)["version"])["version"],
            "dropped": lambda: team.put(BOB, 50)["version"] - 1 if team.put(ALICE, 200) else 0,
            "scheduled": lambda: team.put(ALICE, 50, at="2026-11-27T00:00:00Z")["version"],
            "missing": lambda: 9,
        }[state]()
        before = team(ROOT, "log")
        if state == "missing":
            with pytest.raises(NotFound):
                team(BOB, "approve", version=version)
        else:
            assert before[version - 1]["state"] == state
            assert refusal(team, BOB, "approve", version=version).code == "policy-state"
        assert team(ROOT, "log") == before


class TestWho:
    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("root", "root"),
            ("root", "vtpm-ca"),
            ("uid 1000", "root"),
            ("CN=alice", "CN=alice"),
            ("CN=Alice", "CN=alice"),
            ("CN=alice  smith", "CN=alice smith "),
            ("spiffe://ca.example/bob", "SPIFFE://CA.example/bob/"),
            ("mailto:bob@example.com", "mailto:%62ob@example.com"),
        ],
    )
    def test_may_be_one_person(self, one, other):
        assert same_operator(one, other)
        assert same_operator(other, one)

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("root", "CN=root"),
            ("CN=alice", "CN=bob"),
            ("CN=alice", "spiffe://ca.example/alice"),
            ("spiffe://ca.example/alice", "spiffe://ca.example/bob"),
        ],
    )
    def test_are_two(self, one, other):
        assert not same_operator(one, other)
        assert not same_operator(other, one)

    def test_two_users_of_the_host_are_one_operator(self, team):
        team.put("root", 200)
        error = refusal(team, "vtpm-ca", "approve", version=2)
        assert (error.code, team.in_force()) == ("policy-own", 1)
        assert "host" in error.detail
        assert "certificate" in error.remedy
        assert team(ALICE, "approve", version=2)["state"] == "in-force"


class TestTimes:
    def test_a_version_holds_from_its_time_on(self, nodes):
        team = nodes
        told = team.put(ALICE, 50, at="2026-11-26T13:00:00Z")
        assert (told["state"], told["in_force_from"]) == ("scheduled", "2026-11-26T13:00:00Z")
        team.now = NOON + HOUR - timedelta(seconds=1)
        assert team.in_force() == 1
        team.now = NOON + HOUR
        assert (team.in_force(), team.states()) == (2, ["past", "in-force"])

    @pytest.mark.parametrize("at", ["2026-11-26T12:00:00Z", "2020-01-01T00:00:00Z"])
    def test_a_time_that_has_come_is_now(self, team, at):
        assert team.put(ALICE, 50, at=at)["state"] == "in-force"
        assert team(ROOT, "log")[1]["in_force_from"] == "2026-11-26T12:00:00Z"

    @pytest.mark.parametrize("at", ["tomorrow", "2026-11-26", "2026-13-01T00:00:00Z", ""])
    def test_what_is_no_time(self, team, at):
        with pytest.raises(BadRequest, match="at"):
            team.put(ALICE, 50, at=at)
        assert len(team(ROOT, "log")) == 1

    def test_it_is_compared_with_what_will_be_in_force_then(self, team):
        team.put(ALICE, 50, at="2026-11-26T13:00:00Z")
        # Narrower than now, wider than then.
        told = team.put(ALICE, 60, at="2026-11-26T14:00:00Z")
        assert (told["base"], told["effect"], told["state"]) == (2, "widens", "waiting")
        team(BOB, "approve", version=3)
        for hours, version in ((0, 1), (1, 2), (2, 3)):
            team.now = NOON + hours * HOUR
            assert team.in_force() == version

    def test_who_comes_later_ends_what_was_to_come(self, team):
        team.put(ALICE, 50, at="2026-11-26T13:00:00Z")
        team.put(ALICE, 40, at="2026-11-26T15:00:00Z")
        team.put(BOB, 300)
        told = team.put(BOB, 45, at="2026-11-26T14:00:00Z")
        assert told["base"] == 2
        assert sorted(told["notes"]) == [
            "version 3, which was to come in force at 2026-11-26T15:00:00Z, is dropped by this",
            "version 4, which waited for approval, is dropped by this",
        ]
        assert team.states() == ["in-force", "scheduled", "dropped", "dropped", "scheduled"]
        told = team.put(ALICE, 20)
        assert len(told["notes"]) == 2
        team.now = NOON + 24 * HOUR
        assert team.in_force() == 6

    def test_a_proposal_alone_ends_nothing(self, team):
        team.put(ALICE, 50, at="2026-11-26T13:00:00Z")
        assert team.put(BOB, 200)["notes"][0].startswith("version 3 widens")
        assert team.states() == ["in-force", "scheduled", "waiting"]
        team.now = NOON + HOUR
        assert team.states() == ["past", "in-force", "dropped"]
        error = refusal(team, ALICE, "approve", version=3)
        assert (error.code, team.in_force()) == ("policy-base", 2)

    def test_one_that_was_approved_too_late_holds_at_once(self, team):
        team.put(ALICE, 200, at="2026-11-26T13:00:00Z")
        team.now = NOON + 2 * HOUR
        assert team.states() == ["in-force", "waiting"]
        assert team(BOB, "approve", version=2)["in_force_from"] == "2026-11-26T14:00:00Z"
        team.now = NOON
        assert team.in_force() == 2

    def test_withdrawn_before_its_time(self, team):
        team.put(ALICE, 50, at="2026-11-26T13:00:00Z")
        team.put(ALICE, 40, at="2026-11-26T14:00:00Z")
        team.put(BOB, 30, at="2026-11-26T15:00:00Z")
        # What was to follow had been compared with it.
        told = team(ROOT, "withdraw", version=3)
        assert (told["state"], len(told["notes"])) == ("withdrawn", 1)
        assert team.states() == ["in-force", "scheduled", "withdrawn", "dropped"]
        team.now = NOON + 24 * HOUR
        assert team.in_force() == 2
        for version in (1, 2, 3, 4):
            assert refusal(team, ALICE, "withdraw", version=version).code == "policy-state"
        with pytest.raises(NotFound):
            team(ALICE, "withdraw", version=5)

    def test_the_same_again_changes_nothing_and_does_not_count_as_approval(self, team):
        first = team.put(ALICE, 200)
        again = team.put(BOB, 200)
        assert (again["version"], again["changed"], again["state"]) == (first["version"], False, "waiting")
        assert team.put(BOB, 200, at="2026-11-26T13:00:00Z")["version"] == 3

    def test_a_base_is_what_is_followed(self, team):
        team.put(ALICE, 50, at="2026-11-26T13:00:00Z")
        assert refusal(team.put, ALICE, 40, base=2).code == "policy-base"
        assert refusal(team.put, ALICE, 40, base=1, at="2026-11-26T14:00:00Z").code == "policy-base"
        assert team.put(ALICE, 40, base=2, at="2026-11-26T14:00:00Z")["version"] == 3
        assert team.put(ALICE, 30, base=1)["version"] == 4


class TestClocks:
    def test_what_is_to_hold_at_once_holds_by_a_clock_that_is_behind(self, nodes):
        nodes.put(ALICE, 50)
        nodes.now = NOON - 24 * HOUR
        assert nodes.in_force() == 2
        # And what is applied there follows it, and does not begin before it.
        told = nodes.put(BOB, 40)
        assert (told["base"], told["in_force_from"]) == (2, "2026-11-26T12:00:00Z")
        assert (nodes.in_force(), nodes.states()) == (3, ["past", "past", "in-force"])

    def test_no_clock_brings_back_what_a_later_version_has_replaced(self, nodes):
        nodes.put(ALICE, 50, at="2026-11-26T13:00:00Z")
        nodes.now = NOON + HOUR
        nodes.decide()
        nodes.now = NOON
        assert nodes.in_force() == 2
        assert refusal(nodes, BOB, "withdraw", version=2).code == "policy-state"
        assert nodes.put(BOB, 60)["state"] == "waiting"

    def test_what_a_later_version_has_overtaken_does_not_come_back_with_the_clock(self, nodes):
        nodes.put(ALICE, 50, at="2026-11-26T13:00:00Z")
        nodes.put(ALICE, 200)
        nodes.now = NOON + HOUR
        nodes.put(BOB, 40, at="2026-11-26T15:00:00Z")
        nodes.now = NOON
        assert nodes.states() == ["in-force", "scheduled", "dropped", "scheduled"]
        assert refusal(nodes, BOB, "approve", version=3).code == "policy-base"

    def test_a_decision_of_the_future_does_not_hasten_what_was_applied_later(self, nodes):
        nodes.now = NOON + 1000 * HOUR
        nodes.decide()
        nodes.now = NOON
        nodes.put(ALICE, 50, at="2026-11-27T12:00:00Z")
        assert (nodes.in_force(), nodes.states()) == (1, ["in-force", "scheduled"])


class TestDamage:
    def test_a_version_that_is_gone_is_not_taken_for_a_ca_without_one(self, team):
        with team.stores[ROOT].write() as tx:
            tx.connection.exec_driver_sql("UPDATE policy_starts SET version = 1")
            tx.decisions.keep_evidence("aa", b"body", NOON)
            tx.decisions.add(DecisionRow("d", NOON, "enroll", 0, "r", "[]", 7, "", "aa", "org", "r"))
        with pytest.raises(Unavailable) as error:
            team.put(ALICE, 10, "one")
        assert error.value.code == "policy"


class TestRaces:
    """Two operators on two nodes at the same moment."""

    def together(self, *acts):
        barrier, results = threading.Barrier(len(acts)), [None] * len(acts)

        def run(number, act):
            barrier.wait(30)
            try:
                results[number] = act()
            except Conflict as error:
                results[number] = error.code

        threads = [threading.Thread(target=run, args=each) for each in enumerate(acts)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert None not in results
        return results

    def test_of_two_with_the_same_base_one_is_told(self, nodes):
        for base in (1, 2):
            seconds = 100 - 10 * base
            found = self.together(
                lambda seconds=seconds, base=base: nodes.put(ALICE, seconds, base=base),
                lambda seconds=seconds, base=base: nodes.put(BOB, seconds - 1, base=base),
            )
            assert found.count("policy-base") == 1
            assert nodes.in_force() == base + 1

    def test_without_a_base_each_says_what_it_followed(self, nodes):
        found = self.together(lambda: nodes.put(ALICE, 50), lambda: nodes.put(BOB, 40))
        # Whoever came second had looked at the first one, also for whether it widens.
        assert sorted(each["base"] for each in found) == [1, 2]
        first, second = sorted(found, key=lambda each: each["version"])
        assert first["state"] == "in-force"
        assert second["state"] == ("waiting" if second["applied_by"] == ALICE else "in-force")

    def test_approved_and_withdrawn_at_once_is_one_of_both(self, nodes):
        for number in range(2):
            version = nodes.put(ALICE, 200 + number)["version"]
            found = self.together(
                lambda version=version: nodes(BOB, "approve", version=version),
                lambda version=version: nodes(ROOT, "withdraw", version=version),
            )
            assert found.count("policy-state") == 1
            states = {each["state"] for each in found if each != "policy-state"}
            assert states == {nodes(ROOT, "log")[-1]["state"]}

    def test_approved_twice_at_once_is_approved_once(self, nodes):
        version = nodes.put(ALICE, 200)["version"]
        found = self.together(
            lambda: nodes(BOB, "approve", version=version), lambda: nodes(ROOT, "approve", version=version)
        )
        assert found.count("policy-state") == 1
        assert len(nodes(ROOT, "log")[-1]["verdicts"]) == 1
