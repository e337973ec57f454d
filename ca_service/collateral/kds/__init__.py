"""AMD's Key Distribution Service, as a source that fills the bundle and never as one that must be there.

`urls` says where things are, `fetching` what is asked and answered. `http` gets one answer and `deadline` sees to it
that it ends; a server that never asks AMD does not load them, nor the library below them. `client` is a polite guest
(back-off, rate, memory of what is not there), `flights` lets many wait for one request, `supply` decides what to ask
for and what of the answers to keep.
"""

from ca_service.collateral.kds.client import KdsClient, KdsLimits
from ca_service.collateral.kds.fetching import Answer, Fetcher
from ca_service.collateral.kds.supply import Fetched, KdsSupply
from ca_service.collateral.kds.urls import AMD_KDS, check_base

__all__ = [
    "AMD_KDS",
    "Answer",
    "Fetched",
    "Fetcher",
    "KdsClient",
    "KdsLimits",
    "KdsSupply",
    "check_base",
]
