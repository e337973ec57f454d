"""What a server loads before it answers: by structure, since times depend on the machine."""

import subprocess
import sys

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
