"""A bundle that is filled from a service on loopback: what is asked for, what is kept, and what an outage does."""

import dataclasses
import json
import threading
import time
from datetime import timedelta

import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from kds_stand_in import Says

from ca_service.collateral import CollateralFolder, Offer, add, items_of
from ca_service.collateral.kds import KdsClient, KdsLimits, KdsSupply
from ca_service.collateral.kds.http import HttpFetcher
from ca_service.collateral.kds.supply import wanted
from ca_service.evidence.snp import AUTHENTICITY, Collateral, SnpEvidence, amd_roots, read_leaf
from ca_service.judgment import Unavailable, judge_until_failure
from vtpm.wire.report import Product, Report

MILAN = "vcek/v1/Milan"


@pytest.fixture(scope="module")
def platform(service):
    return service.platform()


@pytest.fixture(scope="module")
def vcek(platform, service):
    return service.vcek(platform.chip_id, platform.tcb, platform.vcek_key())


@pytest.fixture(scope="module")
def report(platform):
    return Report.parse(platform.launch_measured(b"\x01" * 48).report(b"\x02" * 64))


@pytest.fixture
def evidence(report, service, now, folder):
    """Function: the evidence as a CA sees it now, with members changed."""

    def make(**changes):
        members = {"report": report, "roots": (service.root,), "at": now, "collateral": folder.current()}
        return SnpEvidence(**members | changes)

    return make


@pytest.fixture
def path(evidence):
    return f"/{wanted(evidence()).path}"


@pytest.fixture
def supply(kds, folder, service):
    def make(folder=folder, roots=(service.root,), most=1 << 20, monotonic=time.monotonic, **limits):
        fetch = HttpFetcher(read_s=2, most=most)
        return KdsSupply(folder, KdsClient(kds.url, fetch, KdsLimits(**limits), monotonic=monotonic), roots)

    return make


def admitted(evidence):
    return judge_until_failure(AUTHENTICITY, evidence).admitted


def refusal(evidence):
    return judge_until_failure(AUTHENTICITY, evidence).refusal.rule


def forged(report, **patches):
    raw = bytearray(report.raw)
    for offset, content in patches.values():
        raw[offset : offset + len(content)] = content
    return Report.parse(bytes(raw))


class TestWhatIsWanted:
    def test_genuine_reports(self, genuine, now):
        for name in ("genoa-v5-vcek-routex", "turin-v5-vcek-aci", "siena-v5-vcek", "milan-v5-vcek-gcp"):
            report = Report.parse(genuine(f"{name}/report.bin"))
            bare = SnpEvidence(report, amd_roots(), now)
            needed = wanted(bare)
            leaf = read_leaf(genuine(f"{name}/vcek.der"))
            assert needed.fits(leaf)
            assert needed.path.startswith(f"vcek/v1/{bare.product}/{leaf.hwid.hex()}?")
            assert wanted(dataclasses.replace(bare, offered=Collateral((leaf,)))) is None
            assert wanted(dataclasses.replace(bare, collateral=Collateral((leaf,)))) is None

    def test_nor_is_an_expired_one(self, evidence, service, platform, now):
        old = service.vcek(
            platform.chip_id,
            platform.tcb,
            platform.vcek_key(),
            not_before=now - timedelta(days=9),
            not_after=now,
        )
        offered = Collateral.of_file(old)
        assert wanted(evidence(offered=offered)) is None
        assert wanted(evidence(offered=offered, at=now + timedelta(seconds=1))) is not None

    @pytest.mark.parametrize("name", ["milan-v5-vlek-aws", "milan-v2-vcek-azure"])
    def test_a_vlek_is_its_providers_and_version_2_does_not_say_the_product(self, genuine, now, name):
        assert wanted(SnpEvidence(Report.parse(genuine(f"{name}/report.bin")), amd_roots(), now)) is None

    def test_a_certificate_for_another_tcb_or_chip_or_from_a_stranger_is_not_enough(
        self, evidence, service, platform, vcek
    ):
        assert wanted(evidence(offered=Collateral.of_file(vcek))) is None
        stranger = type(service)()
        for leaf in (
            service.vcek(platform.chip_id, bytes(8), platform.vcek_key()),
            service.vcek(bytes(64), platform.tcb, platform.vcek_key()),
            stranger.vcek(platform.chip_id, platform.tcb, platform.vcek_key()),
        ):
            assert wanted(evidence(offered=Collateral.of_file(leaf))) is not None

    @pytest.mark.parametrize(
        "patch",
        [
            (0x000, b"\x06"),  # version
            (0x030, b"\x04"),  # VMPL
            (0x034, b"\x02"),  # signature algorithm
            (0x048, b"\x02"),  # MASK_CHIP_KEY
            (0x048, b"\x1c"),  # signed with no key
            (0x18B, b"\x01"),  # reserved
            (0x330, b"\x01"),  # behind the signature
            (0x188, b"\x17"),  # CPUID family
            (0x1A0, bytes(64)),  # CHIP_ID
        ],
    )
    def test_a_report_out_of_form_causes_no_request(self, evidence, report, supply, kds, patch):
        supply().provide(evidence(report=forged(report, patch=patch)))
        assert not kds.asked


class Gate:
    """Holds the stand-in's answer; `reached` once it was asked."""

    def __init__(self):
        self.reached, self._open = threading.Event(), threading.Event()
        self.set, self.wait_open = self._open.set, self._open.wait

    def wait(self, seconds):
        self.reached.set()
        self.wait_open(seconds)


def until(condition):
    """Wait until it is so; what is waited for is at work in another thread."""
    for _ in range(2000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError


def unsigned(report):
    """A report that anybody could make up who knows a chip."""
    return forged(report, measurement=(0x90, b"\x66" * 48))


class TestForgedReports:
    """Chip ids are no secret: whoever knows one can make up reports, but none that its key has signed."""

    def test_they_bring_nothing_into_the_bundle_and_keep_nothing_out(
        self, supply, evidence, kds, path, vcek, report, folder
    ):
        kds.answers[path] = Says(body=vcek)
        mine = supply()
        with structlog.testing.capture_logs() as logs:
            mine.provide(evidence(report=unsigned(report)))
        assert [line["reason"] for line in logs] == ["the report is not signed by the chip that it names"]
        assert not folder.path.exists()
        mine.provide(evidence())
        assert kds.asked == {path: 2}
        assert admitted(evidence())

    def test_who_joins_a_forgers_request_gets_what_it_brings(self, supply, evidence, kds, path, vcek, report):
        gate = Gate()
        kds.answers[path] = Says(body=vcek, gate=gate)
        mine = supply(wait_s=20)
        threads = [threading.Thread(target=mine.provide, args=(evidence(report=unsigned(report)),))]
        threads[0].start()
        gate.reached.wait(20)
        threads.append(threading.Thread(target=mine.provide, args=(evidence(),)))
        threads[1].start()
        until(lambda: mine._flights._waiting == 2)
        gate.set()
        for thread in threads:
            thread.join()
        assert kds.asked == {path: 1}
        assert admitted(evidence())

    def test_it_tells_whether_what_was_wanted_came(self, supply, evidence, kds, path, vcek, report):
        told = []
        mine = supply()
        mine._told = told.append
        kds.answers[path] = Says(body=vcek)
        mine.provide(evidence(report=unsigned(report)))
        mine.provide(evidence())
        mine.provide(evidence())
        # The last one found what it needed in the bundle.
        assert told == [False, True]

    def test_what_is_there_is_not_asked_for_though_rubbish_came_along(
        self, supply, evidence, kds, path, vcek, report, service, platform, folder
    ):
        kds.answers[path] = Says(body=vcek)
        supply().provide(evidence())
        rubbish = Collateral.of_file(service.vcek(platform.chip_id, bytes(8)))
        for held in (report, unsigned(report)):
            supply().provide(evidence(report=held, offered=rubbish))
        assert kds.asked == {path: 1}


class TestBounds:
    def test_so_many_of_one_chip(self, supply, evidence, kds, path, vcek, folder, service, platform):
        kds.answers[path] = Says(body=vcek)
        for level in range(2):
            older = service.vcek(platform.chip_id, bytes([level]) + bytes(7))
            add(folder, [Offer("older", older)], (service.root,))
        with structlog.testing.capture_logs() as logs:
            supply(kept_per_chip=2).provide(evidence())
        assert ["of this chip" in line["reason"] for line in logs] == [True]
        assert not kds.asked
        supply(kept_per_chip=3).provide(evidence())
        assert admitted(evidence())

    def test_so_many_in_all(self, supply, evidence, kds, path, vcek, folder, service):
        kds.answers[path] = Says(body=vcek)
        for chip in (b"\x21", b"\x22"):
            add(folder, [Offer("other", service.vcek(chip * 64))], (service.root,))
        supply(kept_most=2).provide(evidence())
        assert not kds.asked
        supply(kept_most=3, kept_per_chip=1).provide(evidence())
        assert admitted(evidence())

    def test_two_that_come_at_the_same_time(self, supply, evidence, kds, folder, service):
        mine, gates, threads = supply(kept_most=1, wait_s=20), [], []
        for seed in (b"\x31", b"\x32"):
            chip = service.platform(seed * 32)
            mine_report = Report.parse(chip.launch_measured(b"\x01" * 48).report(b"\x02" * 64))
            each = evidence(report=mine_report)
            gates.append(Gate())
            body = service.vcek(chip.chip_id, chip.tcb, chip.vcek_key())
            kds.answers[f"/{wanted(each).path}"] = Says(body=body, gate=gates[-1])
            threads.append(threading.Thread(target=mine.provide, args=(each,)))
            threads[-1].start()
        for gate in gates:
            assert gate.reached.wait(20)
        for gate in gates:
            gate.set()
        for thread in threads:
            thread.join()
        assert len(folder.current().leaves) == 1

    def test_nobody_queues_for_long_before_a_bundle_that_does_not_get_free(
        self, supply, evidence, vcek, folder
    ):
        mine = supply(wait_s=0.1)
        with mine._guard, pytest.raises(Unavailable, match="free"):
            mine._keep(items_of(Collateral.of_file(vcek)), wanted(evidence()), evidence())
        assert mine._keep(items_of(Collateral.of_file(vcek)), wanted(evidence()), evidence())
        assert admitted(evidence())


class TestVcek:
    def test_it_is_fetched_once_and_kept(self, supply, evidence, kds, path, vcek, folder):
        kds.answers[path] = Says(body=vcek)
        assert refusal(evidence()) == "snp.leaf-present"
        mine = supply()
        for _ in range(3):
            mine.provide(evidence())
        assert kds.asked == {path: 1}
        assert admitted(evidence())
        assert [leaf.der for leaf in CollateralFolder(folder.path).current().leaves] == [vcek]

    def test_many_ask_and_one_request_is_made(self, supply, evidence, kds, path, vcek):
        gate = threading.Event()
        kds.answers[path] = Says(body=vcek, gate=gate)
        mine, done = supply(wait_s=20, waiting=12), []

        def enrol():
            mine.provide(evidence())
            done.append(admitted(evidence()))

        threads = [threading.Thread(target=enrol) for _ in range(12)]
        for thread in threads:
            thread.start()
        gate.set()
        for thread in threads:
            thread.join()
        assert (kds.asked, done) == ({path: 1}, [True] * 12)

    @pytest.mark.parametrize(
        "says",
        [
            Says(404),
            Says(429, headers={"Retry-After": "3600"}),
            Says(429),
            Says(500),
            Says(503, headers={"Retry-After": "Fri, 31 Dec 2100 23:59:59 GMT"}),
            Says(302, headers={"Location": "http://127.0.0.1:1/"}),
            Says(200, b""),
            Says(200, b"<html>sign in to the hotel's network</html>"),
            Says(200, bytes(5000)),
            Says(200, b"\x30\x82", length=1500, headers={"Connection": "close"}),
        ],
        ids=["404", "429 for long", "429", "500", "503", "302", "empty", "portal", "huge", "cut"],
    )
    def test_nothing_comes_of_a_bad_answer_and_it_is_not_asked_for_again(
        self, supply, evidence, kds, path, folder, says
    ):
        kds.answers[path] = says
        mine = supply(most=4000)
        for _ in range(3):
            mine.provide(evidence())
        assert kds.asked == {path: 1}
        assert refusal(evidence()) == "snp.leaf-present"
        assert not folder.path.exists() or not list(folder.path.iterdir())

    def test_only_what_was_asked_for_is_kept(
        self, supply, evidence, kds, path, folder, service, platform, vcek
    ):
        stranger, key = type(service)(), platform.vcek_key()
        for body in (
            service.vcek(platform.chip_id, bytes(8), key),
            service.vcek(b"\x09" * 64, platform.tcb, key),
            stranger.vcek(platform.chip_id, platform.tcb, key),
            service.ask,
            service.crl(),
            vcek[:-1] + bytes([vcek[-1] ^ 1]),
        ):
            kds.answers[path] = Says(body=body)
            mine = supply()
            mine.provide(evidence())
            mine.provide(evidence())
            assert not folder.path.exists()
        assert kds.asked == {path: 6}

    def test_of_several_certificates_the_right_one_is_kept(
        self, supply, evidence, kds, path, service, vcek, folder
    ):
        other = service.vcek(b"\x09" * 64)
        pem = b"".join(
            x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
            for der in (other, vcek, service.ask)
        )
        kds.answers[path] = Says(body=pem)
        supply().provide(evidence())
        assert [leaf.der for leaf in folder.current().leaves] == [vcek]
        assert not folder.current().authorities

    def test_a_root_of_another_product_does_not_do(self, supply, evidence, kds, path, folder, service, vcek):
        kds.answers[path] = Says(body=vcek)
        root = dataclasses.replace(service.root, product=Product.GENOA)
        supply(roots=(root,)).provide(evidence())
        assert kds.asked == {path: 1}
        assert not folder.path.exists()

    def test_an_outage_leaves_what_there_is(self, supply, evidence, kds, path, vcek, report):
        kds.answers[path] = Says(body=vcek)
        mine = supply()
        mine.provide(evidence())
        kds.answers.clear()
        kds.close()
        mine.provide(evidence())
        assert admitted(evidence())
        other = evidence(report=forged(report, chip=(0x1A0, b"\x55" * 64)))
        mine.provide(other)
        assert refusal(other) == "snp.leaf-present"

    def test_made_up_chips_cause_few_requests(self, supply, evidence, kds, report, vcek, path):
        mine = supply(per_minute=5)
        for number in range(40):
            mine.provide(evidence(report=forged(report, chip=(0x1A0, bytes([number + 1]) * 64))))
        assert kds.asked.total() == 5
        kds.answers[path] = Says(body=vcek)
        mine.provide(evidence())
        assert kds.asked.total() == 5

    def test_a_service_that_does_not_answer_holds_up_nobody_for_long(self, supply, evidence, kds, path, vcek):
        gate = threading.Event()
        kds.answers[path] = Says(body=vcek, gate=gate)
        mine = supply(wait_s=0.01)
        mine.provide(evidence())
        assert refusal(evidence()) == "snp.leaf-present"
        gate.set()
        until(lambda: not mine._flights._flights)
        assert admitted(evidence())  # what came late was kept all the same

    def test_one_that_expired_is_not_fetched_again_and_again(
        self, supply, evidence, kds, path, service, platform, folder, now
    ):
        days = {"not_before": now - timedelta(days=9), "not_after": now - timedelta(days=1)}
        old = service.vcek(platform.chip_id, platform.tcb, platform.vcek_key(), **days)
        add(folder, [Offer("old", old)], (service.root,))
        kds.answers[path] = Says(body=old)
        mine = supply()
        for _ in range(3):
            mine.provide(evidence())
        assert kds.asked == {path: 1}

    def test_a_bundle_that_cannot_be_written(self, supply, evidence, kds, path, vcek, tmp_path):
        kds.answers[path] = Says(body=vcek)
        (tmp_path / "file").touch()
        supply(folder=CollateralFolder(tmp_path / "file" / "bundle")).provide(evidence())
        assert refusal(evidence()) == "snp.leaf-present"


class Patience:
    """A clock that goes on when somebody waits."""

    def __init__(self):
        self.at, self.waited = 1000.0, []

    def now(self):
        return self.at

    def __call__(self, seconds):
        self.waited.append(seconds)
        self.at += seconds


class TestRefresh:
    def answers(self, kds, service):
        pem = b"".join(c.public_bytes(Encoding.PEM) for c in (service.chain.ask, service.chain.ark))
        kds.answers[f"/{MILAN}/cert_chain"] = Says(body=pem)
        kds.answers[f"/{MILAN}/crl"] = Says(body=service.crl())

    def test_chains_and_lists(self, supply, kds, service, folder):
        self.answers(kds, service)
        results = supply().refresh([Product.MILAN], Patience())
        assert [(result.path, len(result.added), result.problem, result.failed) for result in results] == [
            (f"{MILAN}/cert_chain", 1, "", False),
            (f"{MILAN}/crl", 1, "", False),
            ("vlek/v1/Milan/cert_chain", 0, "the service has none", False),
            ("vlek/v1/Milan/crl", 0, "the service has none", False),
        ]
        assert (len(folder.current().authorities), len(folder.current().crls)) == (1, 1)
        again = supply().refresh([Product.MILAN], Patience())
        assert [len(result.present) for result in again] == [1, 1, 0, 0]
        json.dumps([result.to_json() for result in again])

    def test_genuine_ones(self, kds, supply, genuine, folder):
        kds.answers["/vcek/v1/Genoa/crl"] = Says(body=genuine("crl/ark-genoa-2022-10-31.der"))
        kds.answers["/vlek/v1/Genoa/cert_chain"] = Says(
            body=genuine("amd/genoa-asvk.pem") + genuine("amd/genoa-ark.pem")
        )
        kds.answers["/vcek/v1/Turin/cert_chain"] = Says(
            body=genuine("amd/turin-ask.pem") + genuine("amd/milan-ask.pem")
        )
        kds.answers["/vcek/v1/Milan/crl"] = Says(body=genuine("crl/ark-genoa-2022-10-31.der"))
        kds.answers["/vcek/v1/Milan/cert_chain"] = Says(body=genuine("amd/milan-asvk.pem"))
        results = supply(roots=amd_roots()).refresh(Product, Patience())
        assert len(results) == 12
        assert [result.path for result in results if result.added] == [
            "vcek/v1/Genoa/crl",
            "vlek/v1/Genoa/cert_chain",
        ]
        assert [result.path for result in results if result.failed] == [
            "vcek/v1/Milan/cert_chain",
            "vcek/v1/Milan/crl",
            "vcek/v1/Turin/cert_chain",
        ]
        assert len(list(folder.path.iterdir())) == 2

    def test_what_fails_does_not_keep_the_rest_back(self, kds, supply, service, folder):
        self.answers(kds, service)
        kds.answers[f"/{MILAN}/cert_chain"] = Says(body=b"nonsense")
        results = supply().refresh([Product.MILAN], Patience())
        assert [result.failed for result in results] == [True, False, False, False]
        assert len(folder.current().crls) == 1

    @pytest.mark.parametrize(
        ("says", "waits", "failed"),
        [
            (Says(429), [2], [True, False, False, False]),
            (Says(500), [2], [True, False, False, False]),
            (Says(503, headers={"Retry-After": "60"}), [60], [True, False, False, False]),
            (Says(429, headers={"Retry-After": "100"}), [60, 40], [True, True, False, False]),
        ],
        ids=["429", "500", "a minute", "longer"],
    )
    def test_the_pause_that_is_asked_for_is_waited_out(self, kds, supply, service, says, waits, failed):
        self.answers(kds, service)
        kds.answers[f"/{MILAN}/cert_chain"] = says
        wait = Patience()
        results = supply(monotonic=wait.now).refresh([Product.MILAN], wait)
        assert (wait.waited, [result.failed for result in results]) == (waits, failed)

    def test_a_service_that_only_fails_is_not_waited_for_all_along(self, kds, supply):
        for path in (f"/{service}/v1/{product}/{what}" for service in ("vcek", "vlek") for product in Product
                     for what in ("cert_chain", "crl")):  # fmt: skip
            kds.answers[path] = Says(500)
        wait = Patience()
        results = supply(monotonic=wait.now).refresh(Product, wait)
        assert [result.failed for result in results] == [True] * 12
        assert (wait.waited, kds.asked.total()) == ([2, 4, 8, 16], 5)
