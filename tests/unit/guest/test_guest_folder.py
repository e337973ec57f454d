"""The folder for the certificates: whole files, nobody else's overwritten, and a run that ends in between."""

import fcntl
import json
import os
import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtpm.guest import OutputRefused, check_folder, folder, write_folder
from vtpm.wire.amd_evidence import VTPM_PROFILE

FILES = {"ek.pem": b"the first EK\n", "iak.pem": b"the first IAK\n"}
RENEWED = {"ek.pem": b"another EK\n", "iak.pem": b"another IAK\n"}
DOCUMENT = {"profile": VTPM_PROFILE, "enrollment": "e"}


def contents(place):
    return {path.name: path.read_bytes() for path in place.iterdir() if path.name != folder.RECORD}


def state(place):
    """What a look at the files does not change."""
    found = {path: path.lstat() for path in place.rglob("*")}
    return {
        path: (known.st_ino, known.st_mode, known.st_size, known.st_mtime_ns) for path, known in found.items()
    }


def put(place, files=FILES):
    check_folder(place, tuple(files))
    write_folder(place, files, DOCUMENT)


@pytest.fixture
def place(tmp_path):
    return tmp_path / "certificates"


class TestWriting:
    def test_a_new_folder(self, place):
        old = os.umask(0o077)
        try:
            put(place)
        finally:
            os.umask(old)
        assert contents(place) == FILES
        assert {stat.S_IMODE(path.stat().st_mode) for path in place.iterdir()} == {0o644}
        record = json.loads((place / folder.RECORD).read_text())
        assert record["profile"] == VTPM_PROFILE
        assert set(record["files"]) == set(FILES)

    def test_again_the_same_and_then_others(self, place):
        put(place)
        put(place)
        put(place, RENEWED)
        assert contents(place) == RENEWED

    def test_what_else_is_there_stays(self, place):
        place.mkdir()
        (place / "notes.txt").write_bytes(b"mine")
        put(place)
        put(place, RENEWED)
        assert contents(place) == RENEWED | {"notes.txt": b"mine"}

    @pytest.mark.parametrize("after", range(7))
    def test_a_run_that_ends_in_between(self, place, monkeypatch, after):
        """Each file is the old or the new one, and the next run knows both for ours."""
        put(place)
        count, rename = iter(range(100)), os.rename

        def crash(*names, **options):
            if next(count) == after // 2:
                if after % 2:
                    rename(*names, **options)
                raise KeyboardInterrupt
            rename(*names, **options)

        with monkeypatch.context() as patched:
            patched.setattr(os, "rename", crash)
            if after // 2 < 3:
                with pytest.raises(KeyboardInterrupt):
                    put(place, RENEWED)
        for name, data in FILES.items():
            assert (place / name).read_bytes() in (data, RENEWED[name])
        put(place, {"ek.pem": b"a third\n", "iak.pem": b"a third\n"})
        assert set(contents(place).values()) == {b"a third\n"}


class TestRefused:
    def refused(self, place, told):
        before = state(place.parent)
        for call in (check_folder, lambda where, _: write_folder(where, RENEWED, DOCUMENT)):
            with pytest.raises(OutputRefused, match=told) as caught:
                call(place, tuple(RENEWED))
            assert caught.value.exit_code == 2
        assert before == state(place.parent)

    def test_a_file_of_somebody_else(self, place):
        place.mkdir()
        (place / "iak.pem").write_bytes(b"another program's IAK")
        self.refused(place, r"iak\.pem is there and not from an enrolment")

    def test_a_file_of_ours_that_was_edited(self, place):
        put(place)
        (place / "ek.pem").write_bytes(b"edited")
        self.refused(place, r"ek\.pem is there and not from an enrolment")

    def test_a_file_that_is_larger_than_any_of_ours(self, place):
        put(place)
        (place / "ek.pem").write_bytes(b"x" * 100_000)
        self.refused(place, r"ek\.pem")

    @pytest.mark.parametrize("name", ["ek.pem", folder.RECORD])
    @pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
    def test_what_is_no_file(self, place, tmp_path, name, kind):
        place.mkdir()
        {
            "link": lambda: (place / name).symlink_to("/etc/passwd"),
            "folder": (place / name).mkdir,
            "pipe": lambda: os.mkfifo(place / name),
        }[kind]()
        self.refused(place, name)

    def test_a_link_even_to_what_would_be_ours(self, place, tmp_path):
        put(place)
        (place / "ek.pem").rename(tmp_path / "elsewhere.pem")
        (place / "ek.pem").symlink_to(tmp_path / "elsewhere.pem")
        self.refused(place, r"ek\.pem")

    @pytest.mark.parametrize(
        "record",
        [b"", b"{}", b"[]", b"\xff", b'{"files":{}}', b'{"profile":"x","files":{}}', b"{" * 10,
         b'{"profile":"amd-svsm-vtpm:0"}', b'{"profile":"amd-svsm-vtpm:0","files":{"ek.pem":[]}}', b"x" * 100_000],
    )  # fmt: skip
    def test_a_record_that_is_not_ours(self, place, record):
        place.mkdir()
        (place / folder.RECORD).write_bytes(record)
        self.refused(place, "enrollment")

    def test_no_folder(self, place):
        place.write_bytes(b"")
        with pytest.raises(OutputRefused, match="is no folder"):
            check_folder(place, ())
        with pytest.raises(OutputRefused, match="is no folder"):
            check_folder(place / "below" / "that", ())
        with pytest.raises(OutputRefused):
            write_folder(place / "below" / "that", FILES, DOCUMENT)

    def test_another_run_at_the_same_time(self, place):
        place.mkdir()
        descriptor = os.open(place, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with pytest.raises(OutputRefused, match="another program writes there now"):
                put(place)
        finally:
            os.close(descriptor)
        assert contents(place) == {}


@settings(max_examples=60)
@given(record=st.one_of(st.binary(max_size=60), st.recursive(
    st.none() | st.booleans() | st.text(max_size=5) | st.integers(),
    lambda inner: st.lists(inner, max_size=2)
    | st.dictionaries(st.sampled_from(["profile", "files", "ek.pem", "x"]), inner, max_size=3),
    max_leaves=6,
).map(lambda value: json.dumps(value).encode())))  # fmt: skip
def test_whatever_stands_in_the_record(tmp_path_factory, record):
    place = tmp_path_factory.getbasetemp() / "any-record"
    place.mkdir(exist_ok=True)
    (place / "ek.pem").write_bytes(b"somebody's")
    (place / folder.RECORD).write_bytes(record)
    with pytest.raises(OutputRefused):
        check_folder(place, ("ek.pem",))
