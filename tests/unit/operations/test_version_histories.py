"""Any history of versions against a plain model of it: who applied, approved and withdrew what, and what the clock did.

The model knows no records and no database. It keeps a list of versions, and asks of each step what must be true.
"""

import shutil
import tempfile
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from policy_team import ALICE, BOB, ROOT, Operators

from ca_service.judgment import Conflict
from ca_service.operations.versions import present_time
from ca_service.store import create_store
from vtpm.wire.message_fields import time_text

MODES = {"production": "two", "simulation": "one"}
WHO = (ALICE, BOB, ROOT)
RULES = st.sampled_from(["", "", "", "one", "two"])
MINUTES = st.sampled_from([None, None, None, -5, 10])


@dataclass
class Version:
    """What the model knows of one version."""

    number: int
    width: int
    rule: str
    author: str
    base: int
    wanted: datetime | None
    begins: datetime | None = None
    on_any_clock: bool = False
    over: str = ""


class Histories(RuleBasedStateMachine):
    """One CA and three operators."""

    template: bytes = b""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        database = self.folder / "ca.sqlite3"
        if Histories.template:
            database.write_bytes(Histories.template)
        else:
            create_store(f"sqlite:///{database}").close()
            Histories.template = database.read_bytes()
        self.team = Operators(f"sqlite:///{database}")
        self.versions: list[Version] = []
        self.judged = 0
        self.approvals: dict[int, str] = {}

    def teardown(self) -> None:
        self.team.close()
        shutil.rmtree(self.folder)

    @initialize(mode=st.sampled_from(["production", "production", "simulation"]), begun=st.booleans())
    def begin(self, mode: str, begun: bool) -> None:
        self.team.mode = mode
        if begun:
            self.put(ALICE, 3, "", None)

    # What the model says.

    def present(self) -> int:
        begun = [
            v.number
            for v in self.versions
            if v.begins is not None and (v.on_any_clock or v.begins <= self.team.now)
        ]
        return max([self.judged, *begun], default=0)

    def coming(self) -> list[Version]:
        return [v for v in self.versions if v.number > self.present() and v.begins is not None]

    def earliest(self, wanted: datetime | None) -> datetime:
        """When a version begins that is released now: not before the one in force."""
        moments = [self.team.now] + ([wanted] if wanted else [])
        if self.present():
            moments.append(self.versions[self.present() - 1].begins or self.team.now)
        return max(moments)

    def followed(self, begins: datetime) -> int:
        return max([self.present(), *(v.number for v in self.coming() if v.begins < begins)])

    def waits(self, v: Version) -> bool:
        if v.over or v.begins is not None or v.number < self.present():
            return False
        # By a clock that went back, what had been in force when a later one was scheduled may be to come again.
        overtaken = any(o.number > v.number for o in self.coming())
        return not overtaken and self.followed(self.earliest(v.wanted)) == v.base

    def widens(self, base: int, width: int, asked: str) -> bool:
        if not base:
            return True
        old = self.versions[base - 1]
        rules = MODES[self.team.mode]
        return width > old.width or ((old.rule or rules) == "two" and (asked or rules) == "one")

    def second(self, base: int, width: int, asked: str) -> bool:
        """Whether another operator must agree."""
        if not base:
            return asked == "two"
        default = MODES[self.team.mode]
        words = [self.versions[base - 1].rule]
        words.append(self.versions[self.present() - 1].rule if self.present() else "")
        return self.widens(base, width, asked) and "two" in {word or default for word in words}

    def release(self, v: Version) -> None:
        later = v.wanted if v.wanted and v.wanted > self.team.now else None
        begins = self.earliest(later)
        for other in [*self.coming(), *(o for o in self.versions if self.waits(o))]:
            if other is not v and (other.begins is None or other.begins >= begins):
                other.over, other.begins = "dropped", None
        v.begins, v.on_any_clock = begins, later is None

    # What operators and the clock do.

    def done(self, who: str, name: str, v: Version) -> bool:
        """Whether an operator may do this to a version."""
        try:
            self.team(who, name, version=v.number)
        except Conflict:
            return False
        return True

    @rule(who=st.sampled_from(WHO), width=st.integers(2, 4), asked=RULES, minutes=MINUTES)
    def apply(self, who: str, width: int, asked: str, minutes: int | None) -> None:
        self.put(who, width, asked, minutes)

    @rule(who=st.sampled_from(WHO), widths=st.tuples(st.integers(1, 3), st.integers(1, 5)))
    def schedule(self, who: str, widths: tuple[int, int]) -> None:
        """One after the other, and maybe one that has to wait."""
        for minutes, width in zip((10, 30), widths, strict=True):
            self.put(who, width, "", minutes)

    @rule(who=st.sampled_from(WHO))
    def propose(self, who: str) -> None:
        self.put(who, 6, "", None)

    def put(self, who: str, width: int, asked: str, minutes: int | None) -> None:
        wanted = None if minutes is None else self.team.now + timedelta(minutes=minutes)
        begins = self.earliest(wanted)
        base = self.followed(begins)
        at = {} if wanted is None else {"at": time_text(wanted)}
        told = self.team.put(who, width, asked, **at)
        if not told["changed"]:
            same = self.versions[told["version"] - 1]
            assert (same.width, same.rule) == (width, asked)
            assert same.number == base or self.waits(same)
            return
        later = wanted if wanted and wanted > self.team.now else None
        v = Version(len(self.versions) + 1, width, asked, who, base, later)
        second = self.second(base, width, asked)
        self.versions.append(v)
        if not second:
            self.release(v)
        assert (told["version"], told["base"]) == (v.number, base)
        assert (told["state"] == "waiting") == second
        assert told["effect"] == "widens" or not self.widens(base, width, asked)

    @precondition(lambda self: self.versions)
    @rule(who=st.sampled_from(WHO), data=st.data())
    def approve(self, who: str, data: st.DataObject) -> None:
        self.agree(who, data.draw(self.likely()))

    def likely(self) -> st.SearchStrategy[Version]:
        """A version of which something may come yet, or any."""
        pending = [v for v in self.versions if v in self.coming() or self.waits(v)]
        return st.sampled_from([*pending, *pending, self.versions[-1], self.versions[0]])

    def agree(self, who: str, v: Version) -> None:
        good = self.waits(v) and who != v.author
        assert self.done(who, "approve", v) == good
        if not good:
            return
        self.approvals[v.number] = who
        self.release(v)

    @precondition(lambda self: self.versions)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        v = data.draw(self.likely())
        good = v in self.coming() or self.waits(v)
        assert self.done(ROOT, "withdraw", v) == good
        if not good:
            return
        gone = {v.number}
        pending = [o for o in self.versions if o in self.coming() or self.waits(o)]
        for other in pending:
            if other is v or other.base in gone:
                gone.add(other.number)
                other.over = "withdrawn" if other is v else "dropped"
        for number in gone:
            self.versions[number - 1].begins = None

    @precondition(lambda self: self.versions)
    @rule(who=st.sampled_from([ALICE, BOB]), data=st.data())
    def rollback(self, who: str, data: st.DataObject) -> None:
        old = data.draw(st.sampled_from(self.versions))
        base = self.followed(self.earliest(None))
        told = self.team(who, "rollback", version=old.number)
        if told["changed"]:
            v = Version(len(self.versions) + 1, old.width, old.rule, who, base, None)
            second = self.second(base, old.width, old.rule)
            self.versions.append(v)
            assert (told["state"] == "waiting") == second
            if not second:
                self.release(v)

    @rule(minutes=st.sampled_from([-30, 10, 20]))
    def clock(self, minutes: int) -> None:
        self.team.now += timedelta(minutes=minutes)
        assert present_time(self.team.context(ROOT)) == self.team.now

    @precondition(lambda self: self.versions)
    @rule()
    def decide(self) -> None:
        self.judged = max(self.judged, self.present())
        self.team.decide()

    # What must hold.

    @invariant()
    def the_same_is_in_force_by_every_way_of_asking(self) -> None:
        version = self.present()
        for store in self.team.stores.values():
            with store.read() as tx:
                assert tx.policies.version_in_force(self.team.now) == version
                assert tx.views.standing(self.team.now).policy_version == version
        states = {row["version"]: row["state"] for row in self.team(ROOT, "log")}
        assert [number for number, state in states.items() if state == "in-force"] == (
            [version] if version else []
        )
        for v in self.versions:
            wanted = (
                "in-force"
                if v.number == version
                else v.over
                or ("waiting" if self.waits(v) else "")
                or ("dropped" if v.begins is None else "past" if v.number < version else "scheduled")
            )
            assert states[v.number] == wanted

    @invariant()
    def nobody_alone_has_widened_what_asked_for_two(self) -> None:
        line = [v for v in self.versions if v.begins is not None]
        for before, after in zip([None, *line], line, strict=False):
            # What follows what is what had been compared.
            assert after.base == (before.number if before else 0)
            default = MODES[self.team.mode]
            asks = (before.rule or default) if before else after.rule
            base = before.number if before else 0
            if asks == "two" and self.widens(base, after.width, after.rule):
                assert self.approvals[after.number] != after.author


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=8, stateful_step_count=25, deadline=None)
