"""Object identifiers of the certificate profiles, each with its name in the document that assigns it."""

from cryptography.x509 import ObjectIdentifier

TPM_MANUFACTURER = ObjectIdentifier("2.23.133.2.1")
"""tcg-at-tpmManufacturer (TCG EK Credential Profile)."""
TPM_MODEL = ObjectIdentifier("2.23.133.2.2")
"""tcg-at-tpmModel."""
TPM_VERSION = ObjectIdentifier("2.23.133.2.3")
"""tcg-at-tpmVersion."""
TPM_SPECIFICATION = ObjectIdentifier("2.23.133.2.16")
"""tcg-at-tpmSpecification."""
EK_CERTIFICATE = ObjectIdentifier("2.23.133.8.1")
"""tcg-kp-EKCertificate."""
AIK_CERTIFICATE = ObjectIdentifier("2.23.133.8.3")
"""tcg-kp-AIKCertificate."""
VERIFIED_TPM_RESIDENCY = ObjectIdentifier("2.23.133.11.1.1")
"""tcg-cap-verifiedTPMResidency, a certificate policy (not a key purpose)."""
VERIFIED_TPM_FIXED = ObjectIdentifier("2.23.133.11.1.2")
"""tcg-cap-verifiedTPMFixed, the second policy of an IDevID."""
VERIFIED_TPM_RESTRICTED = ObjectIdentifier("2.23.133.11.1.3")
"""tcg-cap-verifiedTPMRestricted, the second policy of an IAK."""
TPM_20 = ObjectIdentifier("2.23.133.1.2")
"""The hwType that says TPM 2.0."""
EK_PERMANENT_ID_SHA256 = ObjectIdentifier("2.23.133.12.1")
"""tcg-on-ekPermIdSha256, assigner of the permanentIdentifier."""

OCSP_SIGNING = ObjectIdentifier("1.3.6.1.5.5.7.3.9")
"""id-kp-OCSPSigning (RFC 6960, section 4.2.2.2)."""

HARDWARE_MODULE_NAME = ObjectIdentifier("1.3.6.1.5.5.7.8.4")
"""id-on-hardwareModuleName (RFC 4108, section 5)."""
PERMANENT_IDENTIFIER = ObjectIdentifier("1.3.6.1.5.5.7.8.3")
"""id-on-permanentIdentifier (RFC 4043)."""
SUBJECT_DIRECTORY_ATTRIBUTES = ObjectIdentifier("2.5.29.9")
"""id-ce-subjectDirectoryAttributes (RFC 5280, section 4.2.1.8)."""

PROVENANCE = ObjectIdentifier("1.2.840.113556.1.8000.2554.22.90.55.20305.39874.4691.1706394")
"""This CA's provenance extension: the UUID 0016005a-0037-4f51-9bc2-0012531a099a in seven parts, in the arc in which
Microsoft lets everybody name things by a UUID without registration. It was drawn so that its parts are short. In the
arc for whole UUIDs (2.25, ITU-T X.667) it would be one number of 128 bits, and GnuTLS and Go read no certificate in
which a number of more than 32 bits stands."""

FORMER_PROVENANCE = ObjectIdentifier("2.25.141280512164668854563368337367618201297")
"""The same extension in certificates of releases up to 0.5."""
