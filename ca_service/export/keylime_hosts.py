"""What keylime itself must be told, and whether a host's configuration looks into the folder that was filled.

The store is an option of the *tenant's* configuration, and the registrar reads that file too. A registrar's host
without it takes its own working directory for the store, says nothing, and refuses every IAK. Source: keylime 7.14.3,
its configuration as `keylime.config` reads it.
"""

import configparser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ca_service.export.keylime import ExportRole

_OPTION = "tpm_cert_store"
_BASES = ("etc/keylime/tenant.conf", "usr/etc/keylime/tenant.conf")
"""The first one that is there counts, the others are not read."""
_SNIPPETS = ("usr/etc/keylime/tenant.conf.d", "etc/keylime/tenant.conf.d")
"""Read in this order over the base; without a base they are not read at all."""
_EK_CHECK = "/opt/vtpm-ca/bin/vtpm-ca-ek-check"
"""Where an installation as in docs/operations.md has it."""
_MAX_FILE = 1 << 20


@dataclass(frozen=True)
class Setting:
    """One option of keylime.

    Attributes:
        host: which of keylime's parts needs it: ``tenant``, ``registrar`` or ``agent``.
        file: name of the configuration file there.
        section: its section.
        option: name of the option.
        value: what it must say.
        why: what it is for, in one sentence.
    """

    host: str
    file: str
    section: str
    option: str
    value: str
    why: str

    def to_json(self) -> dict[str, str]:
        """The setting as plain values."""
        return dict(vars(self))


def keylime_settings(store: Path, role: ExportRole | None) -> tuple[Setting, ...]:
    """What keylime's parts must be told so that a store counts.

    Args:
        store: the store's directory, as keylime is to name it.
        role: what the store is for; None for both.
    """
    place = str(store.absolute())
    found = []
    if role in (None, "ek"):
        found += [
            Setting("tenant", "tenant.conf", "tenant", _OPTION, place, "the folder of trusted issuers"),
            Setting("tenant", "tenant.conf", "tenant", "require_ek_cert", "True", "else no EK is checked"),
            Setting(
                "tenant",
                "tenant.conf",
                "tenant",
                "ek_check_script",
                _EK_CHECK,
                "looks at dates and revocation",
            ),
        ]
    if role in (None, "devid"):
        why = "the registrar finds its store in the tenant's file, which its host needs too"
        found += [
            Setting("registrar", "tenant.conf", "tenant", _OPTION, place, why),
            Setting(
                "agent", "agent.conf", "agent", "enable_iak_idevid", "true", "else the agent sends neither"
            ),
        ]
    return tuple(found)


def store_warning(store: Path, root: Path = Path("/")) -> str | None:
    """Whether keylime on this machine would look into another folder than the one that was filled.

    Args:
        store: the folder.
        root: where the file system begins.

    Returns:
        what is wrong and the fix; None if all is well, or if there is no configuration of keylime here.
    """
    try:
        if not any((root / base).parent.is_dir() for base in _BASES):
            return None
        base = next((root / base for base in _BASES if (root / base).exists()), None)
    except OSError as error:
        return _unreadable(Path(error.filename or root))
    if base is None:
        return (
            f"keylime is configured on this machine, but without {root / _BASES[0]}: its registrar takes its own "
            f"working directory for the store. Write that file with [tenant] {_OPTION}."
        )
    return _judge([base, *(path for folder in _SNIPPETS for path in _snippets(root / folder))], store)


def _unreadable(path: Path) -> str:
    return f"{path} cannot be read here: look yourself whether its [tenant] {_OPTION} names the folder."


def _snippets(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_file())
    except OSError:
        return []


def _judge(files: Sequence[Path], store: Path) -> str | None:
    parser = configparser.RawConfigParser()
    for path in files:
        try:
            with path.open(encoding="utf-8") as file:
                parser.read_string(file.read(_MAX_FILE))
        except (OSError, UnicodeDecodeError, configparser.Error):
            return _unreadable(path)
    named = parser.get("tenant", _OPTION, fallback="").strip('" ')
    if not named:
        return (
            f"{files[0]} does not say [tenant] {_OPTION}: keylime's registrar takes its own working directory for "
            "the store."
        )
    if not Path(named).is_absolute():
        return (
            f"{files[0]} says {_OPTION} = {named}: that is another folder for each working directory. Write the "
            "whole path."
        )
    try:
        same = Path(named).resolve() == store.resolve()
    except (OSError, ValueError, RuntimeError):
        # No name of a file, or links that lead in a circle.
        same = False
    return None if same else f"keylime on this machine looks into {named}, and not into {store.absolute()}."
