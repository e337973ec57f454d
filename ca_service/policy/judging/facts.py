"""What a policy is asked about: the facts of one enrolment, authentic already, not yet judged."""

from datetime import datetime

from vtpm.wire.frozen import frozen
from vtpm.wire.report import Product, Report


@frozen
class LaunchFacts:
    """What is known of a VM's launch and of the processor that it runs on.

    Attributes:
        report: the attestation report, whose signature holds.
        product: of the processor; None if it is none that is known.
        simulated: whether the report's chain ends in a simulated root.
        crl_issued_at: when the newest CRL of the chain's ARK that is known to the verifier was issued, aware; None if
            none is known.
        at: the time of the decision, aware.
    """

    report: Report
    product: Product | None
    simulated: bool
    crl_issued_at: datetime | None
    at: datetime

    def __post_init__(self) -> None:
        """Refuse a time without a zone: it would be judged by the machine's own."""
        if self.at.utcoffset() is None:
            raise ValueError("the time of a decision needs a time zone")
        if self.crl_issued_at is not None and self.crl_issued_at.utcoffset() is None:
            raise ValueError("the time of a CRL needs a time zone")


@frozen
class PolicyFacts:
    """The facts of one enrolment that the allow-list has a say in.

    Attributes:
        launch: what the report says, and when the decision is taken.
        kbs_thumbprint: RFC 7638 thumbprint of the key that verified the grant.
        resource: resource that the grant names, "repository/type/tag".
        origin: where the secret came from, as the grant says.
        release_policy: digest of the release policy that the grant names, 64 lower-case hex digits.
        grant_iat: when the grant was issued, in seconds since 1970.
        store_mode: "persistent" or "volatile".
        store_format: such as "cocoonfs/1".
        ek_templates: template ids of the EKs.
        iak_template: template id of the IAK.
        idevid_template: template id of the IDevID.
        profile: evidence profile.
    """

    launch: LaunchFacts
    kbs_thumbprint: str
    resource: str
    origin: str
    release_policy: str
    grant_iat: int
    store_mode: str
    store_format: str
    ek_templates: tuple[str, ...]
    iak_template: str
    idevid_template: str
    profile: str

    @property
    def at(self) -> datetime:
        """The time of the decision, aware."""
        return self.launch.at
