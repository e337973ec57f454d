"""The certificates and revocation lists that this CA keeps itself, to judge reports that come without them.

`folder` is the bundle on disk, `addition` and `trust` say what may go into it, `inspection` what is in it and in which
state; `kds` may fill it from AMD's service. The checks work with the value `ca_service.evidence.snp.Collateral`.
"""

from typing import TYPE_CHECKING

from ca_service.faces import on_demand

if TYPE_CHECKING:
    from ca_service.collateral.addition import Offer, Outcome, Unacceptable, add
    from ca_service.collateral.folder import FOLDER, Added, CollateralFolder, Stored
    from ca_service.collateral.inspection import Entry, Problem, State, examine, gaps, survey
    from ca_service.collateral.items import Item, Kind, items_of
    from ca_service.collateral.trust import trusted_roots
else:
    __getattr__ = on_demand(
        __name__,
        {
            ".addition": "Offer Outcome Unacceptable add",
            ".folder": "FOLDER Added CollateralFolder Stored",
            ".inspection": "Entry Problem State examine gaps survey",
            ".items": "Item Kind items_of",
            ".trust": "trusted_roots",
        },
    )

__all__ = [
    "FOLDER",
    "Added",
    "CollateralFolder",
    "Entry",
    "Item",
    "Kind",
    "Offer",
    "Outcome",
    "Problem",
    "State",
    "Stored",
    "Unacceptable",
    "add",
    "examine",
    "gaps",
    "items_of",
    "survey",
    "trusted_roots",
]
