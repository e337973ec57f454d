"""Editing one `[[kbs]]` entry of a policy document, so that comments and layout stay.

Each edit is a function from a document to the edited one: pure, and the same document again if there is nothing to
do. `rewriting` puts it into the text.
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import tomlkit
from tomlkit.items import AoT, InlineTable

from ca_service.judgment import BadRequest, Conflict, NotFound
from ca_service.policy.allowlist import load
from ca_service.policy.document.form import shown
from ca_service.policy.editing.rewriting import Entry, appended, changed, inline_table
from vtpm.wire.jwk import EcJwk

TRUSTED, SUSPENDED, COMPROMISED = "trusted", "suspended", "compromised"

_TABLE = "kbs"
_NEW_KEY = (
    "Its keys are somebody else's too: `vtpm-ca kbs trust` with --key puts new ones in their place. If it was a false "
    "alarm, edit the entry by hand and use `vtpm-ca policy apply`."
)


@dataclass(frozen=True)
class Terms:
    """What a new entry says of its key broker besides its keys.

    Attributes:
        patterns: resources that it may release.
        shared: likewise; several volumes may live under one of these.
        origins: where its secrets may come from.
        release_policies: digests of the release policies that a grant may name, hex.
        any_release_policy: whatever release policy a grant names; then there are no `release_policies`.
        label: for people; empty for none.
        tenant: whose it is; empty for nobody's in particular.
        pair: pair of issuing CAs that signs for its TPMs; empty for the default one.
        valid_from: first moment at which the entry counts, aware; None: always has.
        valid_to: first moment at which it no longer counts, aware; None: for good.
    """

    patterns: tuple[str, ...]
    origins: tuple[str, ...]
    shared: tuple[str, ...] = ()
    release_policies: tuple[str, ...] = ()
    any_release_policy: bool = False
    label: str = ""
    tenant: str = ""
    pair: str = ""
    valid_from: datetime | None = None
    valid_to: datetime | None = None


def with_broker(text: str, kbs_id: str, keys: Sequence[EcJwk], terms: Terms | None) -> str:
    """The document with a new trusted key broker, or with more keys for one that it has.

    Args:
        text: the document.
        kbs_id: id of the entry.
        keys: at least one; those that the entry has already change nothing.
        terms: of a new entry; None to add keys to an entry.

    Raises:
        Conflict: terms are given and there is such an entry, or its keys are compromised.
        NotFound: no terms are given and there is no such entry.
        BadRequest: the document cannot be read, or could not be afterwards: a key is listed under another id, patterns
            overlap, a member holds what it must not.
    """
    owners = _owners(text)
    content = tomllib.loads(text)
    if terms is None:
        number, entry = _find(content, kbs_id)
        if entry["status"] == COMPROMISED:
            raise Conflict(f"the key broker {shown(kbs_id)} is compromised", remedy=_NEW_KEY)
        new = [key for key in keys if owners.get(key.thumbprint()) != kbs_id]
        _demand_unlisted(new, owners)
        return changed(text, _TABLE, number, lambda at: _add_keys(at, new)) if new else text
    if kbs_id in _ids(content):
        raise Conflict(
            f"the key broker {shown(kbs_id)} is in the policy already",
            remedy="Give nothing but --key to add keys to it; what else it may do, change in the document.",
        )
    _demand_unlisted(keys, owners)
    return appended(text, _TABLE, _entry(kbs_id, keys, terms))


def suspended(text: str, kbs_id: str) -> str:
    """The document with a key broker suspended, until it is trusted again.

    Raises:
        NotFound: there is no such entry.
        Conflict: it is compromised, which says more.
        BadRequest: the document cannot be read.
    """
    return _with_status(text, kbs_id, SUSPENDED)


def trusted(text: str, kbs_id: str, keys: Sequence[EcJwk] = ()) -> str:
    """The document with a key broker trusted again.

    Args:
        text: the document.
        kbs_id: id of the entry.
        keys: take the place of all that it has; one that is compromised needs them.

    Raises:
        NotFound: there is no such entry.
        Conflict: it is compromised, and there are no new keys.
        BadRequest: a key is listed already, or the document cannot be read.
    """
    if not keys:
        return _with_status(text, kbs_id, TRUSTED)
    owners = _owners(text)
    number, _ = _find(tomllib.loads(text), kbs_id)
    _demand_unlisted(keys, owners)

    def change(entry: Entry) -> None:
        entry["status"] = TRUSTED
        entry.pop("compromised_since", None)
        _replace_keys(entry, keys)

    return changed(text, _TABLE, number, change)


def compromised(text: str, kbs_id: str, since: datetime, at: datetime) -> str:
    """The document with a key broker compromised; one that is so since an earlier time stays as it is.

    Args:
        text: the document.
        kbs_id: id of the entry.
        since: from when on its keys were not its own, aware; written in whole seconds, rounded down.
        at: now, aware.

    Raises:
        NotFound: there is no such entry.
        BadRequest: `since` is in the future, or the document cannot be read.
    """
    if since > at:
        raise BadRequest(
            "compromised_since",
            "is in the future",
            remedy="Say from when on the key was not its owner's alone; `kbs suspend` stops a key broker meanwhile.",
        )
    content = _content(text)
    number, entry = _find(content, kbs_id)
    moment = since.astimezone(UTC).replace(microsecond=0)
    if entry["status"] == COMPROMISED and entry["compromised_since"] <= moment:
        return text

    def change(entry: Entry) -> None:
        entry["status"] = COMPROMISED
        entry["compromised_since"] = moment

    return changed(text, _TABLE, number, change)


def _with_status(text: str, kbs_id: str, status: str) -> str:
    content = _content(text)
    number, entry = _find(content, kbs_id)
    if entry["status"] == COMPROMISED:
        raise Conflict(f"the key broker {shown(kbs_id)} is compromised", remedy=_NEW_KEY)
    if entry["status"] == status:
        return text

    def change(entry: Entry) -> None:
        entry["status"] = status

    return changed(text, _TABLE, number, change)


def _content(text: str) -> dict[str, Any]:
    """What the document says; only of one that can be read is known what an edit would do to it."""
    load(text)
    return tomllib.loads(text)


def _owners(text: str) -> dict[str, str]:
    """Whose each listed key is: ids by thumbprints."""
    return {thumbprint: entry.id for thumbprint, entry in load(text).kbs.items()}


def _demand_unlisted(keys: Iterable[EcJwk], owners: Mapping[str, str]) -> None:
    for key in keys:
        owner = owners.get(key.thumbprint())
        if owner is not None:
            raise BadRequest(
                f"the key {key.thumbprint()}",
                f"is listed already, under {shown(owner)}",
                code="policy-invalid",
                remedy="Each key broker needs a key of its own, or nobody can tell whose a grant is.",
            )


def _ids(content: dict[str, Any]) -> list[str]:
    return [entry["id"] for entry in content.get(_TABLE, [])]


def _find(content: dict[str, Any], kbs_id: str) -> tuple[int, dict[str, Any]]:
    known = _ids(content)
    if kbs_id not in known:
        names = f"It lists {', '.join(known)}." if known else "It lists none."
        raise NotFound(f"the policy lists no key broker {shown(kbs_id)}", remedy=names)
    number = known.index(kbs_id)
    return number, content[_TABLE][number]


def _jwk_table(key: EcJwk) -> InlineTable:
    members = key.members()
    said = ", ".join(f'{name} = "{members[name]}"' for name in ("kty", "crv", "x", "y"))
    return cast("InlineTable", tomlkit.value(f"{{ {said} }}"))


def _add_keys(entry: Entry, keys: Iterable[EcJwk]) -> None:
    listed = entry["key"]
    for key in keys:
        if isinstance(listed, AoT):
            table = tomlkit.table()
            table["jwk"] = _jwk_table(key)
            table.add(tomlkit.nl())
            if not listed[-1].as_string().endswith("\n\n"):
                table.trivia.indent = "\n"
            listed.append(table)
        else:
            listed.append(inline_table({"jwk": _jwk_table(key)}))


def _replace_keys(entry: Entry, keys: Sequence[EcJwk]) -> None:
    """Put keys in the place of those that are there, so that what is written beside a place stays with it."""
    listed = entry["key"]
    for table, key in zip(listed, keys, strict=False):
        table.pop("pem", None)
        table["jwk"] = _jwk_table(key)
    _add_keys(entry, keys[len(listed) :])
    del listed[len(keys) :]


def _entry(kbs_id: str, keys: Sequence[EcJwk], terms: Terms) -> dict[str, Any]:
    """A new entry as plain values, in the order in which it is written."""
    said = {
        "id": kbs_id,
        "label": terms.label or None,
        "tenant": terms.tenant or None,
        "status": TRUSTED,
        "pair": terms.pair or None,
        "origins": list(terms.origins),
        "release_policies": list(terms.release_policies) or None,
        "unconstrained": ["release-policy"] if terms.any_release_policy else None,
        "valid_from": terms.valid_from,
        "valid_to": terms.valid_to,
        "key": [{"jwk": _jwk_table(key)} for key in keys],
        "resource": [
            *({"pattern": pattern} for pattern in terms.patterns),
            *({"pattern": pattern, "shared": True} for pattern in terms.shared),
        ],
    }
    return {name: value for name, value in said.items() if value is not None}
