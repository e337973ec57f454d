"""Problem documents (RFC 9457) and the CA's directory: what a client may read before or instead of an answer.

Unlike the protocol's other messages these two may grow: unknown members are ignored, as RFC 9457, section 3.2
asks of a consumer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from vtpm.wire.encoding import Members, parse_json
from vtpm.wire.errors import WireError
from vtpm.wire.note import MAX_KEY_NAME, VerifierKey

PROBLEM_TYPE = "urn:vtpm-ca:error:"
PROBLEM_MEDIA_TYPE = "application/problem+json"
MAX_DOCUMENT = 64 * 1024
_MAX_NAME = 64

_TEXTS = ("type", "title", "detail", "code", "rule", "decision_id", "pointer", "instance")


def _optional_text(members: Members, name: str) -> str:
    return members.text(name, least=0, most=2048) if members.has(name) else ""


def _names(members: Members) -> list[str]:
    """The member names of an open object, all printable and short."""
    names = members.unread()
    if not all(name.isascii() and name.isprintable() and len(name) <= _MAX_NAME for name in names):
        raise WireError(members.path, "member names must be short printable ASCII")
    return names


@dataclass(frozen=True)
class Problem:
    """Why a request was not answered.

    Attributes:
        type: `PROBLEM_TYPE` followed by `code`.
        title: the kind of problem, for people.
        status: HTTP status.
        detail: one sentence about this occurrence.
        code: stable short name, for programs.
        rule: stable id of the first check that failed, if a check refused.
        decision_id: under which the operator finds the whole trace.
        pointer: path of the member at fault, if the request is malformed.
        retryable: whether the same client may succeed by trying again with a fresh nonce.
        instance: identifies this occurrence, if anything does.
    """

    type: str
    title: str
    status: int
    detail: str
    code: str
    rule: str = ""
    decision_id: str = ""
    pointer: str = ""
    retryable: bool = False
    instance: str = ""

    def to_json(self) -> dict[str, object]:
        """The document; members without content are left out, `retryable` always stands."""
        texts = {name: getattr(self, name) for name in _TEXTS}
        return {
            **{name: text for name, text in texts.items() if text},
            "status": self.status,
            "retryable": self.retryable,
        }

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a problem document; raises `WireError` if it is none of this CA's form."""
        members = Members(parse_json(data, most=MAX_DOCUMENT))
        return cls(
            type=members.text("type"),
            title=_optional_text(members, "title"),
            status=members.integer("status", 400, 599),
            detail=_optional_text(members, "detail"),
            code=members.text("code", most=64),
            rule=_optional_text(members, "rule"),
            decision_id=_optional_text(members, "decision_id"),
            pointer=_optional_text(members, "pointer"),
            retryable=members.boolean("retryable") if members.has("retryable") else False,
            instance=_optional_text(members, "instance"),
        )


@dataclass(frozen=True)
class DirectoryIssuer:
    """One of the CA's certificates.

    Attributes:
        role: "root", "ek", "devid" or "ephemeral".
        pair: name of the EK and DevID CA pair it belongs to; "" for the root.
        sha256: SHA-256 of the DER certificate, 64 hex digits.
        url: where the certificate is published.
        state: "prepared", "active", "old" or "tainted"; "" for the root, and from CAs that do not say. Only an active
            one signs; all are to be trusted.
    """

    role: str
    pair: str
    sha256: str
    url: str
    state: str = ""

    def to_json(self) -> dict[str, object]:
        """The members of this object."""
        state = {"state": self.state} if self.state else {}
        return {"role": self.role, "pair": self.pair, "sha256": self.sha256, "url": self.url, **state}

    @classmethod
    def parse(cls, value: object, path: str) -> Self:
        """Read an issuer entry."""
        members = Members(value, path)
        return cls(
            members.text("role", most=32),
            members.text("pair", least=0, most=64),
            members.hex("sha256", size=32).hex(),
            members.text("url"),
            members.text("state", most=16) if members.has("state") else "",
        )


@dataclass(frozen=True)
class Directory:
    """What a CA says about itself at ``/.well-known/vtpm-ca``.

    Attributes:
        ca_id: the CA's id, the `aud` of evidence.
        mode: "production" or "simulation".
        profiles: accepted evidence profiles.
        issuers: the CA's certificates. To be compared with pinned hashes, not trusted for standing here.
        urls: name of a call to its URL or path.
        limits: name of a limit to its value, in bytes, seconds or items as the name says.
        log: its log; None for a CA without one. To be compared with a pinned key, as the issuers are.
    """

    ca_id: str
    mode: str
    profiles: tuple[str, ...]
    issuers: tuple[DirectoryIssuer, ...]
    urls: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    log: VerifierKey | None = None

    def to_json(self) -> dict[str, object]:
        """The document."""
        members: dict[str, object] = {
            "ca_id": self.ca_id,
            "mode": self.mode,
            "profiles": list(self.profiles),
            "issuers": [issuer.to_json() for issuer in self.issuers],
            "urls": dict(self.urls),
            "limits": dict(self.limits),
        }
        if self.log is not None:
            members["log"] = {"origin": self.log.name, "key": str(self.log)}
        return members

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a directory; raises `WireError` if a member that we use is missing or malformed."""
        members = Members(parse_json(data, most=MAX_DOCUMENT))
        profiles = []
        for value, path in members.array("profiles", 0, 32):
            if not isinstance(value, str):
                raise WireError(path, "must be a string")
            profiles.append(value)
        urls, limits = members.members("urls"), members.members("limits")
        return cls(
            ca_id=members.text("ca_id", most=128),
            mode=members.one_of("mode", ("production", "simulation")),
            profiles=tuple(profiles),
            issuers=tuple(
                DirectoryIssuer.parse(value, path) for value, path in members.array("issuers", 0, 64)
            ),
            urls={name: urls.text(name) for name in _names(urls)},
            limits={name: limits.integer(name, 0, 2**53 - 1) for name in _names(limits)},
            log=_log(members.members("log")) if members.has("log") else None,
        )


def _log(members: Members) -> VerifierKey:
    key = VerifierKey.parse(members.text("key"), members.at("key"))
    if members.text("origin", most=MAX_KEY_NAME) != key.name:
        raise WireError(members.at("origin"), "must be the name of the key")
    return key
