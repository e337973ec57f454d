"""docs/operations.md from its first line to its last, on a machine with a real systemd, a key broker and guests."""

import os
import re
import subprocess
from collections.abc import Callable

import pytest
import systemd_machine
from operations_document import BLOCKS

CA = "/var/lib/vtpm-ca/ca"
FOLDER = "/opt/source"
SHELL = BLOCKS["shell"].commands

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(systemd_machine.missing()), reason=systemd_machine.missing()),
]


class Story:
    """What happens between the commands of the document: the operator edits files, machines come, things break."""

    def __init__(self, machine: systemd_machine.Machine) -> None:
        self.machine = machine
        self.must = machine.must
        self.passphrase = ""
        self.revoked: list[str] = []
        self.broker: subprocess.Popen[str] | None = None

    def before_configuration(self) -> None:
        self.must("mkdir -p /media/safe && chmod 755 /media/safe")

    def after_passphrase(self) -> None:
        """People have written it down."""
        read = "systemd-creds decrypt --name=vtpm-ca-passphrase /etc/vtpm-ca/passphrase.cred - 2>/dev/null"
        self.passphrase = self.must(read)
        assert len(self.passphrase) == 32
        assert self.must("stat -c %a /etc/vtpm-ca/passphrase.cred").strip() == "600"

    def after_configuration(self) -> None:
        """A production CA has no guests in a test."""
        edit = 's/^mode = .*/mode = "simulation"/; s/vtpm-ca.example.org/127.0.0.1:8080/'
        self.must(f"sed -i '{edit}' /etc/vtpm-ca/ceremony.toml")

    def after_ceremony(self) -> None:
        assert self.must(f"ls -A {CA}/offline") == ""

    def before_tls(self) -> None:
        self.must(
            "cp /etc/vtpm-ca/serve.toml /root/serve.toml; openssl req -x509 -newkey ec "
            "-pkeyopt ec_paramgen_curve:P-256 -noenc -days 30 -subj /CN=ca -keyout new.key -out new.pem 2>/dev/null"
        )

    def after_renew(self) -> None:
        """The simulated guests enrol on loopback, where it takes no TLS."""
        self.must(
            "curl --silent --insecure --fail --request POST https://127.0.0.1:8443/v1/nonces;"
            "cp /root/serve.toml /etc/vtpm-ca/serve.toml; systemctl restart vtpm-ca"
        )

    def before_policy(self) -> None:
        self.must(
            "vtpm kbs declare /root/kbs default/vtpm/guest-a; vtpm kbs declare /root/kbs default/vtpm/guest-b"
        )
        self.must(
            "cat policies/simulation.toml > policy.toml; vtpm kbs key /root/kbs --policy --id org-kbs >> policy.toml;"
            "vtpm measure --policy >> policy.toml"
        )
        self.broker = self.machine.start(f"cd {FOLDER}; {SHELL}exec vtpm kbs serve /root/kbs", "listening on")

    def before_look(self) -> None:
        self.must(
            "systemctl stop vtpm-ca; cp /root/serve.toml /etc/vtpm-ca/serve.toml; systemctl start vtpm-ca"
        )
        for guest in ("guest-a", "guest-b"):
            self.boot(guest)

    def before_renew(self) -> None:
        self.must("sed -e 's/^#\\(tls-.*\\)/\\1/' -i /etc/vtpm-ca/serve.toml; systemctl restart vtpm-ca")

    def before_change(self) -> None:
        self.must("vtpm kbs key /root/second --policy --id second-kbs >> policy.toml")

    def after_revoke(self) -> None:
        shown = self.must("vtpm-ca cert list --all --json")
        self.revoked = re.findall(r'"serial": "([0-9a-f]+)",(?:[^}]*)"state": "revoked"', shown)
        assert len(self.revoked) >= 3, shown

    def after_rollover(self) -> None:
        self.boot("guest-b")

    def after_upgraded(self) -> None:
        self.boot("guest-b")

    def before_damaged(self) -> None:
        self.must("systemctl stop vtpm-ca")
        self.must(f"dd if=/dev/zero of={CA}/ca.sqlite3 bs=4096 seek=1 count=60 conv=notrunc status=none")

    def after_damaged(self) -> None:
        self.boot("guest-b")
        self.still_revoked()

    def before_lost(self) -> None:
        """After the last backup something is revoked; a relying party fetches the lists; then nothing is left."""
        self.must("systemctl start vtpm-ca-backup")
        serial = re.findall(r'"serial": "([0-9a-f]+)"', self.must("vtpm-ca cert list --json"))[0]
        self.must(f"vtpm-ca cert revoke {serial} --yes")
        self.revoked.append(serial)
        self.must(
            'mkdir -p /srv/lists; for skid in $(vtpm-ca ca list --json | grep -oP \'"skid": "\\K[0-9a-f]+\'); do '
            "for number in $(seq 0 31); do curl --silent --fail --output /srv/lists/$skid-$number.crl "
            "http://127.0.0.1:8080/crl/$skid/$number.crl || true; done; done; rm -f /srv/lists/"
            '$(vtpm-ca ca list --json | grep -oP -m1 \'"skid": "\\K[0-9a-f]+\')-0.crl; ls /srv/lists | wc -l'
        )
        self.must(f"systemctl stop vtpm-ca; rm -rf {CA} /etc/vtpm-ca/passphrase.cred")
        self.machine.put("/root/passphrase", self.passphrase, mode="0600")

    def after_lost(self) -> None:
        self.still_revoked()
        self.must("vtpm kbs declare /root/kbs default/vtpm/guest-c")
        self.boot("guest-c")

    def after_failover(self) -> None:
        self.boot("guest-c")
        self.must("vtpm-ca audit verify; vtpm-ca db check")
        self.still_revoked()

    def boot(self, guest: str) -> None:
        """A guest boots and has its certificates."""
        shown = self.must(f"vtpm boot /root/{guest} --resource default/vtpm/{guest}")
        assert re.search(r"^ +enrol ", shown, re.MULTILINE), shown

    def still_revoked(self) -> None:
        for serial in self.revoked:
            assert '"state": "revoked"' in self.must(f"vtpm-ca cert show {serial} --json")


def call(story: Story, when: str, name: str) -> None:
    method: Callable[[], None] | None = getattr(story, f"{when}_{name}", None)
    if method:
        method()


class InShell:
    """The machine as an operator sees it: in the release's folder, with the shell's settings of the document."""

    def __init__(self, machine: systemd_machine.Machine) -> None:
        self.put, self.start = machine.put, machine.start
        self.machine = machine

    def run(self, script: str) -> systemd_machine.Done:
        return self.machine.run(f"cd {FOLDER}\n{SHELL}{script}", limit=300)

    def must(self, script: str) -> str:
        done = self.run(script)
        assert done.code == 0, f"{script}\n{done.shown}"
        return done.shown


def test_from_the_ceremony_to_the_last_disaster(tmp_path):
    machine = systemd_machine.Machine(tmp_path / "log")
    story = Story(InShell(machine))
    try:
        machine.place_program()
        machine.must("/opt/source/deploy/install")
        told = [name for name in BLOCKS if name not in ("install", "shell")]
        for name in told:
            call(story, "before", name)
            done = story.machine.run(BLOCKS[name].commands)
            assert done.code == 0, f"{name}\n{done.shown}\n{machine.run('journalctl -n 50').shown}"
            assert BLOCKS[name].missing_in(done.shown) == "", f"{name}\n{done.shown}"
            call(story, "after", name)
        methods = {name.split("_", 1)[1] for name in vars(Story) if name.startswith(("before_", "after_"))}
        assert methods <= set(told)
    finally:
        machine.close()
        if story.broker is not None:
            story.broker.communicate(timeout=60)


def test_install(tmp_path):
    """With the network of this machine, and pip as it is told here to work."""
    machine = systemd_machine.Machine(tmp_path / "log", network=True)
    try:
        for line in machine.must("cat /etc/os-release").splitlines():
            if line.startswith("VERSION_CODENAME=") and line != "VERSION_CODENAME=bookworm":
                pytest.skip("the document is for Debian 12")
        settings = "".join(
            f"export {name}='{value}'\n"
            for name, value in os.environ.items()
            if name.startswith(("PIP_", "http"))
        )
        block = BLOCKS["install"]
        done = machine.run(f"cd /opt/source\n{settings}{block.commands}", limit=900)
        assert done.code == 0, done.shown
        assert block.missing_in(done.shown) == "", done.shown
        assert machine.run("systemctl cat vtpm-ca.service vtpm-ca-backup.timer").code == 0
        assert machine.run("cd /; /opt/vtpm-ca/bin/vtpm-ca health-check --list").code == 0
    finally:
        machine.close()
