"""What independent programs say of this CA's certificates: they take what is good, refuse what is not, and the document
says no other than what was seen here.
"""

import re
from datetime import timedelta

import enrollment_world as w
import pytest
from consumer_table import DOCUMENT, TOOLS, consumers, document_with, in_tpms, issuer_of, look
from consumer_tools import (
    NOT_FOR_IT,
    PASS,
    Files,
    certificate_pem,
    list_pem,
    programs,
)
from consumer_tpm import ToolFailed, machines
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from every_certificate import EKS, EPHEMERAL, HOUR, IDENTITIES

from ca_service.keys import load_root
from ca_service.profiles import assemble, oids
from ca_service.status import build_crl
from vtpm.wire.public_area import name

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def tpms(every, tmp_path_factory):
    with machines(every, tmp_path_factory.mktemp("consumers") / "tpms") as made:
        yield made


@pytest.fixture(scope="module")
def files(every, tmp_path_factory):
    return Files(tmp_path_factory.mktemp("consumers") / "files", every)


@pytest.fixture(scope="module")
def asked(files):
    with programs(files) as made:
        yield made


@pytest.fixture(scope="module")
def seen(every, asked, tpms):
    return look(every, asked, tpms)


@pytest.fixture(scope="module")
def namesake(every, tmp_path_factory):
    """Another CA with the same names."""
    world = w.World.create(tmp_path_factory.mktemp("namesake"), ocsp=True, at=every.at - HOUR)
    ours, theirs = every.world.authority, world.authority
    assert [ca.certificate.subject for ca in theirs.issuers] == [
        ca.certificate.subject for ca in ours.issuers
    ]
    return world


@pytest.fixture(scope="module")
def openssl(asked):
    return asked.openssl


@pytest.fixture(scope="module")
def certtool(asked):
    return asked.certtool


@pytest.fixture(scope="module")
def pkilint(asked):
    return asked.pkilint


@pytest.fixture(scope="module")
def impostor(every, files, namesake):
    """An EK certificate that states all that one of ours does, key ids too; the CA of the same name has signed it."""
    tbs = every.one("ek").certificate.tbs_certificate_bytes
    der = assemble(tbs, namesake.authority.issuer("ek").signer.sign(tbs))
    return files.put("impostor.pem", certificate_pem(der))


@pytest.fixture(scope="module")
def other_root(files, namesake):
    return files.put("other-root.pem", namesake.authority.root.public_bytes(Encoding.PEM))


# --- what was seen ---


def test_the_document_says_what_was_seen(seen):
    """`python tests/consumers` writes it."""
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text == document_with(text, seen)


def test_every_kind_and_template_is_in_the_tables(seen):
    found = {(one.profile, one.template, one.ephemeral) for one in seen.rows if one.device}
    wanted = {("ek", template) for template in EKS}
    wanted |= {(kind, template) for kind in ("iak", "iak-webauthn", "idevid") for template in IDENTITIES}
    assert found == {(*one, ephemeral) for one in wanted for ephemeral in (False, True)}
    assert [one.profile for one in seen.rows if not one.device] == ["ocsp"] * 3 + ["issuing-ca"] * 3 + [
        "root-ca"
    ]
    assert len({one.id for one in seen.rows}) == len(seen.rows)
    for one in seen.rows:
        for consumer in (*TOOLS, *consumers()):
            assert re.fullmatch(rf"{PASS}|{NOT_FOR_IT}|refused: .+", seen.cells[one.id, consumer])


def test_who_was_asked(seen):
    """Programs that read certificates about all of them, those of a TPM's guest about what is in it."""
    for one in seen.rows:
        assert NOT_FOR_IT not in [seen.cells[one.id, tool] for tool in ("openssl", "certtool", "pkilint")]
        in_tpm = {seen.cells[one.id, tool] == NOT_FOR_IT for tool in ("tpm2-tools", "Linux")}
        assert in_tpm == {not one.device}


def test_all_are_taken(seen):
    for tool in ("openssl", "certtool", "pkilint"):
        assert set(seen.of(tool).values()) == {PASS}
    assert set(seen.of("Linux").values()) == {PASS, NOT_FOR_IT}


def test_what_tpm2_tools_do_not_take(seen):
    """Quotes by RSA keys: tpm2_checkquote 5.4 knows RSASSA-PSS not at all, and no key file of RSA-3072."""
    unable = {one.id for one in seen.rows if one.profile.startswith("iak") and one.key.startswith("RSA")}
    cells = seen.of("tpm2-tools")
    assert {id_ for id_, cell in cells.items() if cell not in (PASS, NOT_FOR_IT)} == unable
    assert all(cells[id_].startswith("refused: tpm2_checkquote: ") for id_ in unable)


def renamed(one, oid):
    """The certificate with its provenance under another object identifier, signed by nobody."""
    own = one.certificate
    builder = (
        x509.CertificateBuilder()
        .subject_name(own.subject)
        .issuer_name(own.issuer)
        .public_key(own.public_key())
        .serial_number(own.serial_number)
        .not_valid_before(own.not_valid_before_utc)
        .not_valid_after(own.not_valid_after_utc)
    )
    for extension in own.extensions:
        value = extension.value
        if extension.oid == oids.PROVENANCE:
            value = x509.UnrecognizedExtension(oid, value.value)
        builder = builder.add_extension(value, extension.critical)
    made = builder.sign(ec.generate_private_key(ec.SECP384R1()), hashes.SHA384())
    return made.public_bytes(Encoding.DER)


def test_arcs_are_of_31_bits_at_most(every, files, certtool, pkilint):
    """As the object identifier of releases up to 0.5 was not: GnuTLS and pkilint read nothing in which it stands."""
    for one in every.issued:
        for extension in one.certificate.extensions:
            assert max(map(int, extension.oid.dotted_string.split("."))) < 1 << 31
    one = every.one("ek")
    ders = {oid: renamed(one, oid) for oid in (oids.PROVENANCE, oids.FORMER_PROVENANCE)}
    reads = {oid: certtool.reads(files.put("renamed.der", der)) for oid, der in ders.items()}
    assert reads == {oids.PROVENANCE: True, oids.FORMER_PROVENANCE: False}
    linted = pkilint.certificates({oid: (der, None) for oid, der in ders.items()})
    assert linted[oids.PROVENANCE] == PASS
    assert "larger than 32-bits" in linted[oids.FORMER_PROVENANCE]


def test_lists_and_answers_are_well_formed(every, pkilint):
    assert set(pkilint.lists().values()) == {PASS}
    assert pkilint.answer(every.answer(every.one("ek"))) == PASS


def test_pkilint_would_say_if_something_were_wrong(every, pkilint):
    """A certificate in another's place in the chain, and one that states a length too much."""
    one = every.one("ocsp")
    wrong = every.authority_of("ek" if one.issuer != "ek" else "devid").public_bytes(Encoding.DER)
    spoilt = one.der.replace(
        bytes.fromhex("0603551d0f0101ff0404030207"), bytes.fromhex("0603551d0f0101ff0404030200")
    )
    assert spoilt != one.der
    linted = pkilint.certificates({"chain": (one.der, wrong), "bits": (spoilt, issuer_of(every, one))})
    assert set(linted) == {"chain", "bits"}
    assert PASS not in linted.values(), linted


# --- OpenSSL ---


class TestOpenSsl:
    def test_revoked(self, every, openssl):
        for one in every.revoked:
            assert openssl.verify(one, "-crl_check_all") == "refused: certificate revoked"
            assert openssl.ask(one) == "refused: certificate revoked"
            assert openssl.verify(one, lists=False) == PASS

    def test_an_issuing_ca_that_is_revoked(self, every, openssl, files):
        der = build_crl(
            every.root,
            [(every.authority_of("ek").serial_number, every.at, "cACompromise")],
            2,
            every.at,
            every.at + HOUR,
        )
        others = [list_pem(one) for (role, _), one in every.lists.items() if role != "root"]
        path = files.put("root-revokes.pem", b"".join([list_pem(der), *others]))
        assert openssl.verify(every.one("ek"), "-crl_check_all", lists=path) == "refused: certificate revoked"
        assert openssl.verify(every.one("iak"), "-crl_check_all", lists=path) == PASS

    def test_expired(self, every, openssl):
        late = every.at + EPHEMERAL
        for one in every.devices:
            if one.template in ("L-1", "H-3"):
                said = openssl.verify(one, lists=False, at=late)
                assert said == ("refused: certificate has expired" if one.ephemeral else PASS)

    def test_before_its_time(self, every, openssl):
        early = every.at - HOUR - timedelta(seconds=1)
        assert (
            openssl.verify(every.one("ek"), lists=False, at=early) == "refused: certificate is not yet valid"
        )

    def test_lists_that_are_old(self, every, openssl):
        late = every.at + timedelta(days=8)
        assert openssl.verify(every.one("ek"), "-crl_check_all", at=late) == "refused: CRL has expired"

    def test_a_list_that_is_another_shards(self, every, openssl, files):
        """None stands in for the one that a certificate names."""
        one = every.revoked[-1]
        own = int(re.search(r"/(\d+)\.crl", crl_url(one.certificate))[1])
        for shard in range(4):
            path = files.put(
                "shard.pem", list_pem(every.lists["root", 0]) + list_pem(every.lists[one.issuer, shard])
            )
            said = openssl.verify(one, "-crl_check_all", lists=path)
            assert said == f"refused: {'certificate revoked' if shard == own else 'different CRL scope'}"

    def test_no_list_at_all(self, every, openssl, files):
        path = files.put("root-list.pem", list_pem(every.lists["root", 0]))
        assert (
            openssl.verify(every.one("ek"), "-crl_check", lists=path)
            == "refused: unable to get certificate CRL"
        )

    def test_another_ca_of_the_same_name(self, every, openssl, impostor, other_root):
        assert openssl.verify(impostor, lists=False) == "refused: certificate signature failure"
        said = openssl.verify(every.one("ek"), lists=False, root=other_root)
        assert said in (
            "refused: unable to get issuer certificate",
            "refused: unable to get local issuer certificate",
        )
        assert "verify error" in openssl.ask(every.one("ek"), root=other_root)

    @pytest.mark.parametrize(
        "purpose", ["sslserver", "sslclient", "smimesign", "smimeencrypt", "crlsign", "timestampsign"]
    )
    def test_for_another_purpose(self, every, openssl, purpose):
        """Nobody can serve TLS, sign mail or lists with a key of a TPM that this CA has certified."""
        for profile in ("ek", "iak", "iak-webauthn", "ocsp"):
            said = openssl.verify(every.one(profile), "-purpose", purpose, lists=False)
            assert said in (
                "refused: unsupported certificate purpose",
                "refused: unsuitable certificate purpose",
            ), profile

    def test_policies_that_one_demands(self, every, openssl):
        """Issuing CAs state no policies, so nobody may demand one of the whole path (RFC 5280, section 6.1)."""
        words = ("-explicit_policy", "-policy", "2.23.133.11.1.1")
        assert openssl.verify(every.one("iak"), *words, lists=False) == "refused: no explicit policy"

    def test_an_answer_about_another(self, every, openssl):
        """Whoever has one about another certificate of the same CA has none."""
        said = openssl.ask(every.one("iak"), every.answer(every.one("idevid")))
        assert said == "refused: no status found"

    def test_an_answer_that_was_changed(self, every, openssl):
        one = every.revoked[-1]
        answer = every.answer(one)
        assert answer.count(b"\xa1\x16\x18\x0f") == 1  # revoked, and the time
        said = openssl.ask(one, answer.replace(b"\xa1\x16\x18\x0f", b"\xa1\x16\x18\x0e"))
        assert said.startswith("refused")
        assert "certificate" not in said.splitlines()[0]

    def test_lists(self, every, openssl):
        ended = {one.certificate.serial_number for one in every.revoked}
        shown = set()
        for (role, shard), der in every.lists.items():
            said = openssl.read_list(der, role)
            assert "verify OK" in said
            assert "verify OK" not in openssl.read_list(der, "devid" if role == "ek" else "ek")
            if role != "root":
                assert f"URI:{every.world.authority.issuer(role).info.list_url(shard)}" in said
            shown |= {int(serial, 16) for serial in re.findall(r"Serial Number: ([0-9A-F]+)", said)}
            assert len(re.findall("Key Compromise", said)) == len(re.findall("Serial Number", said))
        assert shown == ended


def crl_url(certificate):
    (point,) = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    return point.full_name[0].value


# --- GnuTLS ---


class TestCertTool:
    def test_lists(self, every, certtool):
        ended = {f"{one.certificate.serial_number:034x}" for one in every.revoked}
        shown = set()
        for (role, _), der in every.lists.items():
            assert certtool.verify_list(der, role) == PASS
            other = "devid" if role == "ek" else "ek"
            assert certtool.verify_list(der, other) == "refused: The certificate issuer is unknown."
            shown |= set(re.findall(r"Serial Number \(hex\): (\w+)", certtool.read_list(der)))
        assert shown == ended

    def test_a_list_of_the_ca_of_the_same_name(self, every, namesake, certtool):
        root = load_root(namesake.directory / "ca", w.PASSPHRASE)
        der = build_crl(root, [], 1, every.at, every.at + HOUR)
        assert certtool.verify_list(der, "root").startswith("refused: ")

    def test_an_issuing_ca_that_is_revoked(self, every, certtool):
        serial = every.authority_of("ek").serial_number
        der = build_crl(every.root, [(serial, every.at, "cACompromise")], 2, every.at, every.at + HOUR)
        for profile in ("ocsp", "issuing-ca"):
            assert (
                certtool.verify(every.one(profile, issuer="ek"), lists=[der])
                == "refused: The certificate chain is revoked."
            )
            assert certtool.verify(every.one(profile, issuer="devid"), lists=[der]) == PASS

    def test_revoked(self, every, certtool):
        for one in every.revoked:
            assert certtool.verify(one) == "refused: The certificate chain is revoked."
            assert certtool.verify(one, lists=[every.lists["root", 0]]) == PASS

    def test_a_certificate_that_the_ca_of_the_same_name_has_signed(self, certtool, impostor):
        said = certtool.verify(impostor.read_bytes(), issuer="ek")
        assert said == "refused: The signature in the certificate is invalid."

    def test_a_device_serves_no_tls(self, every, certtool):
        for profile in ("ek", "iak", "iak-webauthn"):
            said = certtool.verify(every.one(profile), "--verify-purpose", "1.3.6.1.5.5.7.3.1")
            assert said == "refused: The certificate chain does not match the intended purpose."

    def test_of_several_lists_one_counts(self, every, certtool):
        """GnuTLS does not look at the place that a list is of: the one that was given first or last stands for all."""
        for one in every.revoked:
            root, own = every.lists["root", 0], certtool.named_list(one)
            others = [der for (role, _), der in every.lists.items() if role == one.issuer and der != own]
            said = {certtool.verify(one, lists=[root, *lists]) for lists in ([own, *others], [*others, own])}
            assert said == {PASS, "refused: The certificate chain is revoked."}

    def test_a_ca_of_the_same_name(self, every, certtool, other_root):
        for profile in ("ocsp", "issuing-ca", "root-ca"):
            said = certtool.verify(every.one(profile), root=other_root)
            assert said.startswith("refused: ")

    def test_for_another_purpose(self, every, certtool):
        said = certtool.verify(every.one("ocsp"), "--verify-purpose", "1.3.6.1.5.5.7.3.1")
        assert said == "refused: The certificate chain does not match the intended purpose."


# --- a TPM's guest ---


@pytest.fixture(scope="module")
def first(tpms):
    """The TPM with EK L-1 (and one of the high range), and IAK and IDevID of an RSA key."""
    return next(machine for machine, one in in_tpms(tpms) if one.template == "L-1")


@pytest.fixture(scope="module")
def curved(tpms):
    """The TPM with IAK H-3, its certificate, and that certificate's counterpart of another TPM."""
    found = {
        one.template: (machine, one) for machine, one in in_tpms(tpms) if one.id in ("iak-H-2", "iak-H-3")
    }
    return *found["H-3"], found["H-2"][1]


class TestGuest:
    def test_the_eks_certificate_without_a_word_about_its_place(self, tpms, tmp_path):
        """``tpm2_getekcertificate`` finds RSA and ECC by itself."""
        for machine in tpms:
            for one in machine.held:
                if one.profile == "ek" and not one.ephemeral and one.template in ("L-1", "L-2"):
                    machine.show(one)
                    machine.tool("tpm2_getekcertificate -X -o found.der")
                    assert machine.file("found.der") == one.der

    def test_quotes_are_bound_to_challenge_and_key(self, curved):
        machine, iak, other = curved
        machine.quote(iak)
        with pytest.raises(ToolFailed, match=r"tpm2_checkquote: .*nonce|qualif|extraData"):
            machine.quote(iak, challenge=b"another")
        with pytest.raises(ToolFailed, match="tpm2_checkquote"):
            machine.quote(iak, key=other)

    def test_an_rsa_quote_is_good_whatever_tpm2_checkquote_thinks(self, tpms):
        for machine, one in in_tpms(tpms):
            if one.id in ("iak-H-1", "iak-R-3072"):
                assert machine.pss_verdict(one) == "Verified OK"

    def test_a_credential_for_another_iak_is_not_activated(self, first, curved):
        ek = next(one for one in first.held if one.profile == "ek" and one.template == "L-1")
        machine, *_ = curved
        first.show(ek)
        first.endorsement(ek)
        with pytest.raises(ToolFailed, match="tpm2_activatecredential"):
            first.credential("L-1", name(machine.tpm.keys.iak.public))

    def test_room_for_the_owner(self, first):
        """The storage root key where systemd and others look for it, and NV indices of the owner's range."""
        handles = first.tool("tpm2_getcap handles-persistent")
        assert "0x81000001" not in handles
        first.tool("tpm2_createprimary -C o -G ecc -c srk.ctx")
        first.tool("tpm2_evictcontrol -C o -c srk.ctx 0x81000001")
        first.tool("tpm2_flushcontext -t")
        first.tool("tpm2_readpublic -c 0x81000001")
        first.tool("tpm2_nvdefine 0x01800001 -s 8 -a ownerread|ownerwrite")
        # In the very words that do nothing to the index of a certificate.
        first.keep("junk", b"junk")
        first.tool("tpm2_nvwrite 0x01800001 -C o -i junk")
        first.tool("tpm2_nvundefine 0x01800001 -C o")
        first.tool("tpm2_evictcontrol -C o -c 0x81000001")

    def test_no_password_stands_between_the_guest_and_its_hierarchies(self, first):
        said = first.tool("tpm2_getcap properties-variable")
        for word in ("ownerAuthSet", "endorsementAuthSet", "lockoutAuthSet"):
            assert re.search(rf"{word}: +0", said)
        assert re.search(r"inLockout: +0", said)

    def test_what_the_kernel_measures_into(self, first):
        """A SHA-256 bank of 24 registers."""
        assert re.search(r"sha256: \[ 0, 1, .*, 23 \]", first.tool("tpm2_getcap pcrs"))

    @pytest.mark.usefixtures("seen")  # the tables are about TPMs that nobody has cleared
    def test_the_owner_can_clear_and_keeps_the_certificates(self, tpms):
        """TPM2_Clear takes the persistent keys; certificates stay, and the keys come back from their templates."""
        machine = tpms[-1]
        one = next(one for one in machine.held if one.profile == "ek" and not one.ephemeral)
        machine.show(one)
        machine.tool("tpm2_clear -c l")
        machine.tool("tpm2_nvread 0x01c0000a -o nv.der")
        assert machine.file("nv.der") == one.der
        machine.tool("tpm2_createek -G ecc -c ek.ctx -u again.pub")
        machine.tool("tpm2_flushcontext -t")
        assert machine.file("again.pub")[2:] == machine.public(one)
