"""Is this SVSM what it says? The processor's report in `snp`, the key broker's grant in `grant`."""
