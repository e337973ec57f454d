"""Real TPMs (swtpm) with the certificates of this CA, as tpm2-tools and a Linux guest meet them.

Between them the TPMs have a key and a certificate of every template; an IAK of each template has both of its forms.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path

from consumer_tools import PASS, refused, run
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from every_certificate import FLEET, FORMED, Customer, EveryCertificate, Issued, policy, read
from keylime_site import RealTpm

from vtpm.wire.enrollment import CertificatesReply
from vtpm.wire.public_area import name, parse_public
from vtpm.wire.templates import Role, devid_branches, template

_SECRET = b"a secret of the tests"
_CREATED = {"L-1": "rsa", "L-2": "ecc", "H-3": "ecc384", "H-4": "ecc521", "H-6": "rsa3072"}
"""What ``tpm2_createek -G`` makes; templates H-1 and H-2 it does not know."""
_FETCHED = {"L-1": "rsa", "L-2": "ecc"}
"""Which certificates ``tpm2_getekcertificate`` looks for; those of other templates are read by their index."""

_INDEX_ATTRIBUTES = {
    *("ppwrite", "writedefine", "writelocked", "written"),
    *("ppread", "ownerread", "authread", "no_da", "platformcreate"),
}
_EK_LOW = "fixedtpm|fixedparent|sensitivedataorigin|adminwithpolicy|restricted|decrypt"
_EK_HIGH = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|adminwithpolicy|restricted|decrypt"
_IDENTITY = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|adminwithpolicy"


class ToolFailed(Exception):
    """A tool's end was not 0, or it made something else than it should."""


def _same(found: object, wanted: object, what: str) -> None:
    if found != wanted:
        raise ToolFailed(f"{what} is another")


def _complaint(said: str) -> str:
    """The first line in which a tool says what is wrong."""
    return next((line.partition("ERROR: ")[2] for line in said.splitlines() if "ERROR: " in line), said)


class Machine:
    """A TPM that has been certified twice, and the folder in which tools work with it.

    Attributes:
        tpm: the TPM, behind the gateway that a guest uses.
        held: its certificates: the lasting ones, and those of the Ephemeral CA. Either are in its NV memory.
    """

    def __init__(self, tpm: RealTpm, customer: Customer, folder: Path) -> None:
        self.tpm, self._folder = tpm, folder
        # The ledger binds no key for the former.
        replies = {"ephemeral": customer.reply_for_passing(tpm), "": customer.reply(tpm)}
        self._replies = {kind: CertificatesReply.parse(reply) for kind, reply in replies.items()}
        self.held: tuple[Issued, ...] = (
            *read(replies[""], ("ek", "devid")),
            *read(replies["ephemeral"], ("ephemeral", "ephemeral")),
        )
        self._present: str | None = None
        folder.mkdir()

    def show(self, one: Issued) -> None:
        """Have this certificate in NV memory, and those that were issued along with it."""
        kind = "ephemeral" if one.ephemeral else ""
        if self._present != kind:
            self.tpm.keep(self._replies[kind])
            self._present = kind

    def tool(self, words: str, *more: object) -> str:
        """Run a tool of tpm2-tools; raises `ToolFailed` with its complaint."""
        first, *others = words.split()
        done = run(first, "-T", self.tpm.gateway.tcti, *others, *more, folder=self._folder)
        if done.returncode:
            raise ToolFailed(f"{first}: {_complaint(done.stdout)}")
        return done.stdout

    def file(self, name_: str) -> bytes:
        return (self._folder / name_).read_bytes()

    def keep(self, name_: str, data: bytes) -> None:
        (self._folder / name_).write_bytes(data)

    def public(self, one: Issued) -> bytes:
        """TPMT_PUBLIC of the key that the TPM has for a certificate."""
        keys = self.tpm.keys
        if one.profile == "ek":
            return next(ek.public for ek in keys.eks if ek.template == one.template)
        return (keys.idevid if one.profile == "idevid" else keys.iak).public

    # -- what tpm2-tools do with it -------------------------------------------------------------------------------

    def judge_by_tools(self, one: Issued) -> str:
        """The table's cell for tpm2-tools."""
        does = {"ek": self.endorsement, "idevid": self.signature}.get(one.profile, self.quote)
        if one.ephemeral and does != self.quote:
            # The key is the one of the lasting certificate.
            does = self.read_back
        try:
            does(one)
        except ToolFailed as error:
            return refused(str(error))
        return PASS

    def read_back(self, one: Issued) -> None:
        """The certificate byte for byte, about the key that the TPM has."""
        self.show(one)
        self.tool(f"tpm2_nvread 0x{template(one.role, one.template).nv_index:08x} -o nv.der")
        _same(self.file("nv.der"), one.der, "tpm2_nvread: the certificate")
        self._is_certified(one, self.public(one))

    def endorsement(self, one: Issued) -> None:
        """The certificate as its tool finds it, the same key once more, and a credential for the IAK's Name."""
        chosen = template(Role.EK, one.template)
        self.read_back(one)
        if one.template in _FETCHED:
            self.fetch()
            _same(
                self.file(f"{_FETCHED[one.template]}.der"), one.der, "tpm2_getekcertificate: the certificate"
            )
        self.tool(f"tpm2_readpublic -c 0x{chosen.persistent:08x} -o ek.pub -n ek.name")
        if one.template in _CREATED:
            self.tool(f"tpm2_createek -G {_CREATED[one.template]} -c ek.ctx -u created.pub")
            self.tool("tpm2_flushcontext -t")
            _same(self.file("created.pub"), self.file("ek.pub"), "tpm2_createek: the key")
        _same(self.file("ek.pub")[2:], self.public(one), "tpm2_readpublic: the key")
        _same(self.credential(chosen.id, self.iak_name()), _SECRET, "tpm2_activatecredential: the secret")

    def fetch(self) -> None:
        """``tpm2_getekcertificate``: RSA first, then ECC, as far as they are there."""
        held = [ek.template for ek in self.tpm.keys.eks]
        names = [kind for id_, kind in _FETCHED.items() if id_ in held]
        self.tool("tpm2_getekcertificate -X", *(word for n in names for word in ("-o", f"{n}.der")))

    def iak_name(self) -> bytes:
        handle = template(Role.IAK, self.tpm.keys.iak.template).persistent
        self.tool(f"tpm2_readpublic -c 0x{handle:08x} -n iak.name")
        _same(self.file("iak.name"), name(self.tpm.keys.iak.public), "tpm2_readpublic: the Name")
        return self.file("iak.name")

    def credential(self, ek: str, to: bytes) -> bytes:
        """``tpm2_makecredential`` outside the TPM to a Name, ``tpm2_activatecredential`` by the persistent keys."""
        self.keep("secret", _SECRET)
        made = run(
            "tpm2_makecredential", "-T", "none", "-u", "ek.pub", "-s", "secret", "-n", to.hex(),
            "-o", "credential", folder=self._folder,
        )  # fmt: skip
        if made.returncode:
            raise ToolFailed(f"tpm2_makecredential: {_complaint(made.stdout)}")
        chosen, iak = template(Role.EK, ek), template(Role.IAK, self.tpm.keys.iak.template)
        branches = devid_branches(Role.IAK, iak.name_alg)
        for number, branch in enumerate(branches):
            self.keep(f"branch-{number}", branch)
        with self._session(iak.name_alg) as admin:
            self.tool(f"tpm2_policycommandcode -S {admin} TPM2_CC_ActivateCredential")
            files = ",".join(f"branch-{number}" for number in range(len(branches)))
            self.tool(f"tpm2_policyor -S {admin} -l {iak.name_alg}:{files}")
            words = f"tpm2_activatecredential -c 0x{iak.persistent:08x} -C 0x{chosen.persistent:08x}"
            words += f" -p session:{admin} -i credential -o activated"
            if chosen.id.startswith("L-"):
                with self._session(chosen.name_alg) as secret:
                    self.tool(f"{words} -P session:{secret}")
            else:
                # userWithAuth is set in the high range, with an empty password.
                self.tool(words)
        return self.file("activated")

    @contextmanager
    def _session(self, name_alg: str) -> Iterator[str]:
        """A policy session that knows the endorsement hierarchy's password, which is empty."""
        context = f"session-{name_alg}-{len(list(self._folder.glob('session-*')))}"
        self.tool(f"tpm2_startauthsession --policy-session -g {name_alg} -S {context}")
        try:
            self.tool(f"tpm2_policysecret -S {context} -c e")
            yield context
        finally:
            self.tool(f"tpm2_flushcontext {context}")
            (self._folder / context).unlink()

    def quote(self, one: Issued, key: Issued | None = None, challenge: bytes = b"challenge") -> None:
        """``tpm2_quote`` by the persistent IAK, ``tpm2_checkquote`` with the key of a certificate."""
        chosen = template(Role.IAK, one.template)
        self.read_back(one)
        self._certified_key(key or one)
        wanted = hashlib.sha256(b"challenge").hexdigest()
        files = "-m quote.msg -s quote.sig -o quote.pcr"
        words = f"tpm2_quote -c 0x{chosen.persistent:08x} -l sha256:0,1,2,7 -g {chosen.name_alg}"
        if chosen.kind == "rsa":
            words += " --scheme rsapss"
        self.tool(f"{words} -q {wanted} {files}")
        checked = run(
            *f"tpm2_checkquote -u key.pem -g {chosen.name_alg} -m quote.msg -s quote.sig -f quote.pcr".split(),
            *("-q", hashlib.sha256(challenge).hexdigest()),
            folder=self._folder,
        )
        if checked.returncode:
            raise ToolFailed(f"tpm2_checkquote: {_complaint(checked.stdout)}")

    def pss_verdict(self, one: Issued) -> str:
        """What OpenSSL says of an RSA key's quote."""
        with suppress(ToolFailed):
            self.quote(one)
        # TPMT_SIGNATURE: scheme, hash, and a sized signature (Part 2, section 11.3.1).
        self.keep("plain.sig", self.file("quote.sig")[6:])
        words = f"openssl dgst -{template(Role.IAK, one.template).name_alg} -sigopt rsa_padding_mode:pss"
        words += " -verify key.pem -signature plain.sig quote.msg"
        return run(*words.split(), folder=self._folder).stdout.strip()

    def signature(self, one: Issued) -> None:
        """``tpm2_sign`` by the persistent IDevID, verified by OpenSSL with the key of the certificate."""
        chosen = template(Role.IDEVID, one.template)
        self.read_back(one)
        self._certified_key(one)
        self.keep("message", _SECRET)
        scheme = "ecdsa" if chosen.kind == "ecc" else "rsassa"
        words = f"tpm2_sign -c 0x{chosen.persistent:08x} -g {chosen.name_alg} -s {scheme} -f plain"
        self.tool(f"{words} -o message.sig message")
        words = f"openssl dgst -{chosen.name_alg} -verify key.pem -signature message.sig message"
        done = run(*words.split(), folder=self._folder)
        if "Verified OK" not in done.stdout:
            raise ToolFailed(f"openssl dgst: {done.stdout}")

    def _certified_key(self, one: Issued) -> None:
        pem = one.certificate.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self.keep("key.pem", pem)

    def _is_certified(self, one: Issued, public: bytes) -> None:
        _same(parse_public(public).public_key(), one.certificate.public_key(), "the certified key")

    @cached_property
    def _persistent(self) -> str:
        """The persistent handles, as the tools list them."""
        return self.tool("tpm2_getcap handles-persistent")

    # -- what Linux finds -----------------------------------------------------------------------------------------

    def judge_by_linux(self, one: Issued) -> str:
        """The table's cell for a guest: index, handle and attributes as TCG's provisioning guidance has them."""
        self.show(one)
        try:
            wrong = list(self._index(one))
            if not one.ephemeral:
                # Index and key are the same for both of a template's certificates.
                wrong += [*self._unchangeable(one), *self._handle(one)]
        except ToolFailed as error:
            wrong = [str(error)]
        return refused(", ".join(wrong)) if wrong else PASS

    def _index(self, one: Issued) -> Iterator[str]:
        """What is wrong with the NV index of the certificate."""
        index = f"0x{template(one.role, one.template).nv_index:08x}"
        said = self.tool(f"tpm2_nvreadpublic {index}")
        attributes = re.search(r"attributes:\n    friendly: (\S+)", said)[1]
        if set(attributes.split("|")) != _INDEX_ATTRIBUTES:
            yield f"{index} has {attributes}"
        if f"size: {len(one.der)}\n" not in said:
            yield f"{index} has not the size of the certificate"
        if not one.ephemeral:
            # By its own authorisation, which is empty.
            self.tool(f"tpm2_nvread {index} -C {index} -o nv.der")
            if self.file("nv.der") != one.der:
                yield f"{index} reads as something else"

    def _unchangeable(self, one: Issued) -> Iterator[str]:
        """What the owner of the guest may do to the NV index, and should not."""
        index = f"0x{template(one.role, one.template).nv_index:08x}"
        self.keep("junk", b"junk")
        for words in (f"tpm2_nvwrite {index} -C o -i junk", f"tpm2_nvundefine {index} -C o"):
            with suppress(ToolFailed):
                self.tool(words)
                yield f"the owner may {words}"

    def _handle(self, one: Issued) -> Iterator[str]:
        """What is wrong with the persistent key."""
        chosen = template(one.role, one.template)
        handle = f"0x{chosen.persistent:08x}"
        if handle.upper() not in self._persistent.upper():
            yield f"{handle} is not there"
        said = self.tool(f"tpm2_readpublic -c {handle} -f pem -o linux.pem")
        wanted = {
            Role.EK: _EK_LOW if chosen.id.startswith("L-") else _EK_HIGH,
            Role.IAK: f"{_IDENTITY}|restricted|sign",
            Role.IDEVID: f"{_IDENTITY}|sign",
        }[one.role]
        attributes = re.search(r"attributes:\n  value: (\S+)", said)[1]
        if attributes != wanted:
            yield f"{handle} has {attributes}"
        key = one.certificate.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        if self.file("linux.pem") != key:
            yield f"{handle} is another key"


@contextmanager
def machines(every: EveryCertificate, folder: Path) -> Iterator[list[Machine]]:
    """TPMs with every template between them, manufactured and certified."""
    folder.mkdir()
    made: list[Machine] = []
    tpms: list[RealTpm] = []
    store = every.world.open_store()
    try:
        for form, fleet in (("iak", FLEET), ("iak-webauthn", FORMED)):
            every.world.apply(store, policy(every.world, form))
            customer = Customer(every.world, every.world.enroller(store), f"real-{form}")
            for number, templates in enumerate(fleet):
                tpms.append(RealTpm(*templates))
                made.append(Machine(tpms[-1], customer, folder / f"{form}-{number}"))
        yield made
    finally:
        for tpm in tpms:
            tpm.close()
        every.world.close()
        store.close()
