"""The attacks' world is a true one: what is off is off, what is on is the real thing, and honest machines come up."""

import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest
from tpm2_pytss import ESAPI

from ca_service.judgment import Record
from vtpm.errors import UsageError
from vtpm.host import Behaviour
from vtpm.lab.attacks import ATTACKS, attempt, find
from vtpm.lab.attacks.guest import guest_tpm, replace_iak
from vtpm.lab.attacks.possession import (
    NothingGained,
    attackers_tpm,
    certificate_of,
    own_tpm,
    recorded_keys,
    sign_as_certified,
)
from vtpm.lab.attacks.scene import RESOURCE
from vtpm.lab.throwaway import throwaway_ca
from vtpm.wire.templates import Role, template


def _traces(scene):
    with closing(sqlite3.connect(scene.directory / "ca.sqlite3")) as database:
        return [
            Record.parse(trace).trace.to_json()
            for (trace,) in database.execute("SELECT trace FROM decisions")
        ]


def test_an_honest_machine_is_certified_and_nothing_was_skipped(scene):
    disk, host = scene.disk(), Behaviour(scene.host_config())
    scene.boot(disk, host)
    scene.boot(disk, host)
    assert len(scene.ca.certificates()) == 3
    keys = recorded_keys(disk.path, scene.kbs.secret(RESOURCE).value)
    assert certificate_of(scene.ca, keys.iak.public) is not None
    traces = _traces(scene)
    assert len(traces) == 2
    assert {finding["verdict"] for trace in traces for finding in trace} == {"passed"}


def test_what_is_left_out_is_traced(lab):
    seen = {}

    def look(scene):
        attack.attempt(scene)
        seen["rules"] = {
            finding["rule"]
            for trace in _traces(scene)
            for finding in trace
            if finding["verdict"] == "unsafe-skipped"
        }
        return ""

    attack = ATTACKS["s2"]
    attempt(replace(attack, attempt=look), lab, on=())
    assert seen["rules"] == set(attack.rules)


def test_a_guests_key_at_the_handle_is_neither_certified_nor_left_there(scene):
    disk, host = scene.disk(), Behaviour(scene.host_config())
    with scene.running(disk, host) as launched, guest_tpm(launched) as gateway, ESAPI(gateway.tcti) as guest:
        planted = replace_iak(guest)
    genuine = recorded_keys(disk.path, scene.kbs.secret(RESOURCE).value).iak.public
    with scene.running(disk, host) as launched, guest_tpm(launched) as gateway, ESAPI(gateway.tcti) as guest:
        held, *_ = guest.read_public(guest.tr_from_tpmpublic(template(Role.IAK, "H-3").persistent))
    assert bytes(held.publicArea.marshal()) == genuine != planted
    assert certificate_of(scene.ca, planted) is None
    assert certificate_of(scene.ca, genuine) is not None


def test_a_tpm_that_is_not_certified_proves_nothing(scene):
    with own_tpm() as (tpm, keys), pytest.raises(NothingGained):
        attackers_tpm(scene.ca, tpm, keys)


def test_a_certificate_of_another_tpm_proves_nothing(scene):
    disk = scene.disk()
    scene.boot(disk, Behaviour(scene.host_config()))
    victims = recorded_keys(disk.path, scene.kbs.secret(RESOURCE).value)
    with own_tpm() as (tpm, keys):
        # The victim's certified IAK is named, but it is the attacker's TPM that would have to sign with it.
        mixed = type(keys)(keys.eks, victims.iak, keys.idevid)
        with pytest.raises(Exception, match="not the recorded key"):
            sign_as_certified(scene.ca, tpm, mixed)


def test_leaving_a_check_out_is_the_labs_alone(lab, scene, tmp_path):
    """A second CA in the same process, from the same keys, knows nothing of what the first one leaves out."""
    tpm = '[tpm]\nek = ["L-2"]\niak = ["H-3"]\nidevid = ["H-3"]'
    text = f'schema = 1\n[grant]\nmax_age_s = 60\n{tpm}\n[store]\nformats = ["cocoonfs/1"]\n'
    with throwaway_ca(lab.ceremony, tmp_path, text, scene.clock, frozenset({"kbs.listed"})):
        scene.boot(scene.disk(), Behaviour(scene.host_config()))
    assert {finding["verdict"] for trace in _traces(scene) for finding in trace} == {"passed"}


def test_names_and_families():
    assert [attack.id for attack in find("M1")] == ["m1"]
    assert [attack.id for attack in find("t1")] == ["t1-reset", "t1-foreign"]
    with pytest.raises(UsageError):
        find("m")
