"""Who of ours is asked about a certificate that keylime takes: the CA, the check that keylime's tenant runs."""

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import deviations
import enrollment_world as w
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from relying_stage import AT, Stage, loaded, pem_of, provenance, shown, signed, tpm2b

from ca_service.enrollment import Enroller, Limits, revoke
from ca_service.export import export_keylime
from ca_service.export.ek_check.program import World, run
from ca_service.judgment import Refused, Verdict
from ca_service.profiles import (
    Draft,
    LintFailed,
    Validity,
    draft_devid,
    draft_ek,
    lint,
    new_serial,
    serial_hex,
)
from vtpm.wire.public_area import parse_public
from vtpm.wire.runtime_data import TpmSpec, TpmStatement
from vtpm.wire.templates import Role, name

_KEYS: dict[int, object] = {}


def remembered_key(chosen):
    """For `SoftTpm`: RSA keys take long to make, so each size has one."""
    if chosen.kind != "rsa":
        return w.new_key(chosen)
    if chosen.bits not in _KEYS:
        _KEYS[chosen.bits] = w.new_key(chosen)
    return _KEYS[chosen.bits]


def draft_of(stage: Stage, tpm: w.SoftTpm, role: Role, issuer: str) -> Draft:
    """A draft for a key of a TPM, as the CA makes it, for one of its issuing CAs."""
    common = {
        "public": getattr(tpm, role.value).public,
        "serial": new_serial(42, lambda n: bytes([7] * n)),
        "validity": Validity.device_lifetime(AT),
        "issuer": stage.issuer(issuer).info,
        "provenance": provenance(),
        "manufacturer": "49424d00",
    }
    if role is Role.EK:
        facts = {"vendor": "SW   TPM", "firmware": w.FIRMWARE, "spec": TpmSpec("2.0", "0", "164")}
        return draft_ek(**common, **facts)
    about_ek = {"ek_name": name(tpm.ek.public), "ek_serial": 7, "ek_aki": bytes(20), "ek_digest": "ab" * 32}
    return draft_devid(role, **common, **about_ek)


def issued(stage: Stage, tpm: w.SoftTpm, role: Role) -> bytes:
    """A certificate of a TPM's key: its draft, passed by the lint, and signed."""
    issuer = stage.issuer(deviations.issuer_of(role.value))
    draft = draft_of(stage, tpm, role, deviations.issuer_of(role.value))
    lint(draft, issuer.info)
    return signed(draft.tbs, issuer.signer)


def fill(stage: Stage, store: Path, *, everything: bool = False) -> None:
    """keylime's store as it is exported, or with the Ephemeral CA besides."""
    export_keylime(store, stage.world.authority.issuers, None)
    if everything:
        ephemeral = stage.issuer("ephemeral").certificate.public_bytes(Encoding.PEM)
        (store / "by-hand.pem").write_bytes(ephemeral)


def ek_check(stage: Stage, folder: Path, case: deviations.Deviation) -> str | None:
    """The rule by which `vtpm-ca-ek-check` refuses what the tenant shows it; None if it does not."""
    lists = folder / "crls"
    lists.mkdir(exist_ok=True)
    revoked = [loaded(case.der).serial_number] if case.id == "revoked" else []
    (lists / "root.crl").write_bytes(stage.list_of("root"))
    (lists / "ek.crl").write_bytes(stage.list_of("ek", revoked))
    (folder / "root.pem").write_bytes(stage.root.certificate.public_bytes(Encoding.PEM))
    fill(stage, folder / "store", everything=case.everything)
    (folder / "check.toml").write_text('root = "root.pem"\nissuers = "store"\ncrls = "crls"\n')
    told = {
        "EK_CERT": base64.b64encode(case.der).decode(),
        "EK": pem_of(parse_public(case.tpm.ek.public).public_key()),
        "EK_TPM": tpm2b(case.tpm.ek.public),
    }
    environment = shown(stage, **told) | {"VTPM_CA_EK_CHECK_CONFIG": str(folder / "check.toml")}
    status, line = run([], World(environment, lambda: AT, pytest.fail))
    return None if status == 0 else re.search(r"refused: (relying\.[a-z-]+):", line)[1]


@dataclass(frozen=True)
class Ca:
    """The stage's CA, open for business."""

    stage: Stage
    enroller: Enroller

    def stops(self, case: deviations.Deviation) -> set[str]:
        """The rules by which it issues nothing of the kind; empty where there is nothing to ask it."""
        role = case.role
        public = getattr(case.tpm, role).public
        if case.id == "software-key-as-tpm":
            # Software can state whatever it likes, but no report vouches for it.
            return {self._refusal(swapped=lambda tpm: _with(tpm, role, getattr(self.stage.tpm, role).public))}
        if case.id == "revoked":
            return {self._refusal_after_revocation(role)}
        if case.id in deviations.OF_KEYS:
            return {self._refusal(stated=lambda tpm: _with(tpm, role, public))}
        wrong = case.id == "wrong-issuer"
        by = deviations.wrong_issuer_of(role) if wrong else deviations.issuer_of(role)
        draft = draft_of(self.stage, self.stage.tpm, Role(role), by)
        if case.id == "trailing-octets":
            draft = replace(draft, tbs=draft.tbs + b"\0")
        elif case.id in deviations.EXTENDED:
            base = signed(draft.tbs, self.stage.issuer(by).signer)
            changed = deviations.extended(self.stage, base, by, case.id)
            draft = replace(draft, tbs=loaded(changed).tbs_certificate_bytes)
        elif not wrong:
            return set()
        return self._unsigned(draft, by)

    def _refusal(
        self,
        *,
        stated: Callable[[TpmStatement], TpmStatement] = lambda tpm: tpm,
        swapped: Callable[[TpmStatement], TpmStatement] | None = None,
    ) -> str:
        """The rule that refuses an enrolment.

        Args:
            stated: what a measured SVSM says of the TPM.
            swapped: what is put into the place of that afterwards.
        """
        world, tpm = self.stage.world, w.SoftTpm(keys=remembered_key)
        boot = w.Boot(resource="default/vtpm/x", change=lambda data: replace(data, tpm=stated(data.tpm)))
        nonce = self.enroller.new_nonce().nonce
        request = world.request(nonce, tpm, boot)
        if swapped is not None:
            data = world.runtime_data(nonce, tpm, boot)
            canonical = replace(data, tpm=swapped(data.tpm)).canonical()
            request = replace(request, evidence=replace(request.evidence, runtime_data=canonical))
        with pytest.raises(Refused) as caught:
            self.enroller.enroll(w.encode(request))
        return caught.value.rule

    def _refusal_after_revocation(self, role: str) -> str:
        """The rule that refuses a known TPM, whose certificate in a role was revoked."""
        world, tpm = self.stage.world, w.SoftTpm()
        first = w.Boot(resource=f"default/vtpm/revoked-{role}", secret=role.encode().ljust(32))
        ders = dict(zip(deviations.ROLES, w.ders(w.issue(world, self.enroller, tpm, first)), strict=True))
        revoke(
            self.enroller.desk.store,
            world.authority,
            serial_hex(loaded(ders[role]).serial_number),
            at=world.time,
            reason="keyCompromise",
            cause="tests",
            limits=Limits(),
        )
        with pytest.raises(Refused) as caught:
            w.issue(world, self.enroller, tpm, replace(first, counter=2))
        return caught.value.rule

    def _unsigned(self, draft: Draft, issuer: str) -> set[str]:
        """The lint's own rules that keep the CA from signing a draft."""
        with pytest.raises(LintFailed) as caught:
            lint(draft, self.stage.issuer(issuer).info)
        failed = (f.rule for f in caught.value.trace.findings if f.verdict is Verdict.FAILED)
        return {rule for rule in failed if rule.startswith("lint.")}


def _with(tpm: TpmStatement, role: str, public: bytes) -> TpmStatement:
    """The statement with another key in a role, under the same template."""
    if role == "ek":
        return replace(tpm, eks=(replace(tpm.eks[0], public=public),))
    return replace(tpm, **{role: replace(getattr(tpm, role), public=public)})
