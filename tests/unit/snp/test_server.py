import base64
import json
import socket
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtpm.snp import Platform, PspError, PspUnavailableError, launch_digest
from vtpm.snp.server import PspClient, PspServer, main
from vtpm.wire.aproxy import frame
from vtpm.wire.report import Report

PLATFORM = Platform.made(b"\x21" * 32)
PAGES = [(0x1000 * i, bytes([i % 251]) * 4096) for i in range(300)] + [(0x40000000, b"\xff" * 4096)]


@pytest.fixture
def client():
    ours, theirs = socket.socketpair()
    server = threading.Thread(target=PspServer(PLATFORM, theirs).serve)
    server.start()
    with PspClient(ours, timeout_s=20) as client:
        yield client
    server.join(20)
    theirs.close()
    assert not server.is_alive()


def test_launch_and_report(client):
    measurement = client.launch(PAGES, policy=0x30000, host_data=b"\x01" * 32)
    assert measurement == launch_digest(PAGES)
    report = Report.parse(client.report(b"\x02" * 64))
    assert (report.measurement, report.vmpl, report.host_data) == (measurement, 0, b"\x01" * 32)
    assert Report.parse(client.report(b"\x02" * 64, 3)).vmpl == 3
    assert PLATFORM.vcek_certificate in client.cert_table()


def test_pages_in_another_order_measure_differently(client):
    assert client.launch(PAGES[::-1]) == launch_digest(PAGES[::-1]) != launch_digest(PAGES)


def test_a_vm_is_launched_once(client):
    measurement = client.launch(PAGES[:1])
    with pytest.raises(PspError, match="already"):
        client.launch(PAGES[:2])
    for command in ({"command": "launch-update", "gpa": 0, "pages": ""}, {"command": "launch-finish"}):
        with pytest.raises(PspError, match="no launch"):
            client._call(command)
    assert Report.parse(client.report(bytes(64))).measurement == measurement


def test_nothing_before_the_launch(client):
    for call in (lambda: client.report(bytes(64)), client.cert_table):
        with pytest.raises(PspError, match="has not been launched"):
            call()


@pytest.mark.parametrize("report_data", [b"", bytes(63), bytes(65)])
def test_refusals_leave_the_connection_usable(client, report_data):
    client.launch(PAGES[:1])
    with pytest.raises(PspError, match="64 bytes"):
        client.report(report_data)
    with pytest.raises(PspError, match="vmpl"):
        client.report(bytes(64), 4)
    assert len(client.report(bytes(64))) == 1184


def test_malformed_launch(client):
    with pytest.raises(PspError, match="fit 64 bits"):
        client.launch(PAGES, policy=1 << 64)
    with pytest.raises(PspError, match="4096 bytes"):
        client.launch([(0, b"short")])


def test_policy_that_the_firmware_refuses(client):
    with pytest.raises(PspError, match="bit 17"):
        client.launch(PAGES[:1], policy=0)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"{}",
        b'{"command":"reset"}',
        b'{"command":"report"}',
        b'{"command":"certificates","more":1}',
        b'{"command":"launch-update","gpa":0,"pages":"AAAA"}',
        b'{"command":"launch-start","policy":"00","host_data":""}',
    ],
)
def test_every_malformed_command_is_answered_with_an_error(payload):
    assert set(PspServer(PLATFORM, None).answer(payload)) == {"error"}


def test_pages_that_are_no_whole_pages():
    server = PspServer(PLATFORM, None)
    start = {"command": "launch-start", "policy": "0000000000030000", "host_data": "A" * 43 + "="}
    assert server.answer(json.dumps(start).encode()) == {}
    pages = base64.b64encode(bytes(5000)).decode()
    answer = server.answer(json.dumps({"command": "launch-update", "gpa": 0, "pages": pages}).encode())
    assert "4096 bytes" in answer["error"]


@given(st.binary(max_size=200))
def test_answer_never_raises(payload):
    assert "error" in PspServer(PLATFORM, None).answer(payload)


def answering(*answers):
    """A client whose processor answers with these bytes and then closes."""
    ours, theirs = socket.socketpair()
    for answer in answers:
        theirs.sendall(answer)
    theirs.shutdown(socket.SHUT_WR)
    return PspClient(ours, timeout_s=5), theirs


@pytest.mark.parametrize(
    ("answers", "match"),
    [
        ((), "gone away"),
        ((b"\0\0\0",), "gone away"),
        ((frame(b"{}")[:-1],), "gone away"),
        ((b"\xff" * 8,), "malformed"),
        ((frame(b"nonsense"),), "malformed"),
        ((frame(b"[]"),), "malformed"),
        ((frame(b"{}"),), "malformed"),
        ((frame(b'{"report":"AA"}'),), "malformed"),
        ((frame(b'{"report":"AAAA","more":1}'),), "malformed"),
        ((frame(b'{"error":1}'),), "malformed"),
    ],
)
def test_processor_that_answers_nonsense(answers, match):
    client, theirs = answering(*answers)
    with client, theirs, pytest.raises(PspUnavailableError, match=match):
        client.report(bytes(64))


def test_processor_that_is_gone():
    ours, theirs = socket.socketpair()
    theirs.close()
    with PspClient(ours) as client, pytest.raises(PspUnavailableError):
        client.report(bytes(64))


def test_processor_that_does_not_answer():
    ours, theirs = socket.socketpair()
    with theirs, PspClient(ours, timeout_s=0.05) as client, pytest.raises(PspUnavailableError):
        client.report(bytes(64))


def test_server_stops_at_what_is_no_frame():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"\xff" * 8)
        PspServer(PLATFORM, theirs).serve()


@pytest.mark.parametrize(
    ("options", "cpuid", "version"),
    [((), (0x19, 1, 1), 3), (("--product", "Turin", "--report-version", "5"), (0x1A, 2, 1), 5)],
)
def test_process_of_its_own(tmp_path, options, cpuid, version):
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "vtpm.snp.server",
                "--platform",
                tmp_path / "p",
                "--fd",
                str(theirs.fileno()),
                *options,
            ],
            pass_fds=[theirs.fileno()],
            stderr=subprocess.PIPE,
        )
    with PspClient(ours) as client:
        measurement = client.launch(PAGES)
        report = Report.parse(client.report(bytes(64)))
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, b"")
    assert report.measurement == measurement == launch_digest(PAGES)
    assert report.chip_id == Platform.load(tmp_path / "p").chip_id
    assert (report.cpuid, report.version) == (cpuid, version)


def test_process_with_a_damaged_platform(tmp_path, capsys):
    (tmp_path / "platform.json").write_text("{")
    assert main(["--platform", str(tmp_path), "--fd", "0"]) == 2
    assert "damaged" in capsys.readouterr().err


def test_process_asked_for_another_platform_than_there_is(tmp_path, capsys):
    Platform.create(tmp_path)
    assert main(["--platform", str(tmp_path), "--fd", "0", "--product", "Genoa"]) == 2
    assert "Milan with report version 3" in capsys.readouterr().err


@pytest.mark.parametrize("options", [("--product", "Rome"), ("--report-version", "6")])
def test_process_asked_for_what_does_not_exist(tmp_path, capsys, options):
    with pytest.raises(SystemExit) as stopped:
        main(["--platform", str(tmp_path), "--fd", "0", *options])
    assert stopped.value.code == 2
    assert "invalid" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_process_without_its_socket(tmp_path, capsys):
    Platform.create(tmp_path)
    assert main(["--platform", str(tmp_path), "--fd", "9999"]) == 2
    assert "socket" in capsys.readouterr().err
