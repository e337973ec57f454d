"""Is this quote of a TPM that the CA has certified? The relying party's question, answered from bytes alone.

A reader starts at `verify_quote`. It is pure: quote, certificates, lists and the time are handed in. Only
`ca_service.export.quote.live` speaks to a TPM.
"""

from ca_service.export.quote.expected import ExpectedPcrs
from ca_service.export.quote.judging import CHECKS, JudgedCertificate, QuoteVerdict, verify_quote
from ca_service.export.quote.keys import AttestationKey
from ca_service.export.quote.pcrs import PcrValues, read_pcrs
from ca_service.export.quote.subject import Quote

__all__ = [
    "CHECKS",
    "AttestationKey",
    "ExpectedPcrs",
    "JudgedCertificate",
    "PcrValues",
    "Quote",
    "QuoteVerdict",
    "read_pcrs",
    "verify_quote",
]
