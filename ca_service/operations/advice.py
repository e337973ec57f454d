"""What a refusal means to the operator, and what to do about it: one text for each rule, or for each room of rules.

What the requester may read stands in the finding itself. This is for the people who keep the policy and the machines.
"""

from collections.abc import Mapping
from typing import Final

_ROLLED_BACK: Final = (
    "The host brought back an old state of the TPM, or two copies of it run. If you restored the VM from a "
    "snapshot yourself, end this TPM with `vtpm-ca instance reset`; else treat the host as hostile."
)
_CLONE: Final = (
    "Two instances show the same TPM or the same secret, which no honest boot does. Find out which of them is the "
    "copy; until then `vtpm-ca revoke --instance KBS RESOURCE` ends the trust in what either has."
)
_FIRMWARE: Final = (
    "The processor's firmware or its settings are not what the policy asks for. Update the host, or change the policy "
    "if this is meant to be admitted."
)
_IMAGE: Final = (
    "What was booted is not on the allow-list. If it is a release of yours, add its launch to the policy and apply "
    "it; if nobody knows it, somebody boots other code."
)

_RULES: Final[Mapping[str, str]] = {
    "ledger.instance-occupied": (
        "Another TPM lives in this instance: the disk with its state was lost, or the host shows an empty one. If the "
        "old TPM is gone for good, end it with `vtpm-ca instance reset`, which revokes its certificates."
    ),
    "ledger.counter": _ROLLED_BACK,
    "ledger.key-unique": _CLONE,
    "ledger.key-id-unique": _CLONE,
    "ledger.not-revoked": (
        "Certificates of this TPM were revoked, so it gets none. When the reason is dealt with, `vtpm-ca instance "
        "reset` lets a new TPM live there."
    ),
    "key.not-blocked": "An operator has blocked a key of this TPM. `vtpm-ca key list` says who and why.",
    "grant.age": "The KBS's grant is too old. Compare the clocks of KBS and CA; a boot that hangs is the other reason.",
    "grant.issued-at": "The KBS's grant is of the future. Compare the clocks of KBS and CA.",
    "grant.signature": "The grant was not signed by the key that it names. Find out which KBS the VM talks to.",
    "kbs.listed": (
        "The key of this KBS is not in the policy. If the KBS changed its key, add it there; else the host has put "
        "another KBS in its place."
    ),
    "kbs.resource": (
        "The policy does not let this KBS give out this resource. Correct its pattern there, or the VM's setting."
    ),
    "kbs.status": "The policy has suspended this KBS, or calls it compromised.",
    "kbs.valid": "The policy's entry of this KBS is not valid at this time.",
    "launch.measurement": _IMAGE,
    "launch.simulated": "The platform is a simulated one and this CA is for production: nothing admits it here.",
    "policy.in-force": "No policy is in force, so everything is refused. Run `vtpm-ca policy apply FILE`.",
    "snp.leaf-present": (
        "The processor's certificate (VCEK) is not there. Start the server with --kds, or bring it by "
        "`vtpm-ca collateral fetch` or `vtpm-ca collateral add`."
    ),
    "snp.revocation": "AMD has revoked the chain of this processor. Take the machine out of service.",
    "snp.crl-age": "AMD's revocation list is too old for the policy. Run `vtpm-ca collateral fetch`.",
    "platform.crl-age": "AMD's revocation list is too old for the policy. Run `vtpm-ca collateral fetch`.",
    "platform.reported-tcb": (
        "The processor's firmware is older than the floor that counts now. Update the host's firmware; move the floor "
        "in the policy only if nothing else helps."
    ),
    "activation.secret": (
        "The TPM did not recover the secret, so the keys are not in one TPM. A host that mixes TPMs looks like this."
    ),
    "activation.unexpired": "The TPM answered too late. A boot that hangs looks like this; the VM may try again.",
}

_ROOMS: Final[Mapping[str, str]] = {
    "launch": _IMAGE,
    "platform": _FIRMWARE,
    "snp": (
        "The attestation report does not hold as it is. One machine: see its firmware and its SVSM. Many at once: see "
        "the collateral and the clock."
    ),
    "grant": "The KBS's grant does not fit this boot: another session, another secret, or altered on its way.",
    "kbs": "The policy does not let this KBS do this. See its entry in the policy.",
    "ledger": "What the CA remembers of this instance contradicts what was shown.",
    "certify": "The TPM's statement about its keys does not hold. An SVSM of another release, or keys outside the TPM.",
    "activation": "The second half of the enrolment failed. The VM may try again with a new nonce.",
    "tpm": "A key of the TPM has not the form that the policy and the TCG ask for. See the release of the SVSM.",
    "template": "A key of the TPM differs from its TCG template. See the release of the SVSM.",
    "store": "The TPM's store is not one that the policy admits, for example a volatile one.",
    "profile": "The policy does not admit this profile of evidence for this launch.",
    "ear": "The attestation result that came along does not hold. See the attestation service and its key.",
    "lint": "The CA refused its own draft of a certificate. This is a fault of ours or of the policy; report it.",
    "nonce": "The nonce was too old, used, or another CA's. A relay that repeats old requests looks like this.",
    "policy": "The policy in force cannot be used for this. See `vtpm-ca policy show`.",
}

_OTHERWISE: Final = "See the whole decision: the check that failed says what it wanted and what it saw."


def advice(rule: str) -> str:
    """What to do about a refusal by this rule."""
    return _RULES.get(rule) or _ROOMS.get(rule.partition(".")[0]) or _OTHERWISE


_ALARMS: Final[Mapping[str, str]] = {
    "clone": _CLONE,
    "rollback": _ROLLED_BACK,
    "renewed": (
        "A TPM got certificates in the place of others. keylime refuses an agent with another EK certificate: hand out "
        "the new ones with `vtpm-ca export keylime`, and let the agent register again."
    ),
}


def alarm_advice(kind: str) -> str:
    """What an alarm of this kind means, and what to do."""
    return _ALARMS.get(kind, "See its decision, and `vtpm-ca alarm list --json` for all that is known.")
