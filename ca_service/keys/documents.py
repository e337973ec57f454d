"""What the TOML documents about a CA share: strict models, the forms of names, reading and writing."""

import json
import re
import tomllib
from typing import Annotated, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from ca_service.judgment import BadRequest
from ca_service.keys.uri import TokenUri, is_token_uri

_MAX_URL = 64
MAX_OCSP_URL = 48
"""Longest base URL of a CA whose certificates name its OCSP service too: they hold it once more then."""
_PAIR_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,23}\Z")
_LIKE_A_GENERATION = re.compile(r"g[0-9]+\Z")
_FILE_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}\Z")
_MOST_DAYS = 365 * 1000

Organization = Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]{1,64}$")]
CaId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$")]
PairName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,23}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")]
AbsolutePath = Annotated[str, StringConstraints(pattern=r"^/[^\x00-\x1f\x7f]{1,1023}$")]
Generation = Annotated[int, Field(ge=1, le=999)]
Days = Annotated[int, Field(ge=1, le=_MOST_DAYS)]


class Strict(BaseModel):
    """A table of which every member is known and nothing is converted; made ready when one is read."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)


M = TypeVar("M", bound=Strict)


def check_url(value: str) -> str:
    """The base URL of publication as it is; raises ValueError with a text for people."""
    parts = urlsplit(value)
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or parts.username is not None
        or parts.query
        or parts.fragment
        or not value.isascii()
        or not value.isprintable()
        or " " in value
    ):
        raise ValueError("must be a plain http or https URL")
    if value.endswith("/"):
        raise ValueError("must not end with a slash")
    if len(value) > _MAX_URL:
        raise ValueError(f"must be at most {_MAX_URL} characters long: it goes into every certificate")
    return value


def check_ocsp_url(url: str, *, ocsp: bool) -> None:
    """Raise ValueError, with a text for people, if certificates have no room for a CA's URL once more."""
    if ocsp and len(url) > MAX_OCSP_URL:
        raise ValueError(
            f"publication_url must be at most {MAX_OCSP_URL} characters long with OCSP; choose a shorter one, or"
            " ocsp = false in [publication]"
        )


def check_pair(name: str) -> None:
    """Raise BadRequest unless a new pair of issuing CAs may have this name."""
    if not _PAIR_NAME.match(name):
        raise BadRequest("pair", "must be 1 to 24 lower-case letters, digits and hyphens, no hyphen first")
    if _LIKE_A_GENERATION.match(name):
        # In a CA's subject, where case does not count, it would read like a generation of the first pair.
        raise BadRequest("pair", "must not look like a generation (g and a number)")


def _key_reference(value: str) -> str:
    if is_token_uri(value):
        if not TokenUri.parse(value).id:
            raise ValueError("must state the id of a key")
    elif not _FILE_NAME.match(value):
        raise ValueError("must be a file name or a PKCS#11 URI")
    return value


KeyReference = Annotated[str, AfterValidator(_key_reference)]
"""Where a key is: the name of a sealed file, or a PKCS#11 URI with an id."""


def toml_lines(values: dict[str, object]) -> str:
    """Key-value lines. What JSON does not escape of a string without DEL and surrogates, TOML takes as well."""
    return "".join(f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in values.items())


def load_document(kind: type[M], text: str, document: str) -> M:
    """Read a TOML document.

    Raises:
        BadRequest: no TOML (with line and column), or a member is missing, unknown or malformed. The text names
            the member and repeats no value.
    """
    try:
        return kind.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise BadRequest(document, f"is no TOML: {error}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = ".".join([document, *(str(part) for part in first["loc"])])
        raise BadRequest(
            path, first["msg"].removeprefix("Value error, "), remedy=_remedy(first["type"])
        ) from None


def _remedy(fault: str) -> str:
    """What to do about a fault, as pydantic names its kind."""
    if fault != "extra_forbidden":
        return ""
    return (
        "It is misspelt, or a later release wrote it: an older program does not take what it does not know."
    )
