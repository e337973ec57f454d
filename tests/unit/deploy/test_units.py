"""The units of deploy/systemd as systemd's own tools judge them, without a running systemd."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ca_service.cli.listeners import ENROLMENT, OPERATORS, PUBLICATION
from ca_service.service.server import _OTHER_FILES, GRACE_S

DEPLOY = Path(__file__).parents[3] / "deploy"
UNITS = DEPLOY / "systemd"
SERVICES = sorted(path.name for path in UNITS.glob("*.service"))

MOST_EXPOSED = {"vtpm-ca.service": 14, "vtpm-ca-alert@.service": 14}
"""Tenths of systemd's exposure score that each may have; 5 for all others."""


@pytest.fixture
def units(tmp_path):
    """A copy, to which drop-ins can be added."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    return Path(shutil.copytree(UNITS, tmp_path / "units"))


def exposure(unit: Path, most: int) -> subprocess.CompletedProcess[str]:
    words = ["systemd-analyze", "security", "--offline=true", f"--threshold={most}", "--no-pager", unit]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("service", SERVICES)
def test_little_is_open_to_whom_takes_it_over(units, service):
    done = exposure(units / service, MOST_EXPOSED.get(service, 5))
    assert done.returncode == 0, done.stdout + done.stderr
    assert exposure(units / service, 1).returncode == 1


@pytest.mark.parametrize(
    ("drop_in", "service", "most"),
    [("port-80.conf", "vtpm-ca.service", 20), ("remote-database.conf", "vtpm-ca-backup.service", 14)],
)
def test_drop_ins_open_no_more_than_they_say(units, drop_in, service, most):
    folder = units / (f"{service}.d" if service == "vtpm-ca.service" else "vtpm-ca-.service.d")
    folder.mkdir(exist_ok=True)
    shutil.copy(units / "optional" / drop_in, folder)
    done = exposure(units / service, most)
    assert done.returncode == 0, done.stdout + done.stderr


def settings(unit: str) -> dict[str, str]:
    return dict(re.findall(r"^(\w+)=(.*)$", (UNITS / unit).read_text(), re.MULTILINE))


def test_the_server_may_open_the_files_that_its_listeners_need():
    operators = 2 * OPERATORS.connections
    needed = ENROLMENT.connections + PUBLICATION.connections + operators + _OTHER_FILES
    assert int(settings("vtpm-ca.service")["LimitNOFILE"]) >= needed


def test_the_server_has_the_time_that_it_takes_to_stop():
    assert int(settings("vtpm-ca.service")["TimeoutStopSec"]) > GRACE_S


def test_every_service_alerts_and_every_timer_has_its_service():
    for service in SERVICES:
        alerts = "OnFailure=vtpm-ca-alert@%n.service" in (UNITS / service).read_text()
        assert alerts == (service != "vtpm-ca-alert@.service"), service
    timers = [path.stem for path in UNITS.glob("*.timer")]
    assert len(timers) == 4
    assert {f"{timer}.service" for timer in timers} <= set(SERVICES)


def test_there_is_one_place_for_hardening():
    """The server's own unit has every line of it that the others share, but for what a server has to have."""
    shared = (UNITS / "vtpm-ca-.service.d" / "10-hardening.conf").read_text()
    lines = set(re.findall(r"^\w+=.*$", shared, re.MULTILINE))
    own = set(re.findall(r"^\w+=.*$", (UNITS / "vtpm-ca.service").read_text(), re.MULTILINE))
    assert lines - own == {
        "IPAddressDeny=any",
        "PrivateNetwork=yes",
        "RestrictAddressFamilies=AF_UNIX",
        "TasksMax=64",
    }


def backup(folder: Path, kept: str, program: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """The script with another program in the place of the installed one."""
    script = (DEPLOY / "bin" / "vtpm-ca-backup").read_text().replace("/opt/vtpm-ca/bin/vtpm-ca", program)
    path = tmp_path / "vtpm-ca-backup"
    path.write_text(script)
    environment = {"PATH": "/usr/bin:/bin", "VTPM_CA_BACKUPS": str(folder), "VTPM_CA_BACKUPS_KEPT": kept}
    return subprocess.run(
        ["sh", path], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def folder(tmp_path):
    """Backups of five days, and things beside them that are none."""
    folder = tmp_path / "back ups"
    folder.mkdir()
    for name in (
        *(f"vtpm-ca-2026010{day}T000000Z.sqlite3" for day in range(1, 6)),
        "vtpm-ca-keep.sqlite3",
        "-rf",
    ):
        (folder / name).touch()
    return folder


def test_a_backup_takes_the_place_of_the_oldest(folder, tmp_path):
    program = tmp_path / "program"
    program.write_text('#!/bin/sh\ntouch "$3"\n')
    program.chmod(0o755)
    assert backup(folder, "3", str(program), tmp_path).returncode == 0
    names = sorted(path.name for path in folder.iterdir())
    assert names[:2] == ["-rf", "vtpm-ca-20260104T000000Z.sqlite3"]
    assert names[2] == "vtpm-ca-20260105T000000Z.sqlite3"
    assert re.fullmatch(r"vtpm-ca-\d{8}T\d{6}Z\.sqlite3", names[3])
    assert names[4:] == ["vtpm-ca-keep.sqlite3"]


@pytest.mark.parametrize(
    ("kept", "program"), [("3", "/bin/false"), ("0", "/bin/true"), ("", "/bin/true"), ("x", "/bin/true")]
)
def test_no_backup_goes_unless_there_is_a_new_one(folder, tmp_path, kept, program):
    before = sorted(folder.iterdir())
    assert backup(folder, kept, program, tmp_path).returncode != 0
    assert sorted(folder.iterdir()) == before
