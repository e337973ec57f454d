"""The device side of vtpm-ca: simulated SEV-SNP platform, SVSM, KBS and host around a real TPM."""
