"""What everybody may read: the directory, certificates, CRLs, and whether the service is well."""

import hashlib
from collections.abc import Callable
from datetime import datetime
from http import HTTPStatus

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from flask import Blueprint, Response, request

from ca_service.api.calls import (
    CA_CERTIFICATE,
    CERTIFICATE,
    CRL,
    DIRECTORY,
    HEALTHZ,
    JSON,
    PEM_CHAIN,
    PKIX_CERT,
    PKIX_CRL,
    READYZ,
    chosen_form,
)
from ca_service.api.limiting import Remembered
from ca_service.api.readiness import check
from ca_service.api.services import Services
from ca_service.enrollment import publish_due
from ca_service.evidence.profiles import ISSUED_PROFILES
from ca_service.judgment import NotFound, Unavailable, VtpmCaError
from ca_service.keys import Authority, sign_and_check
from ca_service.keys.layout import LISTS, ROOT_LIST_FILE
from ca_service.operations import ROLES, TRUSTED
from ca_service.operations.log_identity import log_key
from ca_service.store import CrlRow, IssuerState
from vtpm.wire.encoding import canonical
from vtpm.wire.enrollment import MAX_BODY, Directory, DirectoryIssuer

_log = structlog.get_logger(__name__)

_CA_CERTIFICATE_AGE_S = 86_400
_CERTIFICATE_AGE_S = 3_600


def _published(body: bytes, mimetype: str, max_age_s: int, modified: datetime | None = None) -> Response:
    response = Response(body, HTTPStatus.OK, mimetype=mimetype)
    response.last_modified = modified
    response.headers["Cache-Control"] = f"public, max-age={max_age_s}"
    response.set_etag(hashlib.sha256(body).hexdigest())
    response.make_conditional(request.environ)
    return response


def _skid(certificate: x509.Certificate) -> str:
    return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest.hex()


def _url(authority: Authority, skid: str) -> str:
    return f"{authority.publication_url}/ca/{skid}.cer"


def _issuers(services: Services) -> list[DirectoryIssuer]:
    """The root, and the issuing CAs that are to be trusted, wherever their keys are."""
    authority = services.authority
    root = hashlib.sha256(authority.root.public_bytes(Encoding.DER)).hexdigest()
    with services.store.read() as tx:
        # By role as in the ceremony, the older generation first.
        rows = sorted(tx.issuers.all(), key=lambda row: (row.pair, ROLES.index(row.role), row.added_at))
    return [
        DirectoryIssuer("root", "", root, _url(authority, _skid(authority.root))),
        *(
            DirectoryIssuer(
                row.role,
                row.pair,
                hashlib.sha256(row.certificate).hexdigest(),
                _url(authority, row.skid),
                row.state.value,
            )
            for row in rows
            if row.state in TRUSTED
        ),
    ]


def _directory(services: Services) -> Directory:
    authority, limits = services.authority, services.enroller.desk.limits
    return Directory(
        ca_id=authority.ca_id,
        mode=authority.mode,
        profiles=ISSUED_PROFILES,
        issuers=tuple(_issuers(services)),
        urls={
            "nonces": "/v1/nonces",
            "enrollments": "/v1/enrollments",
            "activation": "/v1/enrollments/{id}/activation",
            "certificates": "/v1/certificates/{serial}",
            "checkpoint": "/log/checkpoint",
            "ca": "/ca/{skid}.cer",
            "crl": "/crl/{skid}/{shard}.crl",
            **({"ocsp": "/ocsp"} if authority.publication.ocsp else {}),
        },
        limits={
            "max_body_bytes": MAX_BODY,
            "nonce_lifetime_seconds": int(limits.nonce_lifetime.total_seconds()),
            "pending_lifetime_seconds": int(limits.pending_lifetime.total_seconds()),
        },
        log=log_key(authority),
    )


def _publish_due(services: Services) -> None:
    desk = services.enroller.desk
    publish_due(services.store, services.authority, desk.now(), desk.limits)


def _crl(services: Services, renew: Callable[[], None], skid: str, shard: int) -> CrlRow:
    """The CRL in force, renewed if it is past half of its life. One that cannot be renewed is good to its end."""
    failure = None
    try:
        renew()
    except VtpmCaError as error:
        failure = error
        _log.warning("revocation lists cannot be renewed", reason=error.detail)
    with services.store.read() as tx:
        row = tx.crls.latest(skid, shard)
    if failure is not None and (row is None or row.next_update <= services.enroller.desk.now()):
        raise failure
    if row is None:
        raise NotFound("there is no CA with this key id, or it has no list of this number")
    return row


def _ca_certificate(services: Services, skid: str) -> bytes:
    """DER of a CA's certificate. The database has those too that this node's directory lacks, and retired ones."""
    authority = services.authority
    if skid == _skid(authority.root):
        return authority.root.public_bytes(Encoding.DER)
    for ca in authority.issuers:
        if ca.skid == skid:
            return ca.certificate.public_bytes(Encoding.DER)
    with services.store.read() as tx:
        row = tx.issuers.get(skid)
    if row is None:
        raise NotFound("there is no CA with this key id")
    return row.certificate


def _root_crl(services: Services) -> Response:
    """The root's list, which its holder leaves in the CA's directory: this process cannot sign it."""
    authority = services.authority
    try:
        crl = x509.load_der_x509_crl((authority.directory / LISTS / ROOT_LIST_FILE).read_bytes())
    except FileNotFoundError:
        raise NotFound("the root has published no CRL") from None
    except (OSError, ValueError):
        raise Unavailable("the root's CRL cannot be read") from None
    key, end = authority.root.public_key(), crl.next_update_utc
    if not isinstance(key, ec.EllipticCurvePublicKey) or not crl.is_signature_valid(key) or end is None:
        raise Unavailable("the root's CRL is not this root's")
    age = _crl_age(end, services.enroller.desk.now())
    return _published(crl.public_bytes(Encoding.DER), PKIX_CRL, age, crl.last_update_utc)


def _crl_age(next_update: datetime, at: datetime) -> int:
    """Seconds that a CRL may be kept: at most half of what is left of its life, and never long."""
    left = (next_update - at).total_seconds() / 2
    return max(0, min(int(left), _CERTIFICATE_AGE_S))


def _check_ready(services: Services, renew: Callable[[], None]) -> None:
    """Raise `Unavailable` unless the CA could issue now."""
    with check("schema"):
        services.store.check()
    with check("database"):
        services.store.check_writable()
    at, log = services.enroller.desk.now(), services.enroller.desk.log
    before = log.seen
    failure = None
    try:
        # So that the lists below are those that a relying party would get.
        renew()
    except VtpmCaError as error:
        failure = error
    with check("log"), services.store.read() as tx:
        log.check_head(tx, before)
        rows = tx.issuers.all()
        lists = tx.crls.times([row.skid for row in rows])
    for row in rows:
        if row.state is IssuerState.ACTIVE:
            with check("issuer"):
                issuer = services.enroller.desk.source.holding(row.skid).issuer_of(row.skid)
                if not issuer.info.validity.not_before <= at < issuer.info.validity.not_after:
                    raise Unavailable(f"the {row.role} CA that signs has expired, or is not valid yet")
                sign_and_check(issuer.signer, b"ready?")
        ends = [crl.next_update for (skid, _), crl in lists.items() if skid == row.skid]
        with check("crl"):
            if row.state in TRUSTED and (not ends or min(ends) <= at):
                raise failure or Unavailable(f"a CRL of the {row.role} CA has expired")


def publication(services: Services) -> Blueprint:
    """The blueprint of everything that is public."""
    blueprint = Blueprint("publication", __name__)
    moment = services.limits.verdict_s
    renew = Remembered(lambda: _publish_due(services), moment, only_failures=True)
    ready = Remembered(lambda: _check_ready(services, renew), moment)

    @DIRECTORY.on(blueprint)
    def directory() -> Response:
        return Response(canonical(_directory(services).to_json()), mimetype=JSON)

    @CA_CERTIFICATE.on(blueprint)
    def ca_certificate(skid: str) -> Response:
        return _published(_ca_certificate(services, skid), PKIX_CERT, _CA_CERTIFICATE_AGE_S)

    @CRL.on(blueprint)
    def crl(skid: str, shard: str) -> Response:
        if skid == _skid(services.authority.root) and shard == "0":
            return _root_crl(services)
        row = _crl(services, renew, skid, int(shard))
        age = _crl_age(row.next_update, services.enroller.desk.now())
        return _published(row.der, PKIX_CRL, age, row.this_update)

    @CERTIFICATE.on(blueprint)
    def certificate(serial: str) -> Response:
        with services.store.read() as tx:
            row = tx.certificates.get(serial)
        if row is None or row.der is None:
            raise NotFound("there is no certificate with this serial number")
        if chosen_form() == PKIX_CERT:
            return _published(row.der, PKIX_CERT, _CERTIFICATE_AGE_S)
        root = services.authority.root.public_bytes(Encoding.DER)
        chain = [row.der, _ca_certificate(services, row.issuer), root]
        pem = b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in chain)
        return _published(pem, PEM_CHAIN, _CERTIFICATE_AGE_S)

    @HEALTHZ.on(blueprint)
    def healthz() -> Response:
        return Response(b'{"status":"alive"}', mimetype=JSON)

    @READYZ.on(blueprint)
    def readyz() -> Response:
        ready()
        return Response(b'{"status":"ready"}', mimetype=JSON)

    return blueprint
