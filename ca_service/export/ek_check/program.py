"""The program: environment and configuration in, one line and an exit status out. Whatever goes wrong is a refusal."""

import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509

from ca_service.export.ek_check.configuration import DEFAULT_PLACE, PLACE_VARIABLE, Configuration
from ca_service.export.ek_check.environment import Shown, printable
from ca_service.export.ek_check.supply import Fetch, ListCache, Supplied, asked, fetched
from ca_service.export.relying import Lookup, Trust, judge_certificate, lookup
from ca_service.judgment import BadRequest, Finding, Trace, Unavailable, Verdict, VtpmCaError
from ca_service.profiles.structures import certified_key

_NAME: Final = "vtpm-ca-ek-check"
_ACCEPTED, _REFUSED, _USAGE = 0, 1, 2
_CHECK_CONFIG: Final = "--check-config"
_BY_LISTS: Final = ("relying.revocation", "relying.issuer-revocation")
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


@dataclass(frozen=True)
class Judged:
    """What was found.

    Attributes:
        shown: what keylime has shown.
        trace: the findings.
        unfetched: why lists could not be fetched, for a refusal that rests on that.
    """

    shown: Shown
    trace: Trace
    unfetched: tuple[str, ...] = ()


def judge(world: World) -> Judged:
    """Judge the EK that keylime shows.

    Raises:
        BadRequest: configuration or environment are not as they should be.
        Unavailable: there is no answer to an OCSP request.
    """
    configuration = Configuration.load(_place(world.environment))
    shown = Shown.from_environment(world.environment)
    trust, at = _trust(configuration), world.clock()
    places = lookup(shown.certificate, "ek", trust)
    supplied = () if places is None else _supplied(configuration, world, places, trust, at)
    found = tuple(one.der for one in supplied if one.der is not None)
    trace = judge_certificate(
        shown.certificate,
        "ek",
        replace(trust, crls=(*trust.crls, *found)),
        at,
        configuration.rule,
        ephemeral=configuration.ephemeral,
        ocsp=_answer(places, world) if configuration.ocsp and places is not None else None,
        max_list_age=configuration.max_age,
    )
    return Judged(
        shown, trace + _same_key(shown, trace), tuple(one.problem for one in supplied if one.problem)
    )


def _supplied(
    configuration: Configuration, world: World, places: Lookup, trust: Trust, at: datetime
) -> tuple[Supplied, ...]:
    if configuration.cache is None:
        return ()
    cache = ListCache(configuration.cache, configuration.refresh, world.fetch)
    wanted: list[tuple[str | None, x509.Certificate, timedelta | None]] = [
        (places.root_list, trust.root, None)
    ]
    if not configuration.ocsp:
        wanted.append((places.leaf_list, places.issuer, configuration.max_age))
    return tuple(
        cache.list_at(url, issuer, at, max_age) for url, issuer, max_age in wanted if url is not None
    )


def _answer(places: Lookup, world: World) -> bytes:
    if places.responder is None:
        raise Unavailable(
            "the certificate names no OCSP responder",
            code="ocsp",
            remedy="Take ocsp = true out of the configuration.",
        )
    return asked(places.responder, places.serial, places.issuer, world.fetch)


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
        return _checked_config(world) if arguments else _verdict(judge(world))
    except VtpmCaError as error:
        words = f"{error.detail}. {error.remedy}" if error.remedy else error.detail
        return _REFUSED, f"{_NAME}: refused: {printable(' '.join(words.split()))}"
    except Exception as error:  # noqa: BLE001 - whatever it is, the EK is not shown to be good
        return _REFUSED, f"{_NAME}: refused: internal error ({type(error).__name__})"


def _verdict(judged: Judged) -> tuple[int, str]:
    agent = f" (agent {judged.shown.agent})" if judged.shown.agent else ""
    wrong = judged.trace.refusal
    if judged.trace.admitted and wrong is None:
        return _ACCEPTED, f"{_NAME}: accepted: the EK certificate counts{agent}"
    rule, reason = ("relying", "nothing was judged") if wrong is None else (wrong.rule, wrong.reason)
    if rule in _BY_LISTS:
        reason = "; ".join((reason, *judged.unfetched))
    return _REFUSED, f"{_NAME}: refused: {rule}: {printable(reason)}{agent}"


def _checked_config(world: World) -> tuple[int, str]:
    place = _place(world.environment)
    configuration = Configuration.load(place)
    trust = _trust(configuration)
    at = world.clock()
    ours = [issuer for issuer in trust.issuers if trust.certified(issuer) and trust.title(issuer) is not None]
    if not ours:
        raise BadRequest(str(configuration.issuers), "holds no issuing CA of this root")
    stale = [problem for one in trust.lists if (problem := one.stale(at, None)) is not None]
    if stale:
        raise BadRequest(str(configuration.crls), f"a revocation list {stale[0]}")
    text = f"{_NAME}: {place}: a {trust.mode} root, {len(ours)} issuing CAs of it, {len(trust.lists)} revocation lists"
    return _ACCEPTED, printable(text)


def main() -> None:
    """Run as `vtpm-ca-ek-check`."""
    # keylime logs whatever is printed; what is odd about a stranger's certificate is no news.
    warnings.simplefilter("ignore")
    status, line = run(sys.argv[1:], World(os.environ, lambda: datetime.now(UTC)))
    print(line, file=sys.stdout if status == _ACCEPTED else sys.stderr, flush=True)
    sys.exit(status)
