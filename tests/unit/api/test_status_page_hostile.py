"""Whatever guests, hosts and others have put into the database: a page shows it, and is made of the same parts."""

import json
import shutil
import unicodedata
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import enrollment_world as w
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from html_pages import Page
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ca_service.api import Services, create_app
from ca_service.api.page.rendering import prose, visible
from ca_service.operations import overview
from ca_service.store import schema

OPERATOR = {"vtpm_ca.operator": "alice"}
KEY = ec.derive_private_key(7, ec.SECP256R1())

NASTY = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</title></style></pre></bdi><h1>",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;&amp;&#x3c;",
    "javascript:alert(1)",
    "a\u202egnp.exe\u2066\u2069",
    "\x00\x1b[31m\r\nX: y\x7f\x85\u2028",
    "\u05d0\u05d1 12 \u0627",
    "z\u0300\u0301\u0302\ufeff\u200b\u00ad",
    "`` `a` <b>`",
)
texts = st.one_of(st.sampled_from(NASTY), st.text(min_size=1, max_size=40))


def visible_only(text):
    return all(c == " " or (c.isprintable() and unicodedata.category(c)[0] not in "MZ") for c in text)


def certificate(subject):
    """DER of a certificate with this text as its subject's name."""
    short = subject[:40].encode()[:64].decode(errors="ignore")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, short, _validate=False)])
    at = datetime(2026, 11, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(KEY.public_key())
    builder = builder.serial_number(1).not_valid_before(at).not_valid_after(at + timedelta(days=99))
    return builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.DER)


class Written:
    """A CA with one row of each kind, whose texts anybody may have written."""

    def __init__(self, ceremony, directory, tpm) -> None:
        shutil.copytree(ceremony.directory, directory)
        world = w.World(directory, ceremony.authority)
        self.store = world.new_store()
        world.apply(self.store, world.policy())
        enroller = world.enroller(self.store)
        issued = w.certificates(w.issue(world, enroller, tpm))
        w.operate(world, self.store, "cert-revoke", serial=f"{issued[0].serial_number:034x}", yes=True)
        self.client = create_app(Services(self.store, enroller)).test_client()
        with self.store.write() as tx:
            tx.alarms.add("clone", "d", "{}", world.time)
            tx.connection.execute(schema.decisions.update().values(admitted=0))
            self.decision = tx.decisions.latest(1)[0].id
            self.serials = [row.serial for row in tx.certificates.latest()]

    def write(self, text):
        """Put a text wherever one can stand."""
        finding = dict.fromkeys(("rule", "reason", "expected", "actual"), text) | {"verdict": "failed"}
        claim = {"kbs": text, "resource": text}
        detail = {"rule": text, "newcomer": claim, "holders": [{"kbs": "other", "resource": text}]}
        named = {"kbs_id": text, "resource": text, "salt": text}
        with self.store.write() as tx:
            # The order of pages, and the links between them, are not what this is about.
            run = tx.connection.execute
            run(schema.decisions.update().values(rule=text, stage=text, trace=json.dumps([finding]), **named))
            run(schema.instances.update().values(**named))
            run(schema.tpms.update().values(ek_set=text, salt=text))
            run(schema.policies.update().values(applied_by=text, digest=text))
            run(schema.alarms.update().values(kind=text, detail=json.dumps(detail), decision_id=text))
            run(schema.revocations.update().values(cause=text, reason=text))
            run(schema.issuers.update().values(pair=text))
            table = schema.certificates
            run(table.update().values(profile=text, template=text, der=certificate(text)))

    def pages(self):
        paths = ["/status", "/status/refusals", "/status/certificates", f"/status/decisions/{self.decision}"]
        paths += [f"/status/certificates/{serial}" for serial in self.serials] + ["/status/instances/1"]
        for path in paths:
            response = self.client.get(path, environ_overrides=OPERATOR)
            assert response.status_code == 200, path
            yield response.text


@pytest.fixture(scope="module")
def written(ceremony, tpm, tmp_path_factory):
    made = Written(ceremony, tmp_path_factory.mktemp("written") / "world", tpm)
    with pytest.MonkeyPatch.context() as patch:
        # Checks of health repeat names, too.
        patch.setattr(overview, "_HEALTH_S", 0.0)
        patch.setattr(overview, "_SHARE", 0.0)
        yield made
    made.store.close()


@pytest.fixture(scope="module")
def harmless(written):
    """What the pages are made of when nobody means any harm."""
    written.write("harmless")
    found = []
    for text in written.pages():
        assert "harmless" in text
        found.append(Page(text).tags)
    return found


def _check(written, harmless, text):
    written.write(text)
    for page, tags in zip(written.pages(), harmless, strict=True):
        parsed = Page(page)
        assert parsed.faults == []
        assert parsed.tags == tags
        # Between the lines of the templates, only what can be seen.
        assert all(visible_only(line) for line in page.split("\n"))


@settings(max_examples=6)
@given(text=texts)
@example(text=NASTY[1])
@example(text=NASTY[2])
@example(text=NASTY[7])
@example(text=NASTY[8])
@example(text=NASTY[-1])
def test_no_text_changes_what_a_page_is_made_of(written, harmless, text):
    _check(written, harmless, text)


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(max_examples=500)
@given(text=texts)
def test_none_of_many_texts_does(written, harmless, text):
    _check(written, harmless, text)


@given(text=st.text(alphabet=st.characters(), max_size=60))
@example(text="\ud800")
@example(text="".join(NASTY))
def test_what_is_shown_can_be_seen(text):
    shown = visible(text)
    assert visible_only(shown)
    shown.encode("utf-8")
    plain = "".join(c for c in text if c.isascii() and c.isprintable())
    if plain == text:
        assert shown == text


@settings(max_examples=40)
@given(text=texts)
def test_prose_sets_commands_apart_and_nothing_else(text):
    page = Page(f"<h1>x</h1>{prose(text)}")
    assert {tag for tag, *_ in page.tags} <= {"h1", "code"}
    assert page.faults == []


def test_what_is_asked_for_is_escaped_too(written):
    for nasty in NASTY:
        for path in ("/status/decisions/", "/status/certificates/", "/status/instances/"):
            response = written.client.get(path + quote(nasty, safe=""), environ_overrides=OPERATOR)
            assert response.status_code in (400, 404)
            if response.mimetype == "text/html":
                assert Page(response.text).faults == []
        query = {"q": nasty, "before": nasty}
        for path in ("/status/find", "/status/refusals", "/status/certificates"):
            response = written.client.get(path, query_string=query, environ_overrides=OPERATOR)
            assert response.status_code in (400, 404)
            assert Page(response.text).faults == []
