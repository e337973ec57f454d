"""R: evidence that was true once, or for somebody else."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from vtpm.client import EnrollmentRefused, HttpTransport
from vtpm.errors import UnavailableError
from vtpm.host import Behaviour, HostConfig
from vtpm.lab.attacks.forging import CREATED, ENROLMENTS, HUNG_UP, NONCES, answers
from vtpm.lab.attacks.model import Attack
from vtpm.lab.attacks.possession import NothingGained, attackers_tpm, opened
from vtpm.lab.attacks.scene import RESOURCE, Disk, Scene
from vtpm.wire.aproxy import RelayRequest, RelayResponse
from vtpm.wire.encoding import b64url, canonical
from vtpm.wire.enrollment import NonceReply, Problem, time_text

_OK = 200
_AGES = timedelta(days=3650)


class _Collector(Behaviour):
    """Keeps the SVSM's evidence to itself.

    Args:
        config: as for every host.
        nonce: what it hands the SVSM as the CA's nonce; None asks the CA for one.
    """

    def __init__(self, config: HostConfig, nonce: NonceReply | None = None) -> None:
        super().__init__(config)
        self._nonce = nonce
        self.kept = b""

    def relay(self, request: RelayRequest) -> RelayResponse:
        """Let nothing pass but the nonce."""
        if request.path == ENROLMENTS:
            self.kept = request.body
            return HUNG_UP
        if self._nonce is not None and request.path == NONCES:
            return RelayResponse(CREATED, canonical(self._nonce.to_json()))
        return super().relay(request)


def _collect(scene: Scene, disk: Disk, host: _Collector) -> bytes:
    """Boot a machine on this host for its evidence."""
    try:
        scene.boot(disk, host)
    except UnavailableError:
        if host.kept:
            return host.kept
        raise
    raise NothingGained("the machine enrolled although its host kept its evidence")


def _use_later(scene: Scene, disk: Disk, body: bytes, **time: int) -> str:
    """Time passes, the volume's key leaks; then enrol the TPM with the old evidence, outside of any SVSM."""
    leaked = scene.kbs.secret(RESOURCE)
    if leaked is None:
        raise NothingGained("there is no key to leak")
    scene.clock.skip(**time)
    with opened(disk.path, leaked.value) as (tpm, keys):
        status, reply = HttpTransport(scene.ca.url).call("POST", ENROLMENTS, body)
        if status == CREATED:
            path, body = answers(tpm, keys, reply)
            status, reply = HttpTransport(scene.ca.url).call("POST", path, body)
        if status != _OK:
            raise EnrollmentRefused(Problem.parse(reply))
        return attackers_tpm(scene.ca, tpm, keys)


def _r1(scene: Scene) -> str:
    disk = scene.disk()
    return _use_later(scene, disk, _collect(scene, disk, _Collector(scene.host_config())), hours=2)


def _r1_stock(scene: Scene) -> str:
    far = time_text((datetime.now(UTC) + _AGES).replace(microsecond=0))
    made_up, disk = NonceReply(b64url(bytes(56)), scene.ca.ca_id, far), scene.disk()
    body = _collect(scene, disk, _Collector(scene.host_config(), made_up))
    return _use_later(scene, disk, body, minutes=30)


class _OtherCa(Behaviour):
    """Leads the SVSM to a CA of the attacker's, which is nothing but a relay to the genuine one."""

    ca_id = "mallory"

    def relay(self, request: RelayRequest) -> RelayResponse:
        """Pass everything on, in the name of another CA."""
        reply = super().relay(request)
        if request.path != NONCES or reply.status != CREATED:
            return reply
        renamed = replace(NonceReply.parse(reply.body), aud=self.ca_id)
        return RelayResponse(reply.status, canonical(renamed.to_json()))


def _r2(scene: Scene) -> str:
    scene.boot(scene.disk(), _OtherCa(scene.host_config()))
    issued = scene.ca.certificates()
    if not issued:
        raise NothingGained("the CA has issued nothing")
    return (
        f"{len(issued)} certificates, {issued[0].serial_number:x} among them, for evidence that was made for the CA "
        f"{_OtherCa.ca_id}: whoever has an SVSM's trust anywhere can enrol it everywhere"
    )


ATTACKS = (
    Attack(
        "r1",
        "host",
        "keeps evidence back, and uses it hours later on a TPM whose volume key has leaked meanwhile",
        ("nonce.unexpired", "grant.age"),
        _r1,
    ),
    Attack(
        "r1-stock",
        "host",
        "has the SVSM make evidence for a nonce of the host's own, to have some in stock",
        ("nonce.genuine", "nonce.unexpired"),
        _r1_stock,
    ),
    Attack(
        "r2",
        "host, with a CA of its own,",
        "relays the CA's nonce to an SVSM that means to enrol with another CA",
        ("nonce.audience",),
        _r2,
    ),
)
