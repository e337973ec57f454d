"""What a policy demands of a launch: the software that was measured, and how the host has started it.

Sources: AMD 56860, tables ATTESTATION_REPORT and guest policy, and section "ID block". Everything that comes from the
ID block (GUEST_SVN, FAMILY_ID, IMAGE_ID) is the word of whoever signed it; the firmware has checked that signature.
"""

from typing import Final

from ca_service.policy.document.bits import GUEST_POLICY, named
from ca_service.policy.entries.launches import LaunchEntry
from ca_service.policy.judging.facts import LaunchFacts
from ca_service.policy.judging.rules import Demand, Outcome, Seen, among, listing
from vtpm.wire.report_bits import guest_policy_abi

MEASUREMENT: Final = "launch.measurement"
_NOT_HERE: Final = "this launch may not enrol here"


class _Measurement(Demand[LaunchEntry]):
    """The launch is listed, and VMPL 0 asked: the guest below it has the same measurement.

    An entry may give up which build it is (its key says it), but never who in the VM may speak for it.
    """

    def outcome(self, entry: LaunchEntry | None, facts: LaunchFacts) -> Outcome:
        report = facts.report
        name = "not listed" if entry is None else entry.name
        actual = f"{report.measurement.hex()} ({name}), at VMPL {report.vmpl}"
        if entry is None:
            return Outcome(False, self.reason, "a listed launch, at VMPL 0", actual)
        found = super().outcome(entry, facts)
        return found._replace(
            holds=found.holds and report.vmpl == 0,
            reason=self.reason,
            expected=f"{found.expected}, at VMPL 0",
            actual=actual,
        )


def _measurement(entry: LaunchEntry, facts: LaunchFacts) -> Seen:
    wanted = None if entry.measurement is None else frozenset({entry.measurement})
    return among(wanted, facts.report.measurement)


def _id_key(entry: LaunchEntry, facts: LaunchFacts) -> Seen:
    return among(entry.id_keys, facts.report.id_key_digest)


def _author_key(entry: LaunchEntry, facts: LaunchFacts) -> Seen:
    report = facts.report
    seen = among(entry.author_keys, report.author_key_digest)
    if report.author_key_en:
        return seen
    # Without AUTHOR_KEY_EN nobody has checked a signature of that key.
    return seen._replace(holds=False, actual=f"{seen.actual}, without AUTHOR_KEY_EN")


def _host_data(entry: LaunchEntry, facts: LaunchFacts) -> Seen:
    return among(entry.host_data, facts.report.host_data)


def _family_id(entry: LaunchEntry, facts: LaunchFacts) -> Seen:
    return among(entry.family_ids, facts.report.family_id)


def _image_id(entry: LaunchEntry, facts: LaunchFacts) -> Seen:
    return among(entry.image_ids, facts.report.image_id)


def _guest_svn(entry: LaunchEntry, facts: LaunchFacts) -> Seen:
    svn, least = facts.report.guest_svn, entry.min_guest_svn
    return Seen(None if least is None else f"at least {least}", least is not None and svn >= least, str(svn))


def _abi(entry: LaunchEntry, facts: LaunchFacts) -> Seen:
    abi, least = guest_policy_abi(facts.report.policy), entry.min_abi
    expected = None if least is None else f"at least {least[0]}.{least[1]}"
    return Seen(expected, least is not None and abi >= least, f"{abi[0]}.{abi[1]}")


def _guest_policy(entry: LaunchEntry, facts: LaunchFacts) -> Seen:
    word, demand = facts.report.policy, entry.guest_policy
    return Seen(
        None if demand is None else str(demand),
        demand is not None and demand.holds(word),
        named(GUEST_POLICY, word),
    )


def _product(entry: LaunchEntry, facts: LaunchFacts) -> Seen:
    return Seen(listing(entry.products), facts.product in entry.products, facts.product or "unknown")


def _platform(entry: LaunchEntry, facts: LaunchFacts) -> Seen:  # noqa: ARG001 - the entry alone decides
    stated = entry.platform is not None
    return Seen(
        "a platform of the policy" if stated else None,
        stated,
        entry.platform.name if entry.platform is not None else "none",
    )


LAUNCH_DEMANDS: Final[tuple[Demand[LaunchEntry], ...]] = (
    _Measurement(MEASUREMENT, _NOT_HERE, _measurement),
    Demand("launch.id-key", "this launch's ID block is not admitted", _id_key),
    Demand("launch.author-key", "this launch's author key is not admitted", _author_key),
    Demand("launch.host-data", "the host data of this launch are not admitted", _host_data),
    Demand("launch.family-id", "the family of this launch is not admitted", _family_id),
    Demand("launch.image-id", "the image of this launch is not admitted", _image_id),
    Demand("launch.guest-svn", "the security version of this launch is not admitted", _guest_svn),
    Demand("launch.abi", "this launch accepts firmware whose ABI is not admitted", _abi),
    Demand("launch.guest-policy", "the guest policy of this launch is not admitted", _guest_policy),
    Demand("launch.product", "this launch may not enrol from this kind of processor", _product),
    Demand("platform.stated", _NOT_HERE, _platform),
)
"""What an entry of `[[launch]]` demands, in the order in which it is traced."""
