"""A power cut at any point leaves a volume as it was or as it was to be, and it goes on from there.

The disks after a cut are made from a record of writes and barriers (`volume_traces`): in order and torn, and reordered
between barriers. The long runs print how many cuts they tried.
"""

import random
import time
from collections.abc import Iterable
from itertools import chain, islice
from uuid import UUID

import pytest
import volume_traces as v
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from vtpm.volume import Auxiliary, Write
from vtpm.volume.format.headers import MAX_SALT, StaticHeader
from vtpm.volume.mkfs import DEFAULT_AUXILIARY
from vtpm.volume.opening import open_disk

AUXILIARIES = {
    "none": Auxiliary(),
    "as the reference has it": DEFAULT_AUXILIARY,
    "a record": Auxiliary(((UUID(int=7), b"wrapped" * 40),)),
    "records in several extents": Auxiliary(((UUID(int=7), b"w" * 9000),), reserve=64),
}
WENT_ON = 4711


def cuts_of(before: bytes, events: list, front: range, rng: random.Random, samples: int) -> Iterable[v.Cut]:
    return chain(v.prefixes(before, events, front), v.reordered(before, events, rng, samples))


def front_of(name: str) -> range:
    """Where headers and the journal's head lie, whose protection is made of the smallest sectors."""
    layout, _ = v.LAYOUTS[name]
    return range(StaticHeader(layout, v.SALT).journal.end << layout.block_shift)


def check(cut: v.Cut, allowed: list[v.Content], rng: random.Random) -> v.Content:
    """Open what a cut has left, see what is there, change it, and open it again."""
    looked = v.TraceDisk(cut.image)
    with v.opened(looked, rng, writable=False) as volume:
        seen = v.content_of(volume)
    assert not looked.events, "a reader wrote"
    disk = v.TraceDisk(cut.image, recording=False)
    with v.opened(disk, rng) as volume:
        found = v.content_of(volume)
        assert found == seen, cut
        assert found in allowed, cut
        change = {WENT_ON: Write(b"went on", 3)}
        if not v.try_changes(volume, change):
            change = dict.fromkeys(volume.inodes()[:1])
            volume.transaction(change)
    with v.opened(v.TraceDisk(disk.data), rng, writable=False) as volume:
        assert v.content_of(volume) == v.after(found, change), cut
    return found


def sampled(cuts: Iterable[v.Cut], rng: random.Random, count: int) -> list[v.Cut]:
    found = list(cuts)
    return found if len(found) <= count else rng.sample(found, count)


@pytest.mark.parametrize("name", v.LAYOUTS)
def test_a_cut_during_transactions_leaves_the_state_before_or_after(name: str):
    rng = v.chance(f"cut {name}")
    worked = v.history(name, rng, 3, warm=1)
    cuts = cuts_of(worked.before, worked.disk.events, front_of(name), rng, 6)
    found = [check(cut, worked.allowed(cut), rng) for cut in sampled(cuts, rng, 60)]
    assert all(content in found for content in worked.contents), "the sample misses a state"


def pending(worked: v.History, number: int) -> bytes:
    """The disk when a transaction's head has just become durable."""
    _, durable, _ = worked.marks[number]
    return bytes(v.applied(worked.before, worked.disk.events[:durable]))


def replay_cuts(name: str, rng: random.Random, samples: int) -> tuple[list[v.Content], Iterable[v.Cut]]:
    """What must be there, and the cuts, of an opening that has a pending transaction to apply."""
    worked = v.history(name, rng, 2, warm=2)
    before = pending(worked, 1)
    disk = v.TraceDisk(before)
    with v.opened(disk, rng) as volume:
        assert v.content_of(volume) == worked.contents[2]
    assert sum(event is not v.BARRIER for event in disk.events) > 1, "nothing was pending"
    return [worked.contents[2]], cuts_of(before, disk.events, front_of(name), rng, samples)


@pytest.mark.parametrize("name", v.LAYOUTS)
def test_a_cut_while_a_pending_transaction_is_applied_leaves_it_pending_or_done(name: str):
    rng = v.chance(f"replay {name}")
    expected, cuts = replay_cuts(name, rng, 6)
    for cut in sampled(cuts, rng, 25):
        check(cut, expected, rng)


@pytest.mark.parametrize("name", v.LAYOUTS)
def test_a_head_that_lost_any_of_its_sectors_is_no_head(name: str):
    """Whatever sectors a disk writes first: a transaction has happened when all of its head is there, not before."""
    rng = v.chance(f"head {name}")
    worked = v.history(name, rng, 1, warm=1)
    first, _, _ = worked.marks[0]
    for cut in v.lost_sectors(worked.before, worked.disk.events, first, rng):
        check(cut, worked.contents[:1], rng)


@pytest.mark.parametrize("name", v.LAYOUTS)
def test_a_cut_during_the_transaction_after_a_replay_does_not_bring_the_old_journal_back(name: str):
    rng = v.chance(f"after replay {name}")
    worked = v.history(name, rng, 1, warm=2)
    before = pending(worked, 0)
    disk = v.TraceDisk(before)
    changes: dict[int, Write | None] = {inode: Write(b"after the replay") for inode in (16, 17, 18)}
    with v.opened(disk, rng) as volume:
        begun = len(disk.events)
        volume.transaction(changes)
    expected = [worked.contents[1], v.after(worked.contents[1], changes)]
    cuts = [cut for cut in cuts_of(before, disk.events, front_of(name), rng, 6) if cut.at > begun]
    for cut in sampled(cuts, rng, 25):
        check(cut, expected, rng)


class Refusing:
    """A witness that cancels what is pending."""

    def record(self, old, new):
        raise AssertionError("nothing is recorded here")

    def resolve(self, old, new):
        return False


@pytest.mark.parametrize("name", v.LAYOUTS)
def test_a_cut_while_a_pending_transaction_is_cancelled_leaves_it_pending_or_cancelled(name: str):
    rng = v.chance(f"cancel {name}")
    worked = v.history(name, rng, 1, warm=2)
    before = pending(worked, 0)
    disk = v.TraceDisk(before)
    open_disk(disk, v.SECRET, entropy=rng.randbytes, witness=Refusing()).close()
    for cut in sampled(cuts_of(before, disk.events, front_of(name), rng, 4), rng, 15):
        left = v.TraceDisk(cut.image, recording=False)
        with open_disk(left, v.SECRET, entropy=rng.randbytes, witness=Refusing()) as volume:
            assert v.content_of(volume) == worked.contents[0], cut
        check(v.Cut(cut.at, cut.how, lambda left=left: bytes(left.data)), [worked.contents[0]], rng)


def formatting_cuts(
    name: str, records: str, salt: bytes, rng: random.Random, samples: int
) -> Iterable[v.Cut]:
    blank = v.blank_disk(name, rng, AUXILIARIES[records], salt)
    before = bytes(blank.data)
    v.opened(blank, rng).close()
    return cuts_of(before, blank.events, front_of(name), rng, samples)


@pytest.mark.parametrize("records", AUXILIARIES)
@pytest.mark.parametrize("name", v.LAYOUTS)
def test_formatting_that_is_cut_off_starts_over(name: str, records: str):
    rng = v.chance(f"format {name} {records}")
    salt = rng.choice((b"", v.SALT, rng.randbytes(MAX_SALT)))
    for cut in sampled(formatting_cuts(name, records, salt, rng, 6), rng, 12):
        check(cut, [{}], rng)


def test_formatting_that_is_cut_off_twice_starts_over():
    rng = v.chance("format twice")
    for cut in sampled(formatting_cuts("default", "a record", v.SALT, rng, 2), rng, 12):
        again = v.TraceDisk(cut.image)
        v.opened(again, rng).close()
        for second in sampled(cuts_of(cut.image, again.events, front_of("default"), rng, 2), rng, 6):
            check(second, [{}], rng)


@pytest.mark.slow
@pytest.mark.parametrize("name", v.LAYOUTS)
def test_thousands_of_cuts_leave_no_third_state(name: str, capsys: pytest.CaptureFixture[str]):
    start, rng = time.monotonic(), v.chance(f"long {name}")
    counts = dict.fromkeys(("transactions", "cuts", "replays cut", "formattings cut"), 0)
    for number in range(4):
        worked = v.history(name, rng, 4, warm=number)
        counts["transactions"] += len(worked.marks)
        cuts = cuts_of(worked.before, worked.disk.events, front_of(name), rng, 25)
        for cut in sampled(cuts, rng, 800):
            check(cut, worked.allowed(cut), rng)
            counts["cuts"] += 1
        expected, cuts = replay_cuts(name, rng, 25)
        for cut in sampled(cuts, rng, 150):
            check(cut, expected, rng)
            counts["replays cut"] += 1
    for records in AUXILIARIES:
        for salt in (b"", rng.randbytes(MAX_SALT)):
            for cut in sampled(formatting_cuts(name, records, salt, rng, 20), rng, 80):
                check(cut, [{}], rng)
                counts["formattings cut"] += 1
    took = time.monotonic() - start
    with capsys.disabled():
        print(f"\n{name}: " + ", ".join(f"{n} {what}" for what, n in counts.items()) + f" in {took:.0f} s")


class VolumeAgainstDict(RuleBasedStateMachine):
    """A volume does what a dict does, whatever is asked of it, and through crashes."""

    steps = 0

    def __init__(self):
        super().__init__()
        self.rng = v.chance(1)
        self.disk = v.new_disk("default", self.rng)
        self.volume = v.opened(self.disk, self.rng)
        self.model: v.Content = {}
        self.counter = self.volume.counter

    inodes = st.one_of(st.integers(16, 40), st.sampled_from([1 << 32 | 0x100, (1 << 64) - 1]))
    writes = st.builds(
        lambda size, seed, flags: Write(v.chance(seed).randbytes(size), flags),
        st.one_of(st.integers(0, 700), st.sampled_from([2000, 8000, 9000])),
        st.integers(0, 1 << 20),
        st.sampled_from([None, 0, 1, 255]),
    )
    changes = st.dictionaries(inodes, st.one_of(st.none(), writes), min_size=1, max_size=4)

    def apply(self, changes: dict[int, Write | None]) -> bool:
        changed = any(change is not None or inode in self.model for inode, change in changes.items())
        if not v.try_changes(self.volume, changes):
            return False
        self.model = v.after(self.model, changes)
        self.counter = (self.counter + changed) % (1 << 128)
        return True

    @rule(changes=changes)
    def change(self, changes):
        self.apply(changes)

    @rule(data=st.data())
    def rewrite(self, data):
        if self.model:
            inode = data.draw(st.sampled_from(sorted(self.model)))
            self.apply({inode: data.draw(self.writes)})

    @rule(data=st.data())
    def remove(self, data):
        if self.model:
            assert self.apply(dict.fromkeys([data.draw(st.sampled_from(sorted(self.model)))]))

    @rule()
    def empty(self):
        assert self.apply(dict.fromkeys(self.model))

    @rule(inode=inodes, times=st.integers(1, 4))
    def too_large(self, inode, times):
        before, root, room = bytes(self.disk.data), self.volume.root, self.volume._space.free()
        assert not self.apply({41: Write(b"beside it"), inode: Write(bytes(times * len(before)))})
        assert self.disk.data == before
        assert self.volume._space.free() == room
        assert self.volume.root == root

    @rule(writable=st.booleans())
    def reopen(self, writable):
        self.volume.close()
        if not writable:
            with v.opened(v.TraceDisk(self.disk.data), self.rng, writable=False) as volume:
                assert v.content_of(volume) == self.model
        self.disk = v.TraceDisk(self.disk.data)
        self.volume = v.opened(self.disk, self.rng)

    @rule(changes=changes, seed=st.integers(0, 1 << 30))
    def crash(self, changes, seed):
        """A cut during a transaction; where it may be either state, it is what it is from then on."""
        before, rng = bytes(self.disk.data), v.chance(seed)
        # What an earlier transaction left unflushed is of no matter: it is the head that was made invalid.
        self.disk.events, old, old_counter = [], self.model, self.counter
        if not self.apply(changes) or not self.disk.events:
            return
        cut = rng.choice(list(cuts_of(before, self.disk.events, front_of("default"), rng, 3)))
        self.disk = v.TraceDisk(cut.image)
        self.volume = v.opened(self.disk, self.rng)
        states = [(old_counter, old), (self.counter, self.model)]
        self.model, self.counter = v.content_of(self.volume), self.volume.counter
        assert (self.counter, self.model) in states

    @invariant()
    def holds_the_same(self):
        VolumeAgainstDict.steps += 1
        self.disk.events = []
        assert v.content_of(self.volume) == self.model
        assert self.volume.inodes() == tuple(sorted(self.model))
        assert self.volume.counter == self.counter

    def teardown(self):
        self.volume.close()


def run_machine(examples: int, steps: int) -> int:
    VolumeAgainstDict.steps = 0
    profile = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(VolumeAgainstDict, settings=profile)
    return VolumeAgainstDict.steps


def test_a_volume_does_what_a_dict_does():
    assert run_machine(10, 30) > 100


@pytest.mark.slow
def test_a_volume_does_what_a_dict_does_for_thousands_of_steps(capsys: pytest.CaptureFixture[str]):
    start = time.monotonic()
    steps = run_machine(120, 100)
    assert steps > 5000
    with capsys.disabled():
        print(f"\n{steps} steps of the state machine in {time.monotonic() - start:.0f} s")


def test_the_cuts_are_those_that_a_disk_can_leave():
    """The tool itself: torn in order, and any subset between barriers, but never across one."""
    events = [v.Written(0, b"a" * 1024), v.Written(2048, b"b" * 8), v.BARRIER, v.Written(4096, b"c" * 8)]
    images = {cut.image for cut in v.prefixes(bytes(8192), events)}
    assert len(images) == 5  # nothing, half of a, a, b, c
    mixed = {cut.image for cut in v.reordered(bytes(8192), events, v.chance(1), 20)}
    assert any(image[2048:2049] == b"b" and image[0] == 0 for image in mixed)
    assert all(image[0] == image[1023] == 97 for image in mixed if image[4096])
    assert not list(islice(v.reordered(bytes(8), [v.BARRIER], v.chance(1), 1), 1))
