"""Key broker, CA, host or processor is away or dies: a clear text, exit code 3, and the next boot loses nothing."""

import os
import signal

import pytest


pytestmark = pytest.mark.timeout(240)


def test_kbs_down(parties):
    machine = parties.new_machine()
    parties.stop("kbs")
    told = parties.boot(machine)
    assert told.code == 3, told
    assert "key broker" in told.err
    assert "volume" not in told.steps
    parties.start()
    parties.check_whole(machine, parties.good_boot(machine))
