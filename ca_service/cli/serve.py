"""`vtpm-ca serve`: its options. What serves is in `serving`.

To derive the key of a passphrase takes as long as to load all that, and is done meanwhile: a restart is over sooner.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ca_service.cli.loading import collect_as_usual, load
from ca_service.cli.options import (
    DATABASE_VARIABLE,
    PathName,
    bundle_option,
    kds_url_option,
    with_directory,
)
from ca_service.cli.settings import settings_option

if TYPE_CHECKING:
    from ca_service.keys import AuthoritySource


@click.command(short_help="Serve enrolment, publication and operators.")
@click.option(
    "--bind", default="127.0.0.1:8443", show_default=True, metavar="ADDRESS:PORT", help="where to enrol"
)
@click.option(
    "--tls-cert", type=PathName(directory=False), metavar="FILE", help="its certificate chain (PEM)"
)
@click.option("--tls-key", type=PathName(directory=False), metavar="FILE", help="the certificate's key (PEM)")
@click.option(
    "--publish",
    metavar="ADDRESS:PORT",
    help="where certificates and lists are published, by plain HTTP; else where to enrol",
)
@click.option(
    "--operator-bind", metavar="ADDRESS:PORT", help="where operators may come with client certificates, too"
)
@click.option(
    "--operator-cert", type=PathName(directory=False), metavar="FILE", help="its certificate chain (PEM)"
)
@click.option(
    "--operator-key", type=PathName(directory=False), metavar="FILE", help="the certificate's key (PEM)"
)
@click.option(
    "--operator-ca",
    type=PathName(directory=False),
    metavar="FILE",
    help="CA of the operators' certificates (PEM); each of them may do everything",
)
@click.option(
    "--operator-list",
    type=PathName(directory=False),
    metavar="FILE",
    help="only these of them: names, or sha256: and a certificate's digest, one a line",
)
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="processes")
@click.option(
    "--database",
    metavar="URL",
    help=f"of SQLAlchemy, else {DATABASE_VARIABLE} (a URL with a password belongs there), "
    "else the SQLite file in the CA's directory",
)
@bundle_option
@click.option(
    "--kds", is_flag=True, help="get missing VCEKs from AMD's key distribution service into the bundle"
)
@kds_url_option
@settings_option
@with_directory
def serve(
    bind: str,
    tls_cert: Path | None,
    tls_key: Path | None,
    publish: str | None,
    operator_bind: str | None,
    operator_cert: Path | None,
    operator_key: Path | None,
    operator_ca: Path | None,
    operator_list: Path | None,
    workers: int,
    database: str | None,
    bundle: Path | None,
    kds_url: str | None,
    directory: Path,
    *,
    kds: bool,
) -> None:
    """Serve enrolment on --bind, publication there or on --publish, operators on a Unix socket in the CA's directory.

    Without TLS files enrolment is plain HTTP, on loopback only. SIGTERM or Ctrl-C ends the server when the requests at
    work are answered, SIGQUIT at once; SIGHUP has it read its TLS files and the list of operators again.
    """
    with ThreadPoolExecutor(1) as thread:
        opening = thread.submit(_open, directory)
        # While the keys are opened.
        listeners, serving = load("listeners"), load("serving")
        addresses = listeners.Addresses(
            listeners.enrolment_address(bind, tls_cert, tls_key),
            listeners.publication_address(publish),
            listeners.operator_address(
                operator_bind, operator_cert, operator_key, operator_ca, operator_list
            ),
        )
        serving.check_place(directory)
        source = opening.result()
    collect_as_usual()
    serving.run(source, directory, addresses, workers, database, serving.Supply(bundle, kds_url, kds=kds))


def _open(directory: Path) -> "AuthoritySource":
    from ca_service.keys import (
        AuthoritySource,
        find_passphrase,
        find_pin,
        load_authority,
    )

    passphrase, pin = find_passphrase(os.environ), find_pin(os.environ)
    return AuthoritySource(directory, lambda: load_authority(directory, passphrase, pin))
