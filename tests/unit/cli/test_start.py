"""What a command loads before it works, and a server before it answers: by structure, for times depend on machines."""

import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import ca_service

POLICIES = Path(ca_service.__file__).parents[1] / "policies"

NEEDLESS = {
    "alembic": "only `vtpm-ca db upgrade` and a new database need migrations",
    "mako": "comes with alembic",
    "requests": "only a server with --kds asks anybody",
    "urllib3": "comes with requests",
    "sqlalchemy.dialects.postgresql": "only for a PostgreSQL database",
    "psycopg": "the same",
    "pkcs11": "only for keys on a token",
    "pytest": "belongs to the tests",
    "hypothesis": "the same",
    "vtpm.lab": "a server has no use for attacks",
}


def test_a_server_loads_nothing_that_it_does_not_need():
    program = "import sys, ca_service.cli.serving; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"ca_service.store", "ca_service.policy", "flask"} <= loaded
    assert {name: why for name, why in NEEDLESS.items() if name in loaded} == {}


def test_the_options_are_read_before_all_that_is_loaded():
    """The key of the passphrase is derived while the rest is loaded, so little may be loaded before."""
    program = "import sys, ca_service.cli.serve; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    heavy = {
        "ca_service.keys",
        "ca_service.api",
        "ca_service.store",
        "cryptography",
        "flask",
        "sqlalchemy",
        "tpm2_pytss",
    }
    assert heavy & set(done.stdout.split()) == set()


DATABASE = frozenset({"sqlalchemy", "sqlite3", "ca_service.store.database"})
JUDGING = frozenset(
    {"tpm2_pytss", "joserfc", "ca_service.enrollment.judge", "ca_service.policy.document.tables"}
)
SERVING = frozenset({"flask", "werkzeug", "jinja2", "gunicorn", "prometheus_client", "structlog", "rich"})
FETCHING = frozenset({"requests", "urllib3"})
MODELS = frozenset({"pydantic", "pydantic_core"})
CERTIFICATES = frozenset({"cryptography", "asn1crypto"})
RARE = frozenset({"alembic", "mako", "tomlkit", "psycopg", "pkcs11", "ca_service.api", "ca_service.service"})
ALL = DATABASE | JUDGING | SERVING | FETCHING | MODELS | CERTIFICATES | RARE

CA, VTPM = "ca_service.cli", "vtpm.cli"
EK_CHECK = "ca_service.export.ek_check"

COMMANDS = {
    "vtpm-ca --help": (CA, ["--help"], ALL),
    "vtpm-ca --version": (CA, ["--version"], ALL),
    "vtpm-ca serve --help": (CA, ["serve", "--help"], ALL),
    "vtpm-ca policy --help": (CA, ["policy", "--help"], ALL),
    "vtpm-ca decision --help": (CA, ["decision", "--help"], ALL - DATABASE),
    "vtpm --help": (VTPM, ["--help"], ALL | {"vtpm.lab", "vtpm.tpm", "vtpm.volume"}),
    "vtpm boot --help": (VTPM, ["boot", "--help"], ALL - CERTIFICATES | {"asn1crypto", "vtpm.tpm"}),
    "vtpm-ca-ek-check": (EK_CHECK, [], (ALL - CERTIFICATES) | {"click", "ca_service.keys", "ca_service.cli"}),
    "vtpm-ca policy check": (
        CA,
        ["policy", "check", str(POLICIES / "production.toml")],
        ALL - MODELS - CERTIFICATES - {"joserfc", "ca_service.policy.document.tables"} | {"asn1crypto"},
    ),
}
"""Commands that end before they reach a CA, and what they have no use for."""


def loaded_by(package: str, words: list[str], **environment: str) -> set[str]:
    """The modules that are there when a command has ended."""
    program = (
        "import sys, contextlib, io\n"
        f"from {package} import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    main()\n"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **environment},
        timeout=60,
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_loads_nothing_that_it_has_no_use_for(name):
    package, words, needless = COMMANDS[name]
    loaded = loaded_by(package, words)
    assert package in loaded
    assert needless & loaded == set()


@pytest.mark.parametrize("words", [("instance", "list"), ("ca", "list"), ("cert", "list")], ids=" ".join)
def test_a_command_on_the_database_loads_nothing_that_judges(words, empty):
    needless = (ALL - DATABASE - MODELS - CERTIFICATES) | {
        "ca_service.audit.database",
        "ca_service.keys.ceremony",
    }
    loaded = loaded_by(CA, [*words, "--dir", str(empty)])
    assert {"sqlalchemy", "ca_service.cli.direct"} <= loaded
    if words == ("instance", "list"):
        # Whose the key brokers are, the policy says.
        needless -= {"joserfc", "ca_service.policy.document.tables"}
    assert needless & loaded == set()


FOR_COMMANDS = {
    "ca_service.api.contract": "writes the description of the interface",
    "ca_service.audit.rebuild": "verifies or exports a log",
    "ca_service.audit.certificates": "the same",
    "ca_service.audit.database": "the same",
    "ca_service.audit.decisions": "the same",
    "ca_service.audit.export": "the same",
    "ca_service.audit.facts": "the same",
    "ca_service.audit.findings": "the same",
    "ca_service.audit.folder": "the same",
    "ca_service.audit.guide": "the same",
    "ca_service.audit.issuers": "the same",
    "ca_service.audit.layout": "the same",
    "ca_service.audit.policies": "the same",
    "ca_service.audit.revocations": "the same",
    "ca_service.audit.salvage": "the same",
    "ca_service.operations.audit": "the same",
    "ca_service.operations.verification": "the same",
    "ca_service.operations.replay": "judges stored decisions anew",
    "ca_service.operations.forecast": "looks ahead",
    "ca_service.policy.outlook.forecast": "the same",
    "ca_service.operations.setup": "makes a CA",
    "ca_service.keys.ceremony": "the same",
    "ca_service.keys.hierarchy": "the same",
    "ca_service.keys.root_place": "the same",
    "ca_service.keys.log": "the same",
    "ca_service.keys.generations": "prepares issuing CAs",
    "ca_service.keys.rewording": "`vtpm-ca ca passphrase`",
    "ca_service.keys.upgrade": "`vtpm-ca db upgrade`",
    "ca_service.store.upgrading": "the same",
    "ca_service.store.migrations": "the same",
    "ca_service.store.invariants": "`vtpm-ca db check`",
    "ca_service.keys.cryptoki": "loaded when the keys are opened, if they are on a token",
    "ca_service.keys.token": "the same",
    "ca_service.collateral.addition": "`vtpm-ca collateral add`",
    "ca_service.collateral.kds": "loaded at start with --kds",
    "ca_service.policy.wording": "`vtpm-ca policy check`",
    "ca_service.policy.editing": "`vtpm-ca kbs`",
    "ca_service.policy.document.examples": "help for those who write a document",
    "ca_service.policy.document.schema": "the same",
    "ca_service.evidence.snp.description": "`vtpm-ca evidence show`",
    "ca_service.residency.quote": "`vtpm-ca quote verify`",
    "ca_service.residency.octets": "the same",
    "ca_service.residency.signature": "the same",
}
"""Modules of these packages that serve no request."""


def modules_of(package: str) -> list[str]:
    path = Path(ca_service.__file__).parent.joinpath(*package.split(".")[1:])
    return [module.name for module in pkgutil.walk_packages([str(path)], f"{package}.", onerror=None)]


def test_a_server_has_loaded_all_that_a_request_needs():
    """What is missing here is for commands, or said to be loaded when it is asked for."""
    program = "import sys, ca_service.cli.serving as s; s.load_everything(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    missing = {
        name
        for package in (
            "api",
            "audit",
            "collateral",
            "enrollment",
            "evidence",
            "keys",
            "operations",
            "policy",
            "profiles",
            "residency",
            "service",
            "status",
            "store",
        )
        for name in modules_of(f"ca_service.{package}")
        if name not in loaded and not name.startswith(tuple(FOR_COMMANDS))
    }
    assert missing == set()


def test_a_server_has_its_tables_ready():
    program = (
        "import ca_service.cli.serving as s\n"
        "from ca_service.policy.document.tables import Document\n"
        "before = Document.__pydantic_complete__\n"
        "s.load_everything()\n"
        "print(before, Document.__pydantic_complete__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
