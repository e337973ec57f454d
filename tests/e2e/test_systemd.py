"""The units of deploy/ under a real systemd: they start, reload, stop and alert with all their restrictions."""

import json
import re

import pytest
import systemd_machine

PASSPHRASE = "correct-horse-battery-staple"
CREDENTIAL = (
    "umask 077;"
    "printf %s '{}' | systemd-creds encrypt --name=vtpm-ca-passphrase - /etc/vtpm-ca/passphrase.cred"
)
CA = "/var/lib/vtpm-ca/ca"

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(systemd_machine.missing()), reason=systemd_machine.missing()),
]


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """A machine with everything installed and a simulation CA."""
    machine = systemd_machine.Machine(tmp_path_factory.mktemp("machine") / "log")
    try:
        machine.place_program()
        machine.must("/opt/source/deploy/install")
        machine.must(CREDENTIAL.format(PASSPHRASE))
        machine.must(f"vtpm-ca-admin init {CA} --config /opt/source/policies/ceremony-simulation.toml")
        yield machine
    finally:
        machine.close()


@pytest.fixture
def running(machine):
    """The same, and its server runs."""
    machine.must("systemctl reset-failed; systemctl start vtpm-ca")
    return machine


def of_unit(machine, unit: str, *names: str) -> list[str]:
    """Properties of a unit, in this order."""
    shown = machine.must(f"systemctl show {' '.join(f'-p {name}' for name in names)} {unit}")
    found = dict(line.split("=", 1) for line in shown.splitlines())
    return [found[name] for name in names]


def logged(machine, unit: str) -> str:
    return machine.must(f"journalctl --sync; journalctl --output=cat --unit={unit}")


def test_systemd_takes_every_unit_as_it_is(machine):
    """It complains of what it does not know or cannot find, and goes on; here that is a fault."""
    units = "/etc/systemd/system/vtpm-ca*.service /etc/systemd/system/vtpm-ca*.timer"
    assert machine.must(f"systemd-analyze verify --man=no {units} 2>&1").strip() == ""


def test_only_who_tells_people_has_the_network(machine):
    units = [f"vtpm-ca-{name}.service" for name in ("backup", "health", "audit", "export")]
    assert [of_unit(machine, unit, "PrivateNetwork", "User") for unit in units] == [["yes", "vtpm-ca"]] * 4
    assert of_unit(machine, "vtpm-ca-alert@x.service", "PrivateNetwork", "User") == ["no", "vtpm-ca"]


def test_an_installation_again_changes_no_setting(machine):
    machine.put("/etc/vtpm-ca/alert", "#!/bin/sh\necho mine\n", mode="0755")
    machine.must("/opt/source/deploy/install; /opt/source/deploy/install")
    assert "mine" in machine.must("cat /etc/vtpm-ca/alert")
    machine.must("rm /etc/vtpm-ca/alert; /opt/source/deploy/install; test -x /etc/vtpm-ca/alert")


def test_the_server_answers_when_systemd_calls_it_started(running):
    running.must("systemctl restart vtpm-ca; curl --silent --show-error --fail http://127.0.0.1:8080/readyz")
    (pid,) = of_unit(running, "vtpm-ca", "MainPID")
    status = dict(re.findall(r"^(\w+):\s*(.*)$", running.must(f"cat /proc/{pid}/status"), re.MULTILINE))
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert {status[name] for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert "0" not in status["Uid"].split()
    assert re.search(r"^Max open files +4096 ", running.must(f"cat /proc/{pid}/limits"), re.MULTILINE)
    # What the process could reach: its own folder, and nothing else to write to.
    inside = f"nsenter --target {pid} --mount --wdns=/"
    assert running.run(f"{inside} touch {CA}/run/x").code == 0
    for path in ("/usr/x", "/etc/vtpm-ca/x", "/var/x", "/home"):
        assert running.run(f"{inside} touch {path}/x").code != 0, path


def test_secrets_are_in_no_file_and_no_log(running):
    (pid,) = of_unit(running, "vtpm-ca", "MainPID")
    places = f"/proc/{pid}/environ /proc/{pid}/cmdline {CA} /etc /var/lib /var/log /run/log"
    assert running.run(f"grep -rls {PASSPHRASE} {places}").shown == ""
    assert PASSPHRASE not in running.must("journalctl --sync; journalctl --output=json")
    assert running.must("stat -c %a:%U /etc/vtpm-ca/passphrase.cred").strip() == "600:root"


def test_killed_it_comes_back_and_told_to_stop_it_stays_away(running):
    before = of_unit(running, "vtpm-ca", "MainPID", "NRestarts")
    running.must("systemctl kill --kill-who=main --signal=KILL vtpm-ca")
    running.must(
        "until [ $(systemctl show -P NRestarts vtpm-ca) -gt " + before[1] + " ]; do sleep 0.1; done;"
        "until systemctl is-active --quiet vtpm-ca; do sleep 0.1; done;"
        "curl --silent --fail http://127.0.0.1:8080/readyz"
    )
    running.must("systemctl stop vtpm-ca")
    assert of_unit(running, "vtpm-ca", "ActiveState", "Result") == ["inactive", "success"]


def test_a_reload_keeps_the_process(running):
    (before,) = of_unit(running, "vtpm-ca", "MainPID")
    running.must("systemctl reload vtpm-ca")
    assert of_unit(running, "vtpm-ca", "MainPID", "ActiveState") == [before, "active"]
    running.must(
        "curl --silent --fail --retry 20 --retry-all-errors --retry-delay 1 http://127.0.0.1:8080/readyz"
    )


def test_a_wrong_setting_is_said_once_and_somebody_is_told(machine):
    machine.must("systemctl stop vtpm-ca; cp /etc/vtpm-ca/serve.toml /tmp/serve.toml")
    machine.must("echo 'wokers = 2' >> /etc/vtpm-ca/serve.toml")
    try:
        assert machine.run("systemctl start vtpm-ca").code == 1
        assert of_unit(machine, "vtpm-ca", "ActiveState", "ExecMainStatus", "NRestarts") == [
            "failed",
            "2",
            "0",
        ]
        assert "'wokers' is no setting" in logged(machine, "vtpm-ca")
        machine.must(
            "until journalctl --sync && journalctl --identifier=vtpm-ca-alert --grep='^vtpm-ca.service has failed';"
            "do sleep 0.1; done"
        )
    finally:
        machine.must("mv /tmp/serve.toml /etc/vtpm-ca/serve.toml; systemctl reset-failed")


@pytest.mark.slow
def test_what_the_timers_start(running):
    """Backup and export, with the server and without it; a check of health that fails tells somebody."""
    running.must("systemctl start vtpm-ca-backup vtpm-ca-export")
    # Whoever runs keylime here reads it.
    running.must("runuser -u nobody -- test -s /var/lib/vtpm-ca-export/tpm_cert_store/*-ek-*.pem")
    assert running.run("systemctl start vtpm-ca-health").code == 1
    assert "no policy is in force" in logged(running, "vtpm-ca-health")
    running.must("systemctl stop vtpm-ca; rm -f /var/backups/vtpm-ca/*; systemctl start vtpm-ca-backup")
    (backup,) = running.must("ls /var/backups/vtpm-ca").split()
    found = json.loads(
        running.must(f"vtpm-ca-admin db restore /var/backups/vtpm-ca/{backup} --json", limit=120)
    )
    assert found["done"] is False
    modes = running.must(f"stat -c %a:%U /var/backups/vtpm-ca /var/backups/vtpm-ca/{backup} {CA}").split()
    assert modes == ["700:vtpm-ca", "600:vtpm-ca", "700:vtpm-ca"]
