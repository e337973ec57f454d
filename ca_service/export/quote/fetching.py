"""Revocation lists from where the certificates say that they lie. The network is hostile.

Nobody is asked before the chain of a certificate holds, so a stranger's certificate sends nobody anywhere. A list is
taken only if its issuer has signed it; whether it is of use, the checks say.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from cryptography import x509

from ca_service.export.ek_check.supply import Fetch
from ca_service.export.relying import Kind, Trust, lookup
from ca_service.export.relying.lists import RevocationList
from ca_service.judgment import BadRequest, Unavailable


@dataclass(frozen=True)
class Fetched:
    """What was found.

    Attributes:
        trust: with the lists that were fetched.
        problems: why others were not, a sentence each.
    """

    trust: Trust
    problems: tuple[str, ...]


def fetch_lists(certificates: Mapping[Kind, bytes], trust: Trust, fetch: Fetch) -> Fetched:
    """Fetch the lists that some certificates need, each once.

    Args:
        certificates: DER by what each is shown as, from anybody.
        trust: root and issuing CAs; the lists in it stay.
        fetch: gets what is at a URL.
    """
    found, problems = [], []
    for url, issuer in dict(_places(certificates, trust)).items():
        try:
            one = RevocationList.read(fetch(url), "list")
        except (BadRequest, Unavailable) as error:
            problems.append(f"{url} gives no revocation list: {error.detail}")
            continue
        if one.signed_by(issuer):
            found.append(one.der)
        else:
            problems.append(f"what is at {url} is no revocation list of its issuer")
    return Fetched(replace(trust, crls=(*trust.crls, *found)), tuple(problems))


def _places(certificates: Mapping[Kind, bytes], trust: Trust) -> Iterator[tuple[str, x509.Certificate]]:
    for kind, der in certificates.items():
        places = lookup(der, kind, trust)
        if places is None:
            continue
        if places.leaf_list is not None:
            yield places.leaf_list, places.issuer
        if places.root_list is not None:
            yield places.root_list, trust.root
