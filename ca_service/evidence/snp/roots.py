"""The pinned roots: which processors' signing services may be believed at all.

AMD's certificates are shipped with this package and compared with fingerprints that stand here, so that a file
exchanged in an installation is noticed. What a host sends along with a report is never used as a root.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

import ca_service
from ca_service.evidence.snp.authorities import Authority, read_authority
from ca_service.evidence.snp.certificates import issued, split_pem
from ca_service.evidence.snp.crl import Crl, read_crl
from ca_service.judgment import VtpmCaError
from vtpm.wire.report import Product


@dataclass(frozen=True)
class Root:
    """A root that may be trusted, with the authorities under it that need not be sent.

    Attributes:
        product: whose processors it certifies; None if that is not known, for a root given on a command line.
        ark: AMD root key, self-signed.
        authorities: its ASK, which issues VCEKs, and its ASVK, which issues VLEKs, as far as they are known.
        simulated: whether it certifies simulated processors, whose keys are anybody's.
        crls: lists of the root that name something, known without an operator's help.
    """

    product: Product | None
    ark: Authority
    authorities: tuple[Authority, ...]
    simulated: bool
    crls: tuple[Crl, ...] = ()


_FINGERPRINTS: Final[Mapping[str, str]] = {
    "amd/milan-ark.pem": "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
    "amd/milan-ask.pem": "67d303bd3905fd38db8b20e0793699870e7fa612eaad5dec358293fd8c0bac1b",
    "amd/milan-asvk.pem": "c5e081f59b7efab1fe2f8b505e159704e72f29cab7ef7cf628a05a42439082f5",
    "amd/genoa-ark.pem": "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
    "amd/genoa-ask.pem": "5464738c1546aed5f2cecf1dc98c5c960a92e8913238a61711bc90ec6e828521",
    "amd/genoa-asvk.pem": "197e610743a917d6b9bb982a5a9226ccc0a15b611be0619e626aca9151457372",
    "amd/turin-ark.pem": "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
    "amd/turin-ask.pem": "5b77ef5fe7a7a004fd9032668fba9d0fda22f88c4442069a479636a6ae3b3185",
    "amd/turin-asvk.pem": "104e10a8bd060a3c20a434261a57d0588fd65a88915b4f65b08bdecaf8df1a3c",
    "amd/genoa-crl.der": "db04d2f0a9b2299a7591e4f1a6c75ea6801e26d46afc58628c83f87809b81e67",
    "simulated/ark.pem": "99bb1006f203a3fead6617be76d6297c0209da3da8f0fce0740cf17c0cdfac89",
    "simulated/ask.pem": "af9f81ac8264c4a384bae0af0dacd26cd7aac04b3daceee16382669cb24c5bfe",
    "simulated/genoa-ark.pem": "4df6e861fd6f5fa6be72baddcd49ce9166e13be1ad1c607bc2f0d5fc45042e9a",
    "simulated/genoa-ask.pem": "92a9a877a258012358664b68acaf9ad645f02ea0679899d7f6a244fd7bc6cefe",
    "simulated/genoa-asvk.pem": "c7b4a365981deaf8aaa7c428bde5098f080428c2912e55cf5f9cda6557784ccc",
    "simulated/turin-ark.pem": "2aa566b30e815bdce85382f7e89de2318a22ea80aea0130cc84c76ceaea31f55",
    "simulated/turin-ask.pem": "5457ceefeb333eddc66e4c621bf07ca27a75cf187e0ebf24bbea9e3d6d8d6684",
    "simulated/turin-asvk.pem": "b488865ff1e3e06281419e3ab1d86e71dbfbf3ccede7fa39696d9d955481a489",
}
"""SHA-256 of each certificate, and of each revocation list, in DER."""


def data_folder(name: str) -> Traversable:
    """A folder of data files: inside the package when installed, at the top of the repository in a checkout.

    Raises:
        VtpmCaError: it is in neither place.
    """
    installed = resources.files(ca_service) / "data" / name
    if installed.is_dir():
        return installed
    checkout = Path(str(ca_service.__file__)).parent.parent / name
    if checkout.is_dir():
        return checkout
    raise VtpmCaError(f"the data folder {name} is missing", code="installation", remedy="Install again.")


def _content(folder: Traversable, file: str) -> bytes:
    try:
        return folder.joinpath(file).read_bytes()
    except OSError as error:
        raise VtpmCaError(f"the pinned file {file} cannot be read", code="installation") from error


def _exchanged(file: str) -> VtpmCaError:
    return VtpmCaError(f"the pinned file {file} is not the one expected", code="installation")


def _pinned(folder: Traversable, file: str) -> Authority:
    ders = split_pem(_content(folder, file)) or [b""]
    authority = read_authority(ders[0])
    if authority is None or hashlib.sha256(ders[0]).hexdigest() != _FINGERPRINTS[file]:
        raise _exchanged(file)
    return authority


def _pinned_crls(folder: Traversable, file: str) -> tuple[Crl, ...]:
    if file not in _FINGERPRINTS:
        return ()
    content = _content(folder, file)
    crl = read_crl(content)
    if crl is None or hashlib.sha256(content).hexdigest() != _FINGERPRINTS[file]:
        raise _exchanged(file)
    return (crl,)


def _root(folder: Traversable, prefix: str, product: Product, *, simulated: bool) -> Root:
    names = [f"{prefix}{key}.pem" for key in ("ask", "asvk")]
    return Root(
        product=product,
        ark=_pinned(folder, f"{prefix}ark.pem"),
        authorities=tuple(_pinned(folder, name) for name in names if name in _FINGERPRINTS),
        simulated=simulated,
        crls=_pinned_crls(folder, f"{prefix}crl.der"),
    )


@cache
def amd_roots() -> tuple[Root, ...]:
    """AMD's roots for Milan, Genoa (with Bergamo and Siena) and Turin.

    Raises:
        VtpmCaError: a pinned file is missing or was exchanged.
    """
    folder = data_folder("certs")
    return tuple(
        _root(folder, f"amd/{product.value.lower()}-", product, simulated=False) for product in Product
    )


@cache
def simulated_roots() -> tuple[Root, ...]:
    """The simulated platforms' roots. Private keys under them are public: only a simulation CA may trust them.

    Raises:
        VtpmCaError: a pinned file is missing or was exchanged.
    """
    folder = data_folder("certs")
    # The Milan chain was there first, under names without a product.
    prefixes = {Product.MILAN: "", Product.GENOA: "genoa-", Product.TURIN: "turin-"}
    return tuple(
        _root(folder, f"simulated/{prefix}", product, simulated=True) for product, prefix in prefixes.items()
    )


def unsafe_root(der: bytes) -> Root | None:
    """A root that somebody names instead of the pinned ones, in DER; None if it is no self-signed authority.

    Its product is the one that its name ends with, as in ``ARK-Milan``. It counts as simulated: nothing that
    matters may rest on it.
    """
    ark = read_authority(der)
    if ark is None or not ark.self_issued or not issued(der, der):
        return None
    suffix = ark.common_name.rpartition("-")[2]
    product = next((product for product in Product if product.value == suffix), None)
    return Root(product, ark, (), simulated=True)
