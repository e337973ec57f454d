"""Where the operator's passphrase comes from: never the command line, which all on the machine can read."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from ca_service.judgment import BadRequest

FILE_VARIABLE = "VTPM_CA_PASSPHRASE_FILE"
TEXT_VARIABLE = "VTPM_CA_PASSPHRASE"
CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"
CREDENTIAL_NAME = "vtpm-ca-passphrase"

_LONGEST = 4096


def find_passphrase(environ: Mapping[str, str]) -> bytes:
    """The passphrase of the CA's sealed files.

    Looked for in this order: the file that VTPM_CA_PASSPHRASE_FILE names, the text of VTPM_CA_PASSPHRASE, the
    systemd credential ``vtpm-ca-passphrase``. One line end at the end of a file does not count.

    Args:
        environ: environment variables.

    Raises:
        BadRequest: there is none, or it is empty (code ``passphrase-missing``); its file is readable by all
            or cannot be read (code ``permissions``).
    """
    if environ.get(FILE_VARIABLE):
        return _from_file(Path(environ[FILE_VARIABLE]))
    if environ.get(TEXT_VARIABLE):
        return os.fsencode(environ[TEXT_VARIABLE])
    if environ.get(CREDENTIALS_VARIABLE):
        path = Path(environ[CREDENTIALS_VARIABLE]) / CREDENTIAL_NAME
        if path.exists():
            return _from_file(path)
    raise BadRequest(
        "passphrase",
        "the passphrase of the CA's keys is not set",
        code="passphrase-missing",
        remedy=f"Set {FILE_VARIABLE} or {TEXT_VARIABLE}, or give the systemd credential {CREDENTIAL_NAME}.",
    )


def _from_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if mode & (stat.S_IRWXO | stat.S_IWGRP):
                raise BadRequest(
                    str(path),
                    "the passphrase's file may be read by everybody or written by its group",
                    code="permissions",
                    remedy=f"chmod 600 {path}",
                )
            text = file.read(_LONGEST + 1)
    except OSError as error:
        raise BadRequest(str(path), f"cannot be read: {error.strerror}", code="permissions") from None
    if len(text) > _LONGEST:
        raise BadRequest(str(path), f"holds more than {_LONGEST} bytes", code="passphrase-missing")
    passphrase = text.removesuffix(b"\n").removesuffix(b"\r")
    if not passphrase:
        raise BadRequest(str(path), "holds no passphrase", code="passphrase-missing")
    return passphrase
