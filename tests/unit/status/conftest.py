"""A CA that a real ceremony made."""

import os
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from ca_service.keys import CeremonyConfig, load_authority, load_root, run_ceremony

NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="session")
def ca(tmp_path_factory):
    directory = tmp_path_factory.mktemp("crl") / "ca"
    config = CeremonyConfig(mode="simulation", organization="Example", publication_url="http://ca.example")
    run_ceremony(directory, config, b"passphrase", clock=lambda: NOW, entropy=os.urandom)
    return SimpleNamespace(
        directory=directory,
        root=load_root(directory, b"passphrase"),
        ek=load_authority(directory, b"passphrase").issuer("ek"),
        devid=load_authority(directory, b"passphrase").issuer("devid"),
    )
