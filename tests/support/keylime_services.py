"""keylime's own registrar, verifier and tenant, from its release, each as a process on the loopback.

keylime lives in an environment of its own (`requirements/keylime.txt`, made by `scripts/setup dev`): its versions are
not ours. Configuration files are written here, because its wheel brings none.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import requests
from enrolment_load import free_port
from forked import Forks
from forking import TENANT

BIN = Path(__file__).parents[2] / ".venv-keylime" / "bin"
_START_S, _STOP_S, _TENANT_S = 60, 20, 60

_LOGGING = """\
[loggers]
keys = root
[handlers]
keys = out
[formatters]
keys = plain
[formatter_plain]
format = %(name)s %(levelname)s %(message)s
[logger_root]
level = INFO
handlers = out
[handler_out]
class = StreamHandler
level = INFO
formatter = plain
args = (sys.stderr,)
"""

_CA = """\
[ca]
password = of-these-tests
cert_country = XX
cert_ca_name = keylime test
cert_state = none
cert_locality = none
cert_organization = tests
cert_org_unit = tests
cert_ca_lifetime = 10
cert_lifetime = 10
cert_bits = 2048
cert_crl_dist = http://127.0.0.1:1/crl
"""

_COMMON = """\
version = 2.5
tls_dir = {tls_dir}
server_key = default
server_key_password =
server_cert = default
trusted_client_ca = default
trusted_server_ca = default
client_key = default
client_key_password =
client_cert = default
database_url = sqlite:///{folder}/{name}.sqlite
database_pool_sz_ovfl = 5,10
auto_migrate_db = True
durable_attestation_import =
"""

_VERIFIER = """\
[verifier]
uuid = default
ip = 127.0.0.1
port = {verifier}
registrar_ip = 127.0.0.1
registrar_port = {registrar_tls}
enable_agent_mtls = True
num_workers = 1
max_workers = 1
exponential_backoff = False
retry_interval = 0.2
max_retries = 5
request_timeout = 30
quote_interval = 0.3
max_upload_size = 1000000
measured_boot_policy_name = accept-all
measured_boot_imports = []
measured_boot_evaluate = once
severity_labels = ["info", "notice", "warning", "error", "critical", "alert", "emergency"]
severity_policy = [{{"event_id": ".*", "severity_label": "emergency"}}]
{common}
[revocations]
enabled_revocation_notifications = []
zmq_ip = 127.0.0.1
zmq_port = 1
webhook_url =
"""

_REGISTRAR = """\
[registrar]
ip = 127.0.0.1
port = {registrar}
tls_port = {registrar_tls}
tpm_identity = {identity}
malformed_cert_action = reject
max_upload_size = 1000000
max_workers = 1
{common}
"""

_TENANT = """\
[tenant]
verifier_ip = 127.0.0.1
verifier_port = {verifier}
registrar_ip = 127.0.0.1
registrar_port = {registrar_tls}
tpm_cert_store = {store}
require_ek_cert = True
ek_check_script = {script}
enable_agent_mtls = True
accept_tpm_hash_algs = ["sha512", "sha384", "sha256"]
accept_tpm_encryption_algs = ["ecc", "rsa"]
accept_tpm_signing_algs = ["ecschnorr", "rsassa"]
exponential_backoff = False
retry_interval = 0.2
max_retries = 5
request_timeout = 30
max_payload_size = 1048576
mb_refstate =
{common}
"""


class KeylimeMissing(Exception):
    """The environment of keylime is not there."""


class Keylime:
    """Registrar and verifier of one site, and its tenant; a context manager that ends what it started.

    Args:
        folder: for files and logs.
        store: the folder of trusted issuers, ``tpm_cert_store``.
        script: the EK check script; empty for none.
        identity: the registrar's ``tpm_identity``.
    """

    def __init__(self, folder: Path, store: Path, script: str = "", identity: str = "default") -> None:
        if not BIN.is_dir():
            raise KeylimeMissing("run scripts/setup dev: it makes .venv-keylime")
        self.folder = folder
        self._ports = {"verifier": free_port(), "registrar": free_port(), "registrar_tls": free_port()}
        self._store, self._script, self._identity = store, script, identity
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._forks: Forks | None = None

    @property
    def forks(self) -> Forks:
        """Where tenants are forked; half of what one costs is to load it."""
        if self._forks is None:
            self._forks = Forks(BIN / "python", self.environment())
        return self._forks

    @property
    def trusted_ca(self) -> Path:
        """The CA that the verifier made for TLS among keylime's parts."""
        return self.folder / "cv_ca" / "cacert.crt"

    @property
    def registrar(self) -> str:
        """Where agents register."""
        return f"https://127.0.0.1:{self._ports['registrar_tls']}"

    def log(self, name: str) -> str:
        """What registrar or verifier has logged."""
        return (self.folder / f"{name}.log").read_text()

    def configure(self) -> None:
        """Write the configuration files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # keylime imports GnuPG's module for policies that GnuPG signs; there are none here.
        modules = self.folder / "modules"
        modules.mkdir(exist_ok=True)
        (modules / "gpg.py").touch()
        texts = {"verifier": _VERIFIER, "registrar": _REGISTRAR, "tenant": _TENANT}
        for name, text in texts.items():
            common = _COMMON.format(
                folder=self.folder, name=name, tls_dir="generate" if name == "verifier" else "default"
            )
            (self.folder / f"{name}.conf").write_text(
                text.format(
                    common=common,
                    store=self._store,
                    script=self._script,
                    identity=self._identity,
                    **self._ports,
                )
            )
        (self.folder / "ca.conf").write_text(_CA)
        (self.folder / "logging.conf").write_text(_LOGGING)

    def environment(self, **more: str) -> dict[str, str]:
        """What keylime's programs see."""
        names = ("verifier", "registrar", "tenant", "ca", "logging")
        return {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(self.folder),
            "PYTHONPATH": str(self.folder / "modules"),
            "KEYLIME_DIR": str(self.folder),
            **{f"KEYLIME_{name.upper()}_CONFIG": str(self.folder / f"{name}.conf") for name in names},
            **more,
        }

    def __enter__(self) -> Self:
        self.configure()
        try:
            # One after the other: the verifier makes the certificates of all.
            self._start("verifier", f"https://127.0.0.1:{self._ports['verifier']}")
            self._start("registrar", self.registrar)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self, name: str, url: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            # A session of its own: the first process takes no SIGTERM, its group does.
            process = subprocess.Popen(
                [BIN / f"keylime_{name}"],
                env=self.environment(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._processes[name] = process
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            assert process.poll() is None, self.log(name)
            with contextlib.suppress(OSError, requests.RequestException):
                if self.trusted_ca.exists():
                    requests.get(f"{url}/version", verify=str(self.trusted_ca), timeout=5)
                    return
            time.sleep(0.1)
        raise AssertionError(f"{name} did not start\n{self.log(name)}")

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_S)
            # Workers, and the process that shares memory among them, may outlive the first one.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(_STOP_S)
        self._processes.clear()
        if self._forks is not None:
            self._forks.close()

    def tenant(
        self, command: str, agent: str, *options: str, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Run ``keylime_tenant -c COMMAND -u AGENT``; `more` goes to its environment."""
        return self.forks.run(
            TENANT,
            ("-c", command, "-u", agent, *options),
            env=self.environment(**more),
            cwd=self.folder,
            timeout=_TENANT_S,
        )

    def _verifier(self, method: str, agent: str) -> requests.Response:
        tls = self.trusted_ca.parent
        return requests.request(
            method,
            f"https://127.0.0.1:{self._ports['verifier']}/v2.3/agents/{agent}",
            verify=str(self.trusted_ca),
            cert=(str(tls / "client-cert.crt"), str(tls / "client-private.pem")),
            timeout=30,
        )

    def ask(self, agent: str) -> Mapping[str, object]:
        """What the verifier says of an agent; empty if it does not know it."""
        return dict(self._verifier("GET", agent).json().get("results") or {})

    def forget(self, agent: str) -> None:
        """Have the verifier ask this agent no more; quicker than by the tenant's command."""
        deadline = time.monotonic() + _STOP_S
        while self._verifier("DELETE", agent).status_code != 404:
            assert time.monotonic() < deadline, self.log("verifier")[-4000:]
            time.sleep(0.1)

    def await_attested(self, agent: str, count: int = 2, seconds: float = 30) -> Mapping[str, object]:
        """Wait until the verifier has taken so many quotes; its word for the state of the agent is PASS then."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = self.ask(agent)
            if int(str(found.get("attestation_count") or 0)) >= count:
                return found
            assert found.get("attestation_status") != "FAIL", self.log("verifier")[-4000:]
            time.sleep(0.1)
        raise AssertionError(f"{self.ask(agent)}\n{self.log('verifier')[-4000:]}")
