"""What rests on a key broker is counted by its id; for ephemeral TPMs, whose instances do not name it, by its key."""

from datetime import timedelta

import amd_guest
from amd_guest import Guest

from ca_service.store import Resting, RestingOnBrokers, resting_on_brokers
from vtpm.wire.amd_evidence import SERVICES_PROFILE, VTPM_PROFILE
from vtpm.wire.jwk import EcJwk


def resting(store, at) -> RestingOnBrokers:
    with store.read() as tx:
        return resting_on_brokers(tx, at)


def test_persistent_and_ephemeral_tpms(world, store, enroller, tpms, helpers):
    assert resting(store, world.time) == RestingOnBrokers({}, {})
    helpers.issue(world, enroller, tpms(0))
    world.apply(store, amd_guest.policy(world))
    for number, profile in ((1, SERVICES_PROFILE), (2, VTPM_PROFILE)):
        Guest(world, enroller, tpms(number)).issue(profile)
    key = EcJwk.from_key(world.kbs.public_key()).thumbprint()
    lasting = {"org-kbs": Resting(1, 3)}
    assert resting(store, world.time) == RestingOnBrokers(lasting, {key: Resting(1, 3)})
    later = world.time + timedelta(days=amd_guest.DAYS, seconds=1)
    assert resting(store, later) == RestingOnBrokers(lasting, {})
