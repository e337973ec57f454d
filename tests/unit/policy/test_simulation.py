"""What `vtpm measure --policy` prints fits the simulation's policy, and both fit the simulated processor."""

from datetime import UTC, datetime

import pytest
from click.testing import CliRunner

from ca_service.policy import LaunchFacts, example_document, load_complete
from vtpm.cli.boot import measure
from vtpm.snp import Platform
from vtpm.svsm.build import Build, measurement
from vtpm.wire.report import Product, Report


def printed(*options):
    return CliRunner().invoke(measure, ["--policy", *options])


def booted(build):
    report = Platform.made(bytes(32)).launch_measured(measurement(build)).report(bytes(64))
    return LaunchFacts(Report.parse(report), Product.MILAN, True, None, datetime.now(UTC))


@pytest.mark.parametrize("build", Build)
def test_a_boot_of_the_simulated_machine_is_admitted(refusals, build):
    text = example_document("simulation.toml") + printed("--build", build.value).output
    policy = load_complete(text)
    assert policy.warnings() == ["platform simulated has no crl_max_age_days: a revocation may go unnoticed"]
    assert refusals(policy, booted(build)) == []
    assert refusals(example_document("simulation.toml"), booted(build)) != []


def test_the_entry_may_refer_to_another_platform():
    text = example_document("simulation.toml").replace('name = "simulated"', 'name = "rack-7"')
    (launch,) = load_complete(text + printed("--platform", "rack-7").output).launches.entries()
    assert launch.platform.name == "rack-7"


@pytest.mark.parametrize("name", ["", 'x"', "x\ny", "Rack", "-x", "x" * 65])
def test_a_name_that_no_platform_can_have_is_refused(name):
    done = printed("--platform", name)
    assert done.exit_code == 2
    assert "[[launch]]" not in done.output
