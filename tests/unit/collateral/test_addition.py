import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from ca_service.collateral import Kind, Offer, Unacceptable, add, items_of, trusted_roots
from ca_service.collateral.trust import fault
from ca_service.evidence.snp import Collateral, amd_roots, simulated_roots
from vtpm.snp import SimulatedChain
from vtpm.wire.certtable import CertKind, pack_table

AMD = amd_roots()


def kinds(folder):
    return sorted(item.kind for item in items_of(folder.current()))


def offers(genuine, *names):
    return [Offer(name, genuine(name)) for name in names]


def test_the_roots_of_a_ca():
    assert trusted_roots(simulated=False) == AMD
    assert trusted_roots(simulated=True) == AMD + simulated_roots()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("milan-v2-vcek-azure/vcek.der", Kind.VCEK),
        ("genoa-v3-vcek-aci/vcek.der", Kind.VCEK),
        ("turin-v5-vcek-aci/vcek.der", Kind.VCEK),
        ("misc/turin-vcek.der", Kind.VCEK),
        ("milan-v5-vlek-aws/vlek.der", Kind.VLEK),
        ("milan-v3-vlek-aws-expired/vlek.der", Kind.VLEK),
        ("roots/genoa-ask-revoked-020001.pem", Kind.ASK),
        ("amd/genoa-asvk.pem", Kind.ASVK),
        ("crl/ark-genoa-2022-10-31.der", Kind.CRL),
        ("crl/ark-milan-2025-05-06.der", Kind.CRL),
    ],
)
def test_genuine_things_are_taken_once(genuine, folder, name, kind):
    (outcome,) = add(folder, offers(genuine, name), AMD)
    assert (outcome.source, outcome.item.kind, outcome.new, outcome.note) == (name, kind, True, "")
    (outcome,) = add(folder, offers(genuine, name), AMD)
    assert not outcome.new
    assert kinds(folder) == [kind]


def test_a_hosts_table_and_a_chain_in_pem(genuine, folder):
    chain = genuine("amd/milan-ask.pem") + genuine("amd/milan-ark.pem")
    table = pack_table(
        {CertKind.VCEK: genuine("milan-v2-vcek-azure/vcek.der"), CertKind.ASK: genuine("amd/milan-ask.pem")}
    )
    outcomes = add(folder, [Offer("chain", chain), Offer("table", table)], AMD)
    assert [(outcome.source, outcome.item.kind) for outcome in outcomes] == [
        ("chain", Kind.ASK),
        ("table", Kind.VCEK),
    ]


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("amd/genoa-ark.pem", "roots are built in"),
        ("simulated/ask.pem", "no trusted ARK has issued"),
        ("manifest.json", "can be read"),
        ("milan-v2-vcek-azure/report.bin", "can be read"),
        ("neg-genoa-vcek-tampered-product/vcek.der", "leads to no trusted root"),
        ("neg-milan-vcek-hwid-octetstring/vcek.der", "leads to no trusted root"),
    ],
)
def test_one_bad_thing_keeps_all_out(genuine, folder, name, wrong):
    with pytest.raises(Unacceptable, match=wrong) as refusal:
        add(folder, offers(genuine, "milan-v2-vcek-azure/vcek.der", name), AMD)
    assert refusal.value.detail.startswith(f"{name}: ")
    assert not folder.path.exists()


def test_no_simulated_thing_under_amds_roots(service, folder):
    chain = SimulatedChain.shipped()
    for content in (chain.ask.public_bytes(Encoding.DER), service.vcek(), service.ask, service.crl()):
        with pytest.raises(Unacceptable):
            add(folder, [Offer("simulated", content)], AMD)
    add(folder, [Offer("simulated", chain.ask.public_bytes(Encoding.PEM))], trusted_roots(simulated=True))
    assert kinds(folder) == [Kind.ASK]


def test_a_leafs_authority_may_come_along_or_be_there(service, folder):
    roots = (service.bare_root,)
    leaf, ask = Offer("leaf", service.vcek()), Offer("ask", service.ask)
    with pytest.raises(Unacceptable, match="leads to no trusted root"):
        add(folder, [leaf], roots)
    add(folder, [leaf, ask], roots)
    assert kinds(folder) == [Kind.ASK, Kind.VCEK]
    add(folder, [Offer("another", service.vcek(b"\x09" * 64))], roots)
    assert kinds(folder) == [Kind.ASK, Kind.VCEK, Kind.VCEK]


def test_a_strangers_authority_vouches_for_nothing(service, folder):
    """Also when it lies in the bundle, put there by other means."""
    stranger = type(service)()
    known = Collateral.of_file(stranger.ask)
    (leaf,) = items_of(Collateral.of_file(stranger.vcek()))
    assert fault(leaf, known, (stranger.bare_root,)) == ""
    assert "leads to no trusted root" in fault(leaf, known, (service.root,))


def test_a_list_must_be_the_roots(service, folder):
    forged = service.crl(key=rsa.generate_private_key(65537, 2048))
    with pytest.raises(Unacceptable, match="ARK-Test-Milan that no trusted ARK has signed"):
        add(folder, [Offer("forged", forged)], (service.root,))
    add(folder, [Offer("genuine", service.crl())], (service.root,))
    assert kinds(folder) == [Kind.CRL]


def test_leaves_that_no_report_could_use(service, folder):
    arc = "1.3.6.1.4.1.3704.1."
    for replaced, wrong in ({arc + "3.8": b""}, "TCB"), ({arc + "4": b""}, "chip"):
        with pytest.raises(Unacceptable, match=wrong):
            add(folder, [Offer("leaf", service.vcek(replaced=replaced))], (service.root,))
    with pytest.raises(Unacceptable, match="is no VCEK"):
        add(folder, [Offer("leaf", service.vcek(common_name="SEV-OTHER"))], (service.root,))


def test_an_older_list_is_kept_and_said_so(genuine, folder):
    old, new = "crl/ark-milan-2022-05-09.der", "crl/ark-milan-2025-05-06.der"
    assert [outcome.note for outcome in add(folder, offers(genuine, new), AMD)] == [""]
    (outcome,) = add(folder, offers(genuine, old, "crl/ark-genoa-2022-10-31.der")[:1], AMD)
    assert outcome.new
    assert "stays revoked" in outcome.note
    assert len(folder.current().crls) == 2
    (outcome,) = add(folder, offers(genuine, "crl/ark-genoa-2022-10-31.der"), AMD)
    assert outcome.note == ""  # another root's lists do not count


def test_pem_of_a_list(genuine, folder):
    crl = x509.load_der_x509_crl(genuine("crl/ark-genoa-2022-10-31.der"))
    (outcome,) = add(folder, [Offer("pem", crl.public_bytes(Encoding.PEM))], AMD)
    assert outcome.item.der == genuine("crl/ark-genoa-2022-10-31.der")


def test_a_damaged_list_is_repaired_by_adding_it_again(genuine, folder):
    (outcome,) = add(folder, offers(genuine, "crl/ark-genoa-2022-10-31.der"), AMD)
    (folder.path / outcome.item.name).write_bytes(b"")
    fresh = type(folder)(folder.path)
    (outcome,) = add(fresh, offers(genuine, "crl/ark-genoa-2022-10-31.der"), AMD)
    assert outcome.new
    assert len(fresh.current().crls) == 1
