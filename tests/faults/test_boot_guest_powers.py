"""What a guest may do to its TPM, through the SVSM and with independent clients: no later boot is harmed by it.

And what it may not do: the platform hierarchy, the certificates in NV memory, swtpm's own control channel.
"""

import os
import signal
import socket
import struct
import subprocess

import pytest
from cryptography import x509

pytestmark = pytest.mark.timeout(240)

DENIED = "authorization failure"
HANDLES = ("0x81010001", "0x81020000", "0x81020001")
INDICES = {"ek": "0x01c00002", "iak": "0x01c90100", "idevid": "0x01c90200"}


class Guest:
    """A guest's user with tpm2-tools."""

    def __init__(self, tcti, folder):
        self.folder = folder
        self._environment = {**os.environ, "TPM2TOOLS_TCTI": tcti, "TPM2TOOLS_ENABLE_ERRATA": "0"}

    def attempt(self, tool, *arguments):
        return subprocess.run(
            [f"tpm2_{tool}", *arguments],
            capture_output=True,
            cwd=self.folder,
            env=self._environment,
            timeout=30,
            check=False,
        )

    def do(self, tool, *arguments):
        done = self.attempt(tool, *arguments)
        assert done.returncode == 0, (tool, arguments, done.stderr.decode())
        return done.stdout

    def refused(self, tool, *arguments):
        done = self.attempt(tool, *arguments)
        assert done.returncode != 0, (tool, arguments)
        return done.stderr.decode()

    def certificates(self):
        """The certificates in NV memory, by role."""
        found = {role: self.do("nvread", "-C", index, index) for role, index in INDICES.items()}
        for der in found.values():
            x509.load_der_x509_certificate(der)
        return found


def endorsement_auth(guest):
    guest.do("changeauth", "-c", "endorsement", "guest-secret")


def owner_auth(guest):
    guest.do("changeauth", "-c", "owner", "guest-secret")
    guest.refused("nvdefine", "-C", "o", "-s", "8", "0x01500001")


def lockout_auth(guest):
    guest.do("changeauth", "-c", "lockout", "guest-secret")


def handles_evicted(guest):
    for handle in HANDLES:
        guest.do("evictcontrol", "-C", "o", "-c", handle)


def handles_replaced(guest):
    handles_evicted(guest)
    for handle in HANDLES:
        guest.do("createprimary", "-C", "o", "-G", "ecc", "-c", "other.ctx")
        guest.do("evictcontrol", "-C", "o", "-c", "other.ctx", handle)
        guest.do("flushcontext", "-t")


def handles_replaced_for_good(guest):
    handles_replaced(guest)
    owner_auth(guest)


def lockout(guest):
    guest.do("createprimary", "-C", "o", "-c", "primary.ctx", "-p", "right")
    guest.do("dictionarylockout", "-s", "-n", "1", "-t", "100000", "-l", "100000")
    guest.refused("create", "-C", "primary.ctx", "-P", "wrong", "-u", "u", "-r", "r")
    assert "lockout" in guest.refused("create", "-C", "primary.ctx", "-P", "right", "-u", "u", "-r", "r")


def clear(guest):
    guest.do("clear", "-c", "l")


def clear_and_endorsement_auth(guest):
    clear(guest)
    endorsement_auth(guest)


def endorsement_hierarchy_disabled(guest):
    guest.do("hierarchycontrol", "-C", "e", "ehEnable", "clear")


def everything(guest):
    handles_replaced(guest)
    lockout(guest)
    endorsement_auth(guest)
    owner_auth(guest)


POWERS = (
    endorsement_auth,
    owner_auth,
    lockout_auth,
    handles_evicted,
    handles_replaced,
    handles_replaced_for_good,
    lockout,
    clear,
    clear_and_endorsement_auth,
    endorsement_hierarchy_disabled,
    everything,
)
SHORT = (endorsement_auth, handles_replaced, lockout, clear, everything)


@pytest.mark.parametrize(
    "power", [power if power in SHORT else pytest.param(power, marks=pytest.mark.slow) for power in POWERS]
)
def test_the_next_boot_and_its_evidence_are_unharmed(parties, tmp_path, power):
    machine = parties.new_machine()
    with parties.held(machine) as first:
        guest = Guest(first.tcti, tmp_path)
        issued = guest.certificates()
        power(guest)
        assert guest.certificates() == issued
    decisions = parties.rows("SELECT count(*) FROM decisions WHERE resource = ? AND admitted = 1", machine[1])
    with parties.held(machine) as second:
        assert second.steps["tpm"]["origin"] == "loaded"
        assert second.steps["tpm"]["ek_name"] == first.steps["tpm"]["ek_name"]
        assert Guest(second.tcti, tmp_path).certificates() == issued
    later = parties.rows("SELECT count(*) FROM decisions WHERE resource = ? AND admitted = 1", machine[1])
    assert later > decisions, "the CA judged this boot's evidence"
    assert parties.check_whole(machine, second.told) == issued
    parties.check_ledger()


def test_a_guest_that_was_there_before_the_ca_does_not_hinder_the_certification(parties, tmp_path):
    """Started with --no-ca: endorsementAuth is taken and the EK certificate's index is occupied when the CA comes."""
    machine = parties.new_machine()
    running = parties.power_on(machine, "--hold", "--no-ca")
    running.until("guest")
    guest = Guest(running.tcti, tmp_path)
    guest.do("nvdefine", "-C", "o", "-s", "64", "-a", "ownerwrite|ownerread|authread", INDICES["ek"])
    everything(guest)
    running.process.send_signal(signal.SIGTERM)
    told = running.end()
    assert told.code == 0
    certified = parties.good_boot(machine)
    assert certified.ek == told.ek
    parties.check_whole(machine, certified)
    parties.check_ledger()


def test_what_a_guest_may_not_do(parties, tmp_path):
    machine = parties.new_machine()
    with parties.held(machine) as running:
        guest = Guest(running.tcti, tmp_path)
        issued = guest.certificates()
        (tmp_path / "forged").write_bytes(b"forged")
        for index in INDICES.values():
            assert "NV access" in guest.refused("nvundefine", "-C", "o", index)
            assert "locked" in guest.refused("nvwrite", "-C", "o", "-i", "forged", index)
            assert "auth" in guest.refused("nvwrite", "-C", index, "-i", "forged", index)
            for tool in (("nvundefine",), ("nvwrite", "-i", "forged")):
                assert DENIED in guest.refused(*tool, "-C", "p", index)
        for command in (
            ("changeauth", "-c", "platform", "mine"),
            ("clear", "-c", "p"),
            ("clearcontrol", "-C", "p", "s"),
            ("changeeps",),
            ("changepps",),
            ("hierarchycontrol", "-C", "p", "phEnable", "clear"),
            ("createprimary", "-C", "p", "-c", "platform.ctx"),
            ("nvdefine", "-C", "p", "-s", "8", "0x01400001"),
        ):
            assert DENIED in guest.refused(*command), command
        assert guest.certificates() == issued
    assert parties.check_whole(machine, running.told) == issued


CONTROL = {
    "INIT": (2, struct.pack(">I", 0)),
    "INIT, volatile state deleted": (2, struct.pack(">I", 1)),
    "SHUTDOWN": (3, b""),
    "GET_TPMESTABLISHED": (4, b""),
    "SET_LOCALITY 1": (5, b"\1"),
    "SET_LOCALITY 2": (5, b"\2"),
    "SET_LOCALITY 3": (5, b"\3"),
    "SET_LOCALITY 4": (5, b"\4"),
    "HASH_START": (6, b""),
    "HASH_DATA": (7, struct.pack(">I", 4) + b"data"),
    "HASH_END": (8, b""),
    "CANCEL_TPM_CMD": (9, b""),
    "STORE_VOLATILE": (10, b""),
    "RESET_TPMESTABLISHED": (11, b"\0"),
    "GET_STATEBLOB permanent": (12, struct.pack(">III", 0, 1, 0)),
    "GET_STATEBLOB volatile": (12, struct.pack(">III", 0, 2, 0)),
    "SET_STATEBLOB": (13, struct.pack(">III", 0, 1, 4) + b"blob"),
    "STOP": (14, b""),
    "GET_CONFIG": (15, b""),
    "SET_DATAFD": (16, b""),
    "SET_BUFFERSIZE": (17, struct.pack(">I", 0)),
    "GET_INFO": (18, struct.pack(">QII", 1, 0, 0)),
    "LOCK_STORAGE": (19, struct.pack(">I", 0)),
    "none": (0, b""),
    "one that does not exist": (0xFFFFFFFF, b""),
}


def ask(port, message):
    """All that comes back for a message, until the other side closes or two seconds of silence."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(message)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while piece := connection.recv(65536):
            received += piece
        return received


def test_the_control_channel_is_not_swtpms(parties, tmp_path):
    with parties.held(parties.new_machine()) as running:
        guest = Guest(running.tcti, tmp_path)
        issued = guest.certificates()
        control = running.port + 1
        capability = ask(control, struct.pack(">I", 1))
        assert capability[:4] == bytes(4)
        assert len(capability) == 8
        assert ask(control, struct.pack(">IB", 5, 0)) == bytes(4)
        for what, (number, payload) in CONTROL.items():
            answer = ask(control, struct.pack(">I", number) + payload)
            assert len(answer) == 4, (what, answer[:64])
            assert answer != bytes(4), what
        # A refused command takes what follows with it, a permitted one does not permit the next.
        sneaked = ask(control, struct.pack(">IB", 5, 0) + struct.pack(">IIII", 12, 0, 1, 0))
        assert len(sneaked) == 8
        assert sneaked[4:] != bytes(4)
        # swtpm's vendor command for the locality, on the data channel.
        locality = ask(running.port, struct.pack(">HIIB", 0x00C1, 11, 0x20001000, 4))
        assert locality[6:10] != bytes(4)
        # The TPM is the same as before: powered, not stopped, platform authorisation not emptied.
        guest.do("getrandom", "8")
        guest.refused("clear", "-c", "p")
        assert guest.certificates() == issued


def test_a_change_that_the_guest_saw_survives_the_loss_of_power(parties, boots, tmp_path):
    machine = parties.new_machine()
    running = parties.power_on(machine, "--hold")
    running.until("guest")
    guest = Guest(running.tcti, tmp_path)
    (tmp_path / "note").write_bytes(b"remember")
    guest.do("nvdefine", "-C", "o", "-s", "8", "0x01500001")
    guest.do("nvwrite", "-C", "o", "-i", "note", "0x01500001")
    os.kill(boots.child(running.pid, "vtpm.svsm"), signal.SIGKILL)
    told = running.end()
    assert told.code == 3
    assert "SIGKILL" in told.err
    with parties.held(machine) as again:
        assert again.steps["tpm"]["ek_name"] == told.ek
        assert Guest(again.tcti, tmp_path).do("nvread", "-C", "o", "0x01500001") == b"remember"
    parties.check_ledger()
