"""URLs of AMD's service, single answers, and how a client behaves whom it sends away."""

import contextlib
import gc
import socket
import ssl
import threading
import warnings
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kds_stand_in import Says

from ca_service.collateral.kds import AMD_KDS, Answer, KdsClient, KdsLimits, check_base
from ca_service.collateral.kds.client import retry_after_s
from ca_service.collateral.kds.flights import Flights
from ca_service.collateral.kds.http import HttpFetcher
from ca_service.collateral.kds.urls import chain_path, crl_path, vcek_path
from ca_service.judgment import BadRequest, NotFound, Unavailable
from vtpm.wire.certtable import CertKind
from vtpm.wire.report import Product

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


class TestUrls:
    def test_vceks(self):
        chip, tcb = bytes(range(64)), bytes([3, 0, 0, 0, 0, 0, 8, 115])
        for product in (Product.MILAN, Product.GENOA):
            assert vcek_path(product, chip, tcb) == (
                f"vcek/v1/{product}/{chip.hex()}?blSPL=03&teeSPL=00&snpSPL=08&ucodeSPL=115"
            )
        chip, tcb = bytes(range(8)) + bytes(56), bytes([1, 2, 3, 4, 0, 0, 0, 255])
        assert vcek_path(Product.TURIN, chip, tcb) == (
            "vcek/v1/Turin/0001020304050607?fmcSPL=01&blSPL=02&teeSPL=03&snpSPL=04&ucodeSPL=255"
        )

    def test_no_chip_no_url(self):
        assert vcek_path(Product.MILAN, bytes(64), bytes(8)) is None
        assert vcek_path(Product.TURIN, bytes(range(64)), bytes(8)) is None
        assert vcek_path(Product.TURIN, bytes(64), bytes(8)) is None

    @given(st.sampled_from(Product), st.binary(min_size=64, max_size=64), st.binary(min_size=8, max_size=8))
    def test_whatever_the_bytes(self, product, chip, tcb):
        path = vcek_path(product, chip, tcb)
        assert path is None or path.isascii()
        if path is not None:
            head, _, query = path.partition("?")
            assert set(head.rpartition("/")[2]) <= set("0123456789abcdef")
            assert all(part.partition("=")[2].isdecimal() for part in query.split("&"))

    def test_chains_and_lists(self):
        assert chain_path(Product.TURIN, CertKind.VLEK) == "vlek/v1/Turin/cert_chain"
        assert crl_path(Product.GENOA, CertKind.VCEK) == "vcek/v1/Genoa/crl"

    @pytest.mark.parametrize(
        "url", [AMD_KDS, "http://127.0.0.1:8080", "http://[::1]:1/a/b", "https://m.example/kds/"]
    )
    def test_bases(self, url):
        assert check_base(url) == url.rstrip("/")

    @pytest.mark.parametrize(
        "url",
        ["", "kds", "ftp://m", "file:///etc/passwd", "https://", "https://u:p@m", "https://m?x", "https://m#x",
         "https://m/a b", "https://m\n", "https://m:x", "https://m:0", "https://m:99999", "https://[::1", "https://m/\u00e9"],
    )  # fmt: skip
    def test_what_is_no_base(self, url):
        with pytest.raises(BadRequest, match="--kds-url"):
            check_base(url)


class TestHttp:
    def test_an_answer(self, kds):
        kds.answers["/x"] = Says(body=b"content")
        assert HttpFetcher()(f"{kds.url}/x") == Answer(200, b"content")
        assert kds.heads[0]["Accept-Encoding"] == "identity"
        assert "Authorization" not in kds.heads[0]

    def test_other_answers_have_no_body(self, kds):
        kds.answers["/x"] = Says(429, b"slow down", {"Retry-After": "7"})
        assert HttpFetcher()(f"{kds.url}/x") == Answer(429, b"", "7")

    def test_nobody_is_followed(self, kds):
        kds.answers["/x"] = Says(302, headers={"Location": f"{kds.url}/y"})
        assert HttpFetcher()(f"{kds.url}/x") == Answer(302)
        assert kds.asked == {"/x": 1}

    def test_a_proxy_of_the_environment(self, kds, monkeypatch):
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setenv("HTTP_PROXY", kds.url)
        kds.answers["http://kds.example/x"] = Says(body=b"content")
        assert HttpFetcher()("http://kds.example/x").body == b"content"

    def test_passwords_at_home_stay_there(self, kds, tmp_path, monkeypatch):
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        HttpFetcher()(f"{kds.url}/x")
        assert "Authorization" not in kds.heads[0]

    def test_a_body_that_breaks_off(self, kds):
        kds.answers["/x"] = Says(body=b"content", length=100, headers={"Connection": "close"})
        with pytest.raises(Unavailable):
            HttpFetcher(read_s=0.2)(f"{kds.url}/x")

    def test_a_huge_body(self, kds):
        kds.answers["/x"] = Says(body=bytes(5000))
        assert len(HttpFetcher(most=5000)(f"{kds.url}/x").body) == 5000
        with pytest.raises(Unavailable, match="more than 4999"):
            HttpFetcher(most=4999)(f"{kds.url}/x")

    @pytest.mark.parametrize(
        ("scheme", "begins"),
        [
            ("http", b""),
            ("http", b"HTTP/1.1 200 OK\r\nX: "),
            ("http", b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n"),
            ("http", b"HTTP/1.1 200 OK\r\n\r\n"),
            ("https", b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc"),
        ],
        ids=["status", "head", "body", "body without length", "TLS handshake"],
    )
    def test_an_answer_that_comes_byte_by_byte(self, scheme, begins, monkeypatch):
        """Each byte is in time, and all of them would take hours."""
        monkeypatch.setenv("NO_PROXY", "*")
        with socket.create_server(("127.0.0.1", 0)) as server, contextlib.ExitStack() as opened:

            def drip():
                connection = opened.enter_context(server.accept()[0])
                # On a busy machine the client may have given up by now.
                with contextlib.suppress(OSError):
                    connection.recv(4096)
                    connection.sendall(begins)
                    while not over.wait(0.01):
                        connection.sendall(b"a")

            over = threading.Event()
            thread = threading.Thread(target=drip)
            thread.start()
            stop = threading.Timer(20, over.set)  # an endless answer fails the test, and does not hang it
            stop.start()
            with pytest.raises(Unavailable, match=r"too slow|no answer"):
                HttpFetcher(whole_s=0.2)(f"{scheme}://127.0.0.1:{server.getsockname()[1]}/x")
            ended_by_itself = not over.is_set()
            stop.cancel()
            over.set()
            thread.join()
        assert ended_by_itself

    def test_a_connection_that_is_cut_off_before_tls_begins_is_closed(self, monkeypatch):
        """The time is over, and the server goes on to send: the system resets what `ssl` is about to take over."""
        monkeypatch.setenv("NO_PROXY", "*")
        wrap = ssl.SSLContext.wrap_socket
        met = []

        def late(context, connection, *arguments, **options):
            until(lambda: is_reset(connection))
            try:
                return wrap(context, connection, *arguments, **options)
            except OSError as error:
                met.append(type(error))
                raise

        def answer():
            with server.accept()[0] as connection, contextlib.suppress(OSError):
                connection.recv(4096)
                connection.sendall(b"too early")
                connection.recv(4096)

        monkeypatch.setattr(ssl.SSLContext, "wrap_socket", late)
        with socket.create_server(("127.0.0.1", 0)) as server, warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            thread = threading.Thread(target=answer)
            thread.start()
            with pytest.raises(Unavailable):
                HttpFetcher(whole_s=0.2)(f"https://127.0.0.1:{server.getsockname()[1]}/x")
            thread.join()
            gc.collect()
        assert met == [ConnectionResetError]
        assert [str(warning.message) for warning in seen if warning.category is ResourceWarning] == []

    def test_what_comes_in_time_is_not_cut_off(self, kds):
        kds.answers["/x"] = Says(body=b"content", headers={"Connection": "close"})
        assert HttpFetcher(whole_s=3600)(f"{kds.url}/x").body == b"content"
        until(lambda: not any(isinstance(thread, threading.Timer) for thread in threading.enumerate()))

    def test_no_thread_is_left(self, kds, monkeypatch):
        monkeypatch.setattr(threading.Timer, "start", no_thread)
        with pytest.raises(Unavailable, match="no thread"):
            HttpFetcher()(f"{kds.url}/x")

    def test_nothing_comes(self, kds):
        gate = threading.Event()
        kds.answers["/x"] = Says(gate=gate)
        with pytest.raises(Unavailable, match="Timeout"):
            HttpFetcher(read_s=0.1)(f"{kds.url}/x")
        gate.set()

    def test_nobody_listens(self, monkeypatch):
        monkeypatch.setenv("NO_PROXY", "*")
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            with pytest.raises(Unavailable, match="gives no answer"):
                HttpFetcher()(f"http://127.0.0.1:{taken.getsockname()[1]}/vcek/v1/Milan/secret")

    def test_errors_name_the_host_and_no_chip(self, kds):
        kds.answers["/vcek/v1/Milan/c0ffee"] = Says(body=bytes(10))
        with pytest.raises(Unavailable) as error:
            HttpFetcher(most=1)(f"{kds.url}/vcek/v1/Milan/c0ffee")
        assert "c0ffee" not in error.value.detail


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("9" * 400, 999999999.0),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(NOW - timedelta(days=1), usegmt=True), -86400.0),
        ("Mon, 23 Nov 2026 12:00:30 -0000", 30.0),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("\u0661", None),
        ("Mon, 99 Nov 2026 12:00:30 GMT", None),
    ],
)
def test_retry_after(header, seconds):
    assert retry_after_s(header, NOW) == seconds


@given(st.text())
def test_retry_after_of_anything(header):
    found = retry_after_s(header, NOW)
    assert found is None or isinstance(found, float)


def is_reset(connection):
    try:
        connection.getpeername()
    except OSError:
        return True
    return False


def no_thread(_thread):
    raise RuntimeError("can't start new thread")


class Service:
    """Answers in turn, and a clock that stands still until it is moved."""

    def __init__(self, *answers, **limits):
        self.answers = list(answers)
        self.asked = []
        self.at = 1000.0
        self.client = KdsClient(
            "https://kds.example", self.fetch, KdsLimits(**limits), now=lambda: NOW, monotonic=lambda: self.at
        )

    def fetch(self, url):
        self.asked.append(url)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def pause(self):
        """Seconds until the next request is made."""
        waited = 0
        while True:
            count = len(self.asked)
            with contextlib.suppress(Unavailable, NotFound):
                self.client.get(f"pause-{waited}")
            if len(self.asked) > count:
                return waited
            waited += 1
            self.at += 1


class TestClient:
    def test_what_is_there(self):
        service = Service(Answer(200, b"x"), Answer(200, b"y"))
        assert [service.client.get("a"), service.client.get("b")] == [b"x", b"y"]
        assert service.asked == ["https://kds.example/a", "https://kds.example/b"]

    def test_what_is_not_there_is_not_asked_for_again_soon(self):
        service = Service(Answer(404), Answer(200, b"b"), Answer(200, b"a"), absent_s=60)
        for _ in range(3):
            with pytest.raises(NotFound):
                service.client.get("a")
        assert service.client.get("b") == b"b"
        service.at += 61
        assert service.client.get("a") == b"a"

    def test_no_more_is_remembered_than_allowed(self):
        service = Service(*[Answer(404)] * 4, absent_most=2)
        for path in "abca":
            with pytest.raises(NotFound):
                service.client.get(path)
        assert len(service.asked) == 4

    @pytest.mark.parametrize("status", [429, 503])
    @pytest.mark.parametrize(
        ("header", "pause"),
        [
            ("30", 30),
            (format_datetime(NOW + timedelta(seconds=45), usegmt=True), 45),
            ("0", 2),
            ("99999999", 100),
            ("", 2),
        ],
    )
    def test_it_stays_away_as_long_as_asked(self, status, header, pause):
        service = Service(Answer(status, retry_after=header), Answer(200), pause_s=2, pause_most_s=100)
        with pytest.raises(Unavailable, match=str(status)):
            service.client.get("a")
        assert service.pause() == pause

    @pytest.mark.parametrize(
        "answer", [Answer(429), Answer(500), Answer(302), Answer(403), Unavailable("away")]
    )
    def test_pauses_double_up_to_a_bound_and_a_good_answer_ends_them(self, answer):
        service = Service(*[answer] * 6, Answer(200, b"x"), answer, Answer(200), pause_s=2, pause_most_s=20)
        with pytest.raises(Unavailable):
            service.client.get("a")
        assert [service.pause() for _ in range(6)] == [2, 4, 8, 16, 20, 20]
        with pytest.raises(Unavailable):
            service.client.get("b")
        assert service.pause() == 2

    def test_no_more_than_so_many_in_a_minute(self):
        service = Service(*[Answer(404)] * 9, per_minute=3)
        for second in range(130):
            with pytest.raises((NotFound, Unavailable)):
                service.client.get(f"made-up-{second}")
            service.at += 1
        assert len(service.asked) == 9


class TestFlights:
    def test_one_flies_for_all(self):
        flights, flown, seen = Flights(1, 12), [], []
        begun, gate = threading.Event(), threading.Event()

        def job():
            flown.append(1)
            begun.set()
            gate.wait(20)
            return "brought"

        threads = [
            threading.Thread(target=lambda: seen.append(flights.join("a", job, 20))) for _ in range(12)
        ]
        for thread in threads:
            thread.start()
        begun.wait(20)
        with pytest.raises(Unavailable, match="too many requests"):
            flights.join("b", job, 0)
        # Whoever comes after the landing has a flight of his own.
        until(lambda: flights._waiting == len(threads))
        gate.set()
        for thread in threads:
            thread.join()
        assert (len(flown), seen) == (1, ["brought"] * 12)

    def test_nobody_waits_for_ever_and_the_job_is_done_all_the_same(self):
        flights, gate, landed = Flights(1, 8), threading.Event(), threading.Event()
        with pytest.raises(Unavailable, match="in time"):
            flights.join("a", lambda: (gate.wait(20), landed.set()), 0.01)
        gate.set()
        assert landed.wait(20)

    def test_what_goes_wrong_is_told_to_all_and_the_next_one_tries_again(self):
        flights = Flights(1, 8)
        with pytest.raises(NotFound):
            flights.join("a", lambda: (_ for _ in ()).throw(NotFound("gone")), 20)
        flights.join("a", lambda: None, 20)

    def test_no_more_wait_than_allowed_for_all_jobs_together(self):
        flights, gate, landed = Flights(3, 2), threading.Event(), threading.Event()
        begun = threading.Semaphore(0)

        def job():
            begun.release()
            gate.wait(20)

        threads = [threading.Thread(target=flights.join, args=(key, job, 20)) for key in "ab"]
        for thread in threads:
            thread.start()
        for _ in threads:
            begun.acquire(timeout=20)
        until(lambda: flights._waiting == 2)
        for key in "ac":
            with pytest.raises(Unavailable, match="too many wait"):
                flights.join(key, landed.set, 20)
        assert landed.wait(20)  # what nobody could wait for was done all the same
        gate.set()
        for thread in threads:
            thread.join()
        assert flights.join("a", lambda: "again", 20) == "again"

    def test_a_job_that_hangs_is_given_up(self):
        clock, gate, landed = [0.0], threading.Event(), threading.Event()
        flights = Flights(1, 8, longest_s=60, monotonic=lambda: clock[0])
        with pytest.raises(Unavailable, match="in time"):
            flights.join("a", lambda: (gate.wait(20), landed.set()), 0)
        for key in "ab":
            clock[0] = 59.9
            with pytest.raises(Unavailable):
                flights.join(key, lambda: None, 0)
        clock[0] = 60.0
        second = threading.Event()
        with pytest.raises(Unavailable, match="in time"):
            flights.join("a", lambda: second.wait(20), 0)
        gate.set()  # the first one lands late, and takes nothing of the second one away
        assert landed.wait(20)
        until(lambda: sum(thread.name == "kds" for thread in threading.enumerate()) == 1)
        with pytest.raises(Unavailable, match="too many requests"):
            flights.join("b", lambda: None, 0)
        second.set()
        until(lambda: not flights._flights)

    def test_a_thread_that_cannot_start_blocks_nobody(self, monkeypatch):
        flights = Flights(1, 1)
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", no_thread)
            for key in "ab":
                with pytest.raises(Unavailable, match="no thread"):
                    flights.join(key, lambda: None, 0)
        assert flights.join("a", lambda: "done", 20) == "done"


def until(condition):
    """Wait until it is so; what is waited for is at work in another thread."""
    for _ in range(2000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError
