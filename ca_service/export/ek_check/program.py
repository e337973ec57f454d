"""The program: environment and configuration in, one line and an exit status out. Whatever goes wrong is a refusal."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from ca_service.export.ek_check.configuration import DEFAULT_PLACE, PLACE_VARIABLE, Configuration
from ca_service.export.ek_check.environment import Shown, printable
from ca_service.export.ek_check.supply import Fetch, ListCache, asked, fetched
from ca_service.export.relying import Trust, judge_certificate, lookup
from ca_service.judgment import BadRequest, Finding, Trace, Unavailable, Verdict, VtpmCaError
from ca_service.profiles.structures import certified_key

_NAME: Final = "vtpm-ca-ek-check"
_ACCEPTED, _REFUSED, _USAGE = 0, 1, 2
_CHECK_CONFIG: Final = "--check-config"
_USAGE_TEXT: Final = f"""usage: {_NAME} [{_CHECK_CONFIG}]

Without arguments: judge the EK certificate in the environment variable EK_CERT, as keylime's tenant starts it
(option ek_check_script). Exit 0 if it counts, else 1, with the reason in one line.

{_CHECK_CONFIG}   read the configuration and what it names, and judge nothing.

The configuration is {DEFAULT_PLACE}, or the file that {PLACE_VARIABLE} names.
"""


@dataclass(frozen=True)
class World:
    """What the program has of the world around it.

    Attributes:
        environment: its variables.
        clock: gives the time, aware.
        fetch: gets what is at a URL.
    """

    environment: Mapping[str, str]
    clock: Callable[[], datetime]
    fetch: Fetch = fetched


def judge(world: World) -> tuple[Shown, Trace]:
    """Judge the EK that keylime shows.

    Raises:
        BadRequest: configuration or environment are not as they should be.
        Unavailable: there is no answer to an OCSP request.
    """
    configuration = Configuration.load(_place(world.environment))
    shown = Shown.from_environment(world.environment)
    trust, at = _trust(configuration), world.clock()
    places, answer = lookup(shown.certificate, "ek", trust), None
    if places is not None:
        if configuration.cache is not None:
            cache = ListCache(configuration.cache, configuration.refresh, world.fetch)
            wanted = [(places.root_list, trust.root)]
            wanted += [] if configuration.ocsp else [(places.leaf_list, places.issuer)]
            found = [cache.list_at(url, issuer, at) for url, issuer in wanted if url is not None]
            trust = replace(trust, crls=(*trust.crls, *(der for der in found if der is not None)))
        if configuration.ocsp:
            if places.responder is None:
                raise Unavailable("the certificate names no OCSP responder", code="ocsp")
            answer = asked(places.responder, places.serial, places.issuer, world.fetch)
    trace = judge_certificate(
        shown.certificate,
        "ek",
        trust,
        at,
        configuration.rule,
        ephemeral=configuration.ephemeral,
        ocsp=answer,
        max_list_age=configuration.max_age,
    )
    return shown, trace + _same_key(shown, trace)


def _same_key(shown: Shown, trace: Trace) -> Trace:
    """The tenant has compared them too, but as it has read them itself."""
    if not trace.admitted:
        return Trace()
    certified = certified_key(x509.load_der_x509_certificate(shown.certificate).tbs_certificate_bytes)
    if certified == shown.key == shown.public:
        return Trace((Finding("relying.ek", Verdict.PASSED),))
    other = "EK_TPM" if certified != shown.public else "EK"
    reason = f"the certificate is another EK's than the one in {other}"
    return Trace((Finding("relying.ek", Verdict.FAILED, reason),))


def _place(environment: Mapping[str, str]) -> Path:
    return Path(environment.get(PLACE_VARIABLE) or DEFAULT_PLACE)


def _trust(configuration: Configuration) -> Trust:
    return Trust.load(
        configuration.root,
        configuration.issuers,
        configuration.crls if configuration.crls is not None else (),
        root_sha256=configuration.root_sha256,
    )


def run(arguments: Sequence[str], world: World) -> tuple[int, str]:
    """What the program does.

    Returns:
        The exit status, and one line in printable ASCII (more for ``--help``).
    """
    if list(arguments) in (["--help"], ["-h"]):
        return _ACCEPTED, _USAGE_TEXT.rstrip()
    if arguments and list(arguments) != [_CHECK_CONFIG]:
        return _USAGE, f"{_NAME}: takes no arguments but {_CHECK_CONFIG}"
    try:
        return _checked_config(world) if arguments else _verdict(*judge(world))
    except VtpmCaError as error:
        return _REFUSED, f"{_NAME}: refused: {printable(' '.join(error.diagnostics().split()))}"
    except Exception as error:  # noqa: BLE001 - whatever it is, the EK is not shown to be good
        return _REFUSED, f"{_NAME}: refused: internal error ({type(error).__name__})"


def _verdict(shown: Shown, trace: Trace) -> tuple[int, str]:
    agent = f" (agent {shown.agent})" if shown.agent else ""
    wrong = trace.refusal
    if trace.admitted and wrong is None:
        return _ACCEPTED, f"{_NAME}: accepted: the EK certificate counts{agent}"
    rule, reason = ("relying", "nothing was judged") if wrong is None else (wrong.rule, wrong.reason)
    return _REFUSED, f"{_NAME}: refused: {rule}: {printable(reason)}{agent}"


def _checked_config(world: World) -> tuple[int, str]:
    place = _place(world.environment)
    configuration = Configuration.load(place)
    trust = _trust(configuration)
    at = world.clock()
    ours = [issuer for issuer in trust.issuers if trust.title(issuer) is not None]
    if not ours:
        raise BadRequest(str(configuration.issuers), "holds no issuing CA of this root")
    stale = [problem for one in trust.lists if (problem := one.stale(at, None)) is not None]
    if stale:
        raise BadRequest(str(configuration.crls), f"a revocation list {stale[0]}")
    text = f"{_NAME}: {place}: a {trust.mode} root, {len(ours)} issuing CAs of it, {len(trust.lists)} revocation lists"
    return _ACCEPTED, printable(text)


def main() -> None:
    """Run as `vtpm-ca-ek-check`."""
    status, line = run(sys.argv[1:], World(os.environ, lambda: datetime.now(UTC)))
    print(line, file=sys.stdout if status == _ACCEPTED else sys.stderr, flush=True)
    sys.exit(status)
