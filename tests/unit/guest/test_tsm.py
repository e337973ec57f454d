"""The exchange with configfs-tsm: what is written and read, who may interfere, what errors mean, what is left."""

import errno
import os
import signal
import uuid

import configfs_stand_in as stand_in
import pytest
from configfs_stand_in import Entry, FifoTsm, MemoryTsm
from hypothesis import given
from hypothesis import strategies as st

from vtpm.guest import (
    ALL_SERVICES,
    Attestation,
    ConfigfsTsm,
    GuestError,
    TsmDisturbed,
    TsmMissing,
    TsmUnavailable,
    attest,
)
from vtpm.signals import interrupt_on_signals
from vtpm.wire.certtable import CertKind, pack_table, parse_table
from vtpm.wire.services import VTPM_SERVICE

NONCE = bytes(range(64))
TABLE = pack_table({CertKind.VCEK: b"a certificate"})


def svsm(nonce, service, version):
    """Says what it was asked."""
    return nonce.ljust(1184, b"\0"), service.bytes + bytes([version]), TABLE


def asked(tsm, service=VTPM_SERVICE, **options):
    return attest(tsm, NONCE, service, entry="mine", **options)


def error(number):
    return OSError(number, os.strerror(number))


OPERATIONS: list[tuple[str, str]] = []
asked(MemoryTsm(svsm, lambda *operation: OPERATIONS.append(operation)))


class Once:
    """Raises, or does, something at one operation."""

    def __init__(self, at, act):
        self.at, self.act, self.count = at, act, 0

    def __call__(self, operation, attribute):
        if self.count == self.at:
            self.count += 1
            self.act()
        else:
            self.count += 1


def fails(raised):
    def act():
        raise raised

    return act


class TestAsking:
    @pytest.mark.parametrize("service", [VTPM_SERVICE, ALL_SERVICES])
    def test_one_round(self, service):
        tsm = MemoryTsm(svsm)
        answer = asked(tsm, service, pause=None)
        assert answer == Attestation(
            NONCE.ljust(1184, b"\0"), service.bytes + b"\0", TABLE, certificates_problem=""
        )
        written = {attribute: data for kind, attribute, data in tsm.calls if kind == "write"}
        assert written == {
            "service_provider": b"svsm",
            "service_guid": str(service).encode(),
            "service_manifest_version": b"0",
            "inblob": NONCE,
        }
        assert (tsm.made, tsm.entries) == (["mine"], {})

    def test_the_guid_is_that_of_the_kernels_form(self):
        tsm = MemoryTsm(svsm)
        asked(tsm)
        assert ("write", "service_guid", b"c476f1eb-0123-45a5-9641-b4e7dde5bfe3") in tsm.calls
        assert uuid.UUID(int=0) == ALL_SERVICES

    def test_a_nonce_of_another_size_asks_nobody(self):
        tsm = MemoryTsm(svsm)
        for size in (0, 63, 65):
            with pytest.raises(GuestError, match="64 bytes"):
                attest(tsm, bytes(size), VTPM_SERVICE, entry="mine")
        assert tsm.made == []

    def test_another_provider(self):
        tsm = MemoryTsm(svsm, provider=b"tdx_guest")
        with pytest.raises(TsmUnavailable, match="'tdx_guest'"):
            asked(tsm)
        assert not [call for call in tsm.calls if call[0] == "write"]
        assert tsm.entries == {}


class TestAnotherWriter:
    """He writes into our entry between two of our operations; root can."""

    FIRST_WRITE = OPERATIONS.index(("write", "service_provider"))
    LAST_READ = max(i for i, o in enumerate(OPERATIONS) if o == ("read", "generation"))

    def test_there_is_a_place_for_him(self):
        assert OPERATIONS[self.FIRST_WRITE - 1] == ("read", "generation")
        assert OPERATIONS[self.LAST_READ + 1] == ("remove", "")

    @pytest.mark.parametrize("at", range(FIRST_WRITE, LAST_READ + 1))
    def test_once_and_we_ask_again(self, at):
        pauses = []
        tsm = MemoryTsm(svsm, Once(at, lambda: tsm.entries["mine"].write("inblob", b"x" * 64)))
        answer = asked(tsm, pause=pauses.append)
        assert answer.report[:64] == NONCE
        assert pauses == [2.0]
        assert sum(call[:2] == ("write", "inblob") for call in tsm.calls) == 2
        assert tsm.entries == {}

    def test_always_and_we_give_up(self):
        def always(operation, attribute):
            if attribute == "outblob":
                tsm.entries["mine"].write("privlevel", b"0")

        pauses = []
        tsm = MemoryTsm(svsm, always)
        with pytest.raises(TsmDisturbed) as caught:
            asked(tsm, pause=pauses.append)
        assert (caught.value.exit_code, len(pauses)) == (3, 2)
        assert sum(call[:2] == ("read", "outblob") for call in tsm.calls) == 3
        assert tsm.entries == {}

    def test_his_failure_is_not_ours(self):
        """The SVSM refuses what he has asked; we ask again before we believe it."""

        def before(operation, attribute):
            if attribute == "outblob" and len(tsm.made) == 1 and not pauses:
                tsm.entries["mine"].write("service_guid", str(uuid.UUID(int=1)).encode())

        def picky(nonce, service, version):
            if service != VTPM_SERVICE:
                raise error(errno.EINVAL)
            return svsm(nonce, service, version)

        pauses = []
        tsm = MemoryTsm(picky, before)
        assert asked(tsm, pause=pauses.append).manifest == VTPM_SERVICE.bytes + b"\0"
        assert len(pauses) == 1

    def test_the_count_wraps_as_the_kernels_does(self):
        tsm = MemoryTsm(svsm, generation=(1 << 64) - 2)
        assert asked(tsm, pause=None).report[:64] == NONCE

    @pytest.mark.parametrize("text", [b"", b"x", b"-1", b"+1", b"1_0", b"\xb2", b"99999999999999999999"])
    def test_a_generation_that_is_no_number(self, text):
        class Odd(MemoryTsm):
            def read(self, entry, attribute, most):
                return text if attribute == "generation" else super().read(entry, attribute, most)

        tsm = Odd(svsm)
        with pytest.raises(TsmUnavailable):
            asked(tsm)
        assert tsm.entries == {}


class TestErrorsOfTheKernel:
    @pytest.mark.parametrize(
        ("operation", "number", "kind", "code", "remedy"),
        [
            (("make", ""), errno.ENOENT, TsmMissing, 2, "mount configfs"),
            (("make", ""), errno.ENOTDIR, TsmMissing, 2, "mount configfs"),
            (("make", ""), errno.EACCES, TsmMissing, 2, "as root"),
            (("make", ""), errno.EROFS, TsmMissing, 2, "as root"),
            (("make", ""), errno.ENXIO, TsmUnavailable, 3, "modprobe"),
            (("make", ""), errno.EEXIST, TsmUnavailable, 3, "Remove that entry"),
            (("make", ""), errno.ENOMEM, TsmUnavailable, 3, ""),
            (("write", "service_provider"), errno.ENOENT, TsmUnavailable, 3, "Linux 6.11"),
            (("write", "inblob"), errno.EPERM, TsmMissing, 2, "as root"),
            (("read", "manifestblob"), errno.ENOENT, TsmUnavailable, 3, "Linux 6.11"),
            (("read", "outblob"), errno.EINVAL, GuestError, 1, "no vTPM"),
            (("read", "outblob"), errno.ENXIO, TsmUnavailable, 3, "modprobe"),
            (("read", "outblob"), errno.EIO, TsmUnavailable, 3, ""),
        ],
    )
    def test_mean_something(self, operation, number, kind, code, remedy):
        def before(*now):
            if now == operation:
                raise error(number)

        tsm = MemoryTsm(svsm, before)
        with pytest.raises(GuestError) as caught:
            asked(tsm)
        assert (type(caught.value), caught.value.exit_code) == (kind, code)
        assert remedy in caught.value.remedy
        assert bool(remedy) == bool(caught.value.remedy)
        assert os.strerror(number) in caught.value.detail
        assert tsm.entries == {}

    def test_an_svsm_that_refuses_has_a_rule(self):
        def refuses(nonce, service, version):
            raise error(errno.EINVAL)

        with pytest.raises(GuestError) as caught:
            asked(MemoryTsm(refuses))
        assert caught.value.rule == "guest.attest"

    def test_a_kernel_that_takes_no_more_writes(self):
        def busy(operation, attribute):
            if operation == "write":
                raise error(errno.EBUSY)

        tsm = MemoryTsm(svsm, busy)
        with pytest.raises(TsmDisturbed):
            asked(tsm, pause=lambda _: None)
        assert tsm.entries == {}

    def test_a_write_that_is_not_taken_whole(self, tmp_path, monkeypatch):
        (tmp_path / "entry").mkdir()
        (tmp_path / "entry" / "inblob").touch()
        monkeypatch.setattr(os, "write", lambda _, data: len(data) - 1)
        with pytest.raises(OSError, match="63 of 64"):
            ConfigfsTsm(tmp_path).write("entry", "inblob", NONCE)

    def test_a_read_that_gives_a_part(self, tmp_path, monkeypatch):
        (tmp_path / "entry").mkdir()
        (tmp_path / "entry" / "manifestblob").write_bytes(NONCE)
        read = os.read
        monkeypatch.setattr(os, "read", lambda descriptor, most: read(descriptor, min(most, 10)))
        assert ConfigfsTsm(tmp_path).read("entry", "manifestblob", 100) == NONCE
        assert ConfigfsTsm(tmp_path).read("entry", "manifestblob", 25) == NONCE[:25]

    def test_links_are_not_followed(self, tmp_path):
        (tmp_path / "entry").mkdir()
        (tmp_path / "entry" / "inblob").symlink_to("/dev/null")
        with pytest.raises(OSError, match="symbolic links"):
            ConfigfsTsm(tmp_path).write("entry", "inblob", b"x")

    def test_no_configfs_at_all(self, tmp_path):
        with pytest.raises(TsmMissing, match="No such file"):
            asked(ConfigfsTsm(tmp_path / "tsm" / "report"))
        (tmp_path / "report").touch()
        with pytest.raises(TsmMissing, match="Not a directory"):
            asked(ConfigfsTsm(tmp_path / "report"))

    def test_an_entry_of_somebody_else_stays(self):
        tsm = MemoryTsm(svsm)
        tsm.entries["mine"] = his = Entry(svsm)
        with pytest.raises(TsmUnavailable):
            asked(tsm)
        assert tsm.entries == {"mine": his}


class TestNothingIsLeft:
    @pytest.mark.parametrize(
        "at", [at for at, (operation, _) in enumerate(OPERATIONS) if operation in ("read", "write")]
    )
    @pytest.mark.parametrize("raised", [error(errno.EIO), KeyboardInterrupt()], ids=["error", "interrupt"])
    def test_after_a_failure(self, at, raised):
        tsm = MemoryTsm(svsm, Once(at, fails(raised)))
        with pytest.raises((GuestError, KeyboardInterrupt)):
            asked(tsm, pause=lambda _: None)
        assert (tsm.made, tsm.entries) == (["mine"], {})

    @pytest.mark.parametrize("at", range(len(OPERATIONS)))
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    def test_after_a_signal(self, at, number):
        interrupt_on_signals()
        tsm = MemoryTsm(svsm, Once(at, lambda: signal.raise_signal(number)))
        with pytest.raises(KeyboardInterrupt):
            asked(tsm)
        assert (tsm.made, tsm.entries) == (["mine"], {})
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {number}

    def test_a_hangup_that_is_ignored_stays_so(self):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        interrupt_on_signals()
        signal.raise_signal(signal.SIGHUP)

    def test_a_removal_that_fails(self):
        def before(operation, attribute):
            if operation == "remove" or (operation, attribute) == failing:
                raise error(errno.EIO)

        failing = None
        with pytest.raises(TsmUnavailable, match="removing"):
            asked(MemoryTsm(svsm, before))
        failing = ("read", "outblob")
        with pytest.raises(TsmUnavailable, match="reading outblob"):
            asked(MemoryTsm(svsm, before))

    def test_an_entry_that_somebody_has_removed(self):
        tsm = MemoryTsm(svsm, lambda operation, _: operation == "remove" and tsm.entries.clear())
        assert asked(tsm).manifest


class TestWhatIsRead:
    @pytest.mark.parametrize(
        ("report", "manifest", "told"),
        [
            (b"", b"m", "has 0 bytes, not 1184"),
            (bytes(1183), b"m", "has 1183 bytes"),
            (bytes(1185), b"m", "has more than 1184 bytes"),
            (bytes(4096), b"m", "has more than 1184 bytes"),
            (bytes(1184), b"", "has 0 bytes, not 1 to 16384"),
            (bytes(1184), bytes(16385), "has more than 16384 bytes"),
            (bytes(1184), bytes(30000), "has more than 16384 bytes"),
        ],
    )
    def test_sizes_are_bounded(self, report, manifest, told):
        tsm = MemoryTsm(lambda *_: (report, manifest, b""))
        with pytest.raises(GuestError, match=told) as caught:
            asked(tsm)
        assert caught.value.rule == "guest.blob-size"

    def test_a_host_without_certificates(self):
        for table in (b"", bytes(24), bytes(16 * 1024)):
            answer = Attestation.of(bytes(1184), b"m", table)
            assert (answer.certificates, answer.certificates_problem) == (None, "")

    @pytest.mark.parametrize("table", [b"\xff" * 100, TABLE[:-1], TABLE[:23], bytes(16 * 1024 + 1)])
    def test_a_table_that_cannot_be_read_is_left_out(self, table):
        answer = Attestation.of(bytes(1184), b"m", table)
        assert answer.certificates is None
        assert answer.certificates_problem.startswith("certificates")

    @given(
        report=st.one_of(st.just(bytes(1184)), st.binary(max_size=1200)),
        manifest=st.binary(max_size=400),
        table=st.one_of(
            st.binary(max_size=200),
            st.builds(
                lambda at, byte: TABLE[:at] + bytes([byte]) + TABLE[at + 1 :],
                st.integers(0, len(TABLE) - 1),
                st.integers(0, 255),
            ),
        ),
    )
    def test_whatever_the_tree_holds_ends_in_an_answer(self, report, manifest, table):
        if len(report) != 1184 or not manifest:
            with pytest.raises(GuestError, match="bytes, not"):
                Attestation.of(report, manifest, table)
            return
        answer = Attestation.of(report, manifest, table)
        assert (len(answer.report), answer.manifest) == (1184, manifest)
        assert answer.certificates in (None, table)
        if answer.certificates is not None:
            assert parse_table(answer.certificates)

    @given(text=st.binary(max_size=70), attribute=st.sampled_from(["provider", "generation"]))
    def test_whatever_an_attribute_says(self, text, attribute):
        class Odd(MemoryTsm):
            def read(self, entry, name, most):
                return text[:most] if name == attribute else super().read(entry, name, most)

        tsm = Odd(svsm)
        # Only the one provider, and only a number that counts our own writes, would do.
        with pytest.raises(GuestError) as refused:
            asked(tsm, pause=lambda _: None)
        assert refused.value.detail.isascii()
        assert refused.value.detail.isprintable()
        assert tsm.entries == {}


class TestRealFiles:
    @pytest.mark.parametrize("service", [VTPM_SERVICE, ALL_SERVICES])
    def test_one_round(self, tmp_path, service):
        tsm = FifoTsm(tmp_path, svsm)
        answer = asked(tsm, service)
        assert answer == Attestation(NONCE.ljust(1184, b"\0"), service.bytes + b"\0", TABLE)
        assert (tsm.made, list(tmp_path.iterdir())) == (["mine"], [])

    def test_large_blobs_are_read_to_the_bound_and_no_further(self, tmp_path):
        tsm = FifoTsm(tmp_path, lambda *_: (bytes(1184), bytes(16384), bytes(16384)))
        assert len(asked(tsm).manifest) == 16384
        tsm = FifoTsm(tmp_path, lambda *_: (bytes(1184), bytes(16386), b""))
        with pytest.raises(GuestError, match="more than 16384"):
            asked(tsm)
        assert list(tmp_path.iterdir()) == []

    def test_a_signal(self, tmp_path):
        interrupt_on_signals()

        def slow(*_):
            os.kill(os.getpid(), signal.SIGTERM)
            return stand_in.nothing()

        tsm = FifoTsm(tmp_path, slow)
        with pytest.raises(KeyboardInterrupt):
            asked(tsm)
        assert (tsm.made, list(tmp_path.iterdir())) == (["mine"], [])
