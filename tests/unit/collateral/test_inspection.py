from datetime import UTC, datetime, timedelta

from ca_service.collateral import Offer, State, add, examine, gaps, items_of, survey
from ca_service.evidence.snp import amd_roots

AMD = amd_roots()
MILAN_CRLS = ("crl/ark-milan-2022-05-09.der", "crl/ark-milan-2025-05-06.der")
REVOKED = ("roots/genoa-ask-revoked-020001.pem", "crl/ark-genoa-2022-10-31.der")


def fill(folder, genuine, *names):
    add(folder, [Offer(name, genuine(name)) for name in names], AMD)
    return folder


def states(folder, at, roots=AMD):
    return sorted(
        (entry.item.kind.value, entry.state.value) for entry in survey(items_of(folder.readable()), roots, at)
    )


def problems(folder, at, roots=AMD):
    return [problem.text for problem in examine(*folder.files(), roots, at)]


def at(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_an_empty_bundle_is_well_and_is_said_to_be_empty(folder, now):
    assert (states(folder, now), problems(folder, now)) == ([], [])
    (text,) = gaps(folder.files()[0], AMD)
    assert "empty" in text


def test_a_product_without_a_list_is_said(folder, genuine, service):
    fill(folder, genuine, "milan-v2-vcek-azure/vcek.der", "genoa-v3-vcek-aci/vcek.der")
    add(folder, [Offer("leaf", service.vcek())], (service.root,))
    roots = (*AMD, service.root)
    texts = gaps(folder.files()[0], roots)
    assert ["ARK-Milan" in texts[0], "ARK-Genoa" in texts[1], "ARK-Test-Milan" in texts[2]] == [True] * 3
    fill(folder, genuine, "crl/ark-genoa-2022-10-31.der")
    add(folder, [Offer("list", service.crl())], (service.root,))
    assert gaps(folder.files()[0], roots) == texts[:1]
    fill(folder, genuine, MILAN_CRLS[0])
    assert gaps(folder.files()[0], roots) == []


def test_a_leafs_life(folder, genuine):
    fill(folder, genuine, "milan-v3-vlek-aws-expired/vlek.der")
    (leaf,) = folder.current().leaves
    second = timedelta(seconds=1)
    for when, state in (
        (leaf.not_before - second, "not yet"),
        (leaf.not_before, "valid"),
        (leaf.not_after, "valid"),
        (leaf.not_after + second, "expired"),
    ):
        assert states(folder, when) == [("vlek", state)]
        assert len(problems(folder, when)) == (state != "valid")


def test_a_lists_life(folder, genuine):
    fill(folder, genuine, *MILAN_CRLS)
    assert states(folder, at("2022-01-01")) == [("crl", "not yet"), ("crl", "not yet")]
    assert states(folder, at("2022-06-01")) == [("crl", "not yet"), ("crl", "valid")]
    assert states(folder, at("2024-06-01")) == [("crl", "not yet"), ("crl", "stale")]
    assert states(folder, at("2025-06-01")) == [("crl", "superseded"), ("crl", "valid")]
    assert states(folder, at("2028-06-01")) == [("crl", "stale"), ("crl", "superseded")]
    assert problems(folder, at("2025-06-01")) == []
    (text,) = problems(folder, at("2028-06-01"))
    assert "ARK-Milan" in text
    assert "was due" in text


def test_what_a_stale_list_revokes_stays_revoked(folder, genuine, now):
    fill(folder, genuine, *REVOKED)
    assert states(folder, now) == [("ask", "revoked"), ("crl", "stale")]
    assert states(folder, at("2022-11-01")) == [("ask", "revoked"), ("crl", "valid")]


def test_a_leaf_under_a_revoked_authority(folder, service, now):
    roots = (service.root,)
    add(folder, [Offer("leaf", service.vcek()), Offer("list", service.crl(number=1))], roots)
    later = now + timedelta(days=1)
    assert states(folder, later, roots) == [("crl", "valid"), ("vcek", "valid")]
    add(folder, [Offer("list", service.crl(service.chain.ask.serial_number, number=2, at=later))], roots)
    assert states(folder, later, roots) == [("crl", "superseded"), ("crl", "valid"), ("vcek", "revoked")]
    assert len(problems(folder, later, roots)) == 1


def test_what_leads_to_no_root(folder, service, now):
    add(folder, [Offer("leaf", service.vcek()), Offer("list", service.crl())], (service.root,))
    assert states(folder, now) == [("crl", "untrusted"), ("vcek", "untrusted")]
    assert len(problems(folder, now)) == 2
    assert problems(folder, now, (service.root,)) == []


def test_files_that_are_not_what_they_seem(folder, genuine, now):
    fill(folder, genuine, "milan-v2-vcek-azure/vcek.der", "genoa-v3-vcek-aci/vcek.der")
    first, second = sorted(folder.path.iterdir())
    first.write_bytes(second.read_bytes())
    second.unlink()
    second.symlink_to("/dev/zero")
    (folder.path / "readme").touch()
    texts = problems(folder, now)
    assert sorted(texts) == [
        "cannot be read, or is too long",
        "does not hold what its name says",
        "is no file of a bundle; it is not read",
    ]


def test_the_rows_of_genuine_things(folder, genuine, now):
    fill(
        folder, genuine, *REVOKED, "turin-v5-vcek-aci/vcek.der", "milan-v5-vlek-aws/vlek.der",
        "genoa-v2-vcek-oak/vcek.der",
    )  # fmt: skip
    rows = [entry.to_json() for entry in survey(items_of(folder.current()), AMD, now)]
    assert [row.keys() == rows[0].keys() for row in rows] == [True] * 5
    by_kind = {(row["kind"], row["product"]): row for row in rows}
    crl, ask = by_kind["crl", "Genoa"], by_kind["ask", "Genoa"]
    assert (crl["issuer"], crl["revoked"], crl["state"]) == ("ARK-Genoa", ["20001"], State.STALE)
    assert (crl["this_update"], crl["next_update"]) == ("2022-10-31T13:34:46Z", "2023-10-31T23:00:00Z")
    assert (ask["subject"], ask["serial"], ask["state"]) == ("SEV-Genoa", "20001", "revoked")
    turin, vlek = by_kind["vcek", "Turin"], by_kind["vlek", "Milan"]
    assert (len(turin["chip_id"]), set(turin["tcb"])) == (
        16,
        {"fmc", "bootloader", "tee", "snp", "microcode"},
    )
    assert (vlek["chip_id"], "amazonaws.com" in vlek["csp_id"]) == (None, True)
    assert (by_kind["vcek", "Genoa"]["serial"], by_kind["vcek", "Genoa"]["state"]) == ("0", "valid")
    assert not any(row["simulated"] for row in rows)
