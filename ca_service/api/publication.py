"""What everybody may read: the directory, certificates, CRLs, and whether the service is well."""

import hashlib
from datetime import datetime
from http import HTTPStatus

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from flask import Blueprint, Response, request
from werkzeug.exceptions import NotAcceptable

from ca_service.api.services import Services
from ca_service.enrollment import publish_due
from ca_service.evidence.profiles import ISSUED_PROFILES
from ca_service.judgment import NotFound, Unavailable
from ca_service.keys import IssuingCa, sign_and_check
from ca_service.operations.audit import log_key
from ca_service.store import CrlRow
from vtpm.wire.encoding import canonical
from vtpm.wire.enrollment import MAX_BODY, Directory, DirectoryIssuer

PKIX_CERT = "application/pkix-cert"
PKIX_CRL = "application/pkix-crl"
PEM_CHAIN = "application/pem-certificate-chain"

_CA_CERTIFICATE_AGE_S = 86_400
_CERTIFICATE_AGE_S = 3_600


def _published(body: bytes, mimetype: str, max_age_s: int) -> Response:
    response = Response(body, HTTPStatus.OK, mimetype=mimetype)
    response.headers["Cache-Control"] = f"public, max-age={max_age_s}"
    response.set_etag(hashlib.sha256(body).hexdigest())
    response.make_conditional(request.environ)
    return response


def _skid(certificate: x509.Certificate) -> str:
    return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest.hex()


def _issuer_entry(services: Services, role: str, pair: str, certificate: x509.Certificate) -> DirectoryIssuer:
    der = certificate.public_bytes(Encoding.DER)
    url = f"{services.authority.publication_url}/ca/{_skid(certificate)}.cer"
    return DirectoryIssuer(role, pair, hashlib.sha256(der).hexdigest(), url)


def _directory(services: Services) -> Directory:
    authority, limits = services.authority, services.enroller.desk.limits
    issuers = [_issuer_entry(services, ca.role, ca.pair, ca.certificate) for ca in authority.issuers]
    return Directory(
        ca_id=authority.ca_id,
        mode=authority.mode,
        profiles=ISSUED_PROFILES,
        issuers=(_issuer_entry(services, "root", "", authority.root), *issuers),
        urls={
            "nonces": "/v1/nonces",
            "enrollments": "/v1/enrollments",
            "activation": "/v1/enrollments/{id}/activation",
            "certificates": "/v1/certificates/{serial}",
            "checkpoint": "/log/checkpoint",
            "ca": "/ca/{skid}.cer",
            "crl": "/crl/{skid}/0.crl",
        },
        limits={
            "max_body_bytes": MAX_BODY,
            "nonce_lifetime_seconds": int(limits.nonce_lifetime.total_seconds()),
            "pending_lifetime_seconds": int(limits.pending_lifetime.total_seconds()),
        },
        log=log_key(authority),
    )


def _crl(services: Services, skid: str) -> CrlRow:
    """The CRL in force, renewed if it is past half of its life."""
    desk = services.enroller.desk
    publish_due(services.store, services.authority, desk.now(), desk.limits)
    with services.store.read() as tx:
        row = tx.crls.latest(skid)
    if row is None:
        raise NotFound("there is no CA with this key id")
    return row


def _crl_age(row: CrlRow, at: datetime) -> int:
    """Seconds that a CRL may be kept: at most half of what is left of its life, and never long."""
    left = (row.next_update - at).total_seconds() / 2
    return max(0, min(int(left), _CERTIFICATE_AGE_S))


def _wants_pem() -> bool:
    best = request.accept_mimetypes.best_match([PKIX_CERT, PEM_CHAIN])
    if request.accept_mimetypes and best is None:
        raise NotAcceptable
    return best == PEM_CHAIN


def _check_ready(services: Services) -> None:
    """Raise `Unavailable` unless the CA could issue now."""
    services.store.check()
    services.store.check_writable()
    at = services.enroller.desk.now()
    for ca in services.authority.issuers:
        sign_and_check(ca.signer, b"ready?")
        if _crl(services, ca.skid).next_update <= at:
            raise Unavailable(f"the CRL of the {ca.role} CA has expired")


def publication(services: Services) -> Blueprint:
    """The blueprint of everything that is public."""
    blueprint = Blueprint("publication", __name__)
    authority = services.authority
    by_skid = {_skid(c): c for c in (authority.root, *(ca.certificate for ca in authority.issuers))}
    issuers: dict[str, IssuingCa] = {ca.skid: ca for ca in authority.issuers}

    @blueprint.get("/.well-known/vtpm-ca")
    def directory() -> Response:
        return Response(canonical(_directory(services).to_json()), mimetype="application/json")

    @blueprint.get("/ca/<skid>.cer")
    def ca_certificate(skid: str) -> Response:
        if skid not in by_skid:
            raise NotFound("there is no CA with this key id")
        return _published(by_skid[skid].public_bytes(Encoding.DER), PKIX_CERT, _CA_CERTIFICATE_AGE_S)

    @blueprint.get("/crl/<skid>/0.crl")
    def crl(skid: str) -> Response:
        row = _crl(services, skid)
        response = _published(row.der, PKIX_CRL, _crl_age(row, services.enroller.desk.now()))
        response.last_modified = row.this_update
        return response

    @blueprint.get("/v1/certificates/<serial>")
    def certificate(serial: str) -> Response:
        with services.store.read() as tx:
            row = tx.certificates.get(serial)
        if row is None or row.der is None:
            raise NotFound("there is no certificate with this serial number")
        if not _wants_pem():
            return _published(row.der, PKIX_CERT, _CERTIFICATE_AGE_S)
        chain = [row.der, *(authority.chain(issuers[row.issuer]) if row.issuer in issuers else ())]
        pem = b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in chain)
        return _published(pem, PEM_CHAIN, _CERTIFICATE_AGE_S)

    @blueprint.get("/healthz")
    def healthz() -> Response:
        return Response(b'{"status":"alive"}', mimetype="application/json")

    @blueprint.get("/readyz")
    def readyz() -> Response:
        _check_ready(services)
        return Response(b'{"status":"ready"}', mimetype="application/json")

    return blueprint
