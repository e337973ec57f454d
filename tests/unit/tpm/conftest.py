"""Real TPMs for the tests: powered ones, manufactured ones, and a guest's own client of a gateway."""

from contextlib import contextmanager

import pytest
from tpm2_pytss import ESAPI, TCTILdr

from vtpm.tpm import GuestGateway, Swtpm, manufacture
from vtpm.wire.templates import Role, template


def chosen(ek=("L-2",), iak="H-3", idevid="H-3"):
    """Arguments of `manufacture` by template ids; ECC by default, because it is made in milliseconds."""
    return [template(Role.EK, i) for i in ek], template(Role.IAK, iak), template(Role.IDEVID, idevid)


@pytest.fixture
def make_tpm():
    """Calls give powered TPMs: new ones, or from a state."""
    made = []

    def make(state=None, **options):
        tpm = Swtpm(**options).start()
        made.append(tpm)
        tpm.power_on(state)
        return tpm

    yield make
    for tpm in made:
        tpm.stop()


@pytest.fixture
def made(make_tpm):
    """A manufactured TPM and its keys."""
    tpm = make_tpm()
    return tpm, manufacture(tpm, *chosen())


@pytest.fixture
def reboot(make_tpm):
    """Power a TPM off in order and on again in another process."""

    def cycle(tpm):
        state = tpm.take_state()
        tpm.stop()
        return make_tpm(state)

    return cycle


@pytest.fixture
def guest():
    """A guest's ESAPI context through a gateway: libtss2's own swtpm TCTI, no authorisation known."""

    @contextmanager
    def connect(tpm, **options):
        with GuestGateway(tpm, **options) as gateway:
            tcti = TCTILdr("swtpm", gateway.tcti.removeprefix("swtpm:"))
            try:
                with ESAPI(tcti) as esapi:
                    yield esapi
            finally:
                tcti.close()

    return connect


@pytest.fixture
def templates_of():
    """`chosen`, for tests that make their own choice."""
    return chosen
