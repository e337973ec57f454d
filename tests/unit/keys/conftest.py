"""A CA that a real ceremony made, once; tests that change it take a copy."""

import contextlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ca_service.keys import CeremonyConfig, Sealer, run_ceremony
from ca_service.keys.cryptoki import module

NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)
PASSPHRASE = b"correct horse battery staple"
CONFIG = """
mode = "simulation"
organization = "Example Organisation"
publication_url = "http://127.0.0.1:8443"
"""


@contextlib.contextmanager
def cheap_sealing():
    """A quarter of what sealing costs elsewhere; `test_sealed` looks at that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(Sealer.__init__.__kwdefaults__, "log2_n", 14)
        yield


@pytest.fixture
def cheap():
    with cheap_sealing():
        yield


@pytest.fixture(scope="session")
def config():
    return CeremonyConfig.from_toml(CONFIG)


@pytest.fixture(scope="session")
def perform():
    def run(directory, config, **changes):
        values = {"clock": lambda: NOW, "entropy": os.urandom}
        with cheap_sealing():
            return run_ceremony(directory, config, PASSPHRASE, **(values | changes))

    return run


@pytest.fixture(scope="session")
def pristine(tmp_path_factory, config, perform):
    directory = tmp_path_factory.mktemp("ca") / "simulation"
    perform(directory, config)
    return directory


@pytest.fixture
def ca(pristine, tmp_path):
    """A copy that a test may spoil."""
    return Path(shutil.copytree(pristine, tmp_path / "ca", copy_function=shutil.copy2))


@dataclass(frozen=True)
class SoftHsm:
    """A real token in software, in a folder of its own; `folder` is what one would unplug."""

    folder: Path
    module: str = "/usr/lib/softhsm/libsofthsm2.so"
    pin: bytes = b"a pin of the token"

    def new_token(self, label: str, **environ: str) -> str:
        command = ["softhsm2-util", "--init-token", "--free", "--label", label]
        command += ["--pin", self.pin.decode(), "--so-pin", "the officer's pin"]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, **environ})
        self.forget()
        return label

    def forget(self) -> None:
        """Log out everywhere in this process, as if it began anew."""
        with module(self.module).alone():
            module(self.module).drop()

    def config(self, **tables: str) -> CeremonyConfig:
        """A ceremony with keys on tokens, for example root="pkcs11:token=x"."""
        text = CONFIG + f'[pkcs11]\nmodule = "{self.module}"\n'
        if "root" in tables:
            text += f'[root]\nkey = "{tables["root"]}"\n'
        if "issuing" in tables:
            text += f'[keys]\nissuing = "{tables["issuing"]}"\n'
        return CeremonyConfig.from_toml(text)


@pytest.fixture(scope="session")
def softhsm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("softhsm") / "tokens"
    folder.mkdir()
    settings = folder.parent / "softhsm2.conf"
    settings.write_text(f"directories.tokendir = {folder}\nobjectstore.backend = file\nlog.level = ERROR\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(settings))
        hsm = SoftHsm(folder)
        hsm.new_token("root")
        hsm.new_token("issuing")
        yield hsm
        hsm.forget()


@pytest.fixture(scope="session")
def token_ca(softhsm, perform, tmp_path_factory):
    """A CA with all its keys on two tokens."""
    directory = tmp_path_factory.mktemp("token") / "ca"
    config = softhsm.config(root="pkcs11:token=root;object=the%20root", issuing="pkcs11:token=issuing")
    perform(directory, config, pin=lambda: softhsm.pin, root_pin=lambda: softhsm.pin)
    return directory
