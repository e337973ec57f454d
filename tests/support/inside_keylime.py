"""Runs in keylime's own environment: keylime's functions judge what stands on standard input.

They are those that its services call, without the network between them: the registrar's model of an agent, which looks
at keys and certificates and makes the challenge, and the tenant's check of an EK certificate.
"""

import base64
import json
import os
import sys


def _registration(case: dict) -> dict:
    """As the registrar's `AgentsController.create` does: 200 if there are no errors, with the challenge."""
    agent = RegistrarAgent.empty()
    try:
        agent.update(case["data"])
        challenge = agent.produce_ak_challenge()
    except Exception as error:  # noqa: BLE001 - where the registrar answers 500
        return {"errors": {"exception": [repr(error)]}, "challenge": None}
    errors = {field: found for field, found in agent.errors.items() if found}
    errors |= {} if challenge else {"challenge": ["cannot be made"]}
    return {"errors": errors, "challenge": challenge}


def _tenant(case: dict) -> dict:
    """As `Tenant.validate_tpm_quote` looks at the EK certificate that the registrar gives it, in Base64 of its DER."""
    tenant = object.__new__(Tenant)  # to make one in order takes its TLS certificates
    tenant.tpm_instance = Tpm()
    tenant.agent_uuid = case["agent"]
    try:
        return {"accepted": tenant.check_ek(case["ekcert"])}
    except Exception as error:  # noqa: BLE001 - where the tenant ends with a traceback
        return {"accepted": False, "error": repr(error)}


def _algorithm(case: dict) -> dict:
    """As the tenant looks at the name that the agent gives to its EK's algorithm."""
    accepted = config.getlist("tenant", "accept_tpm_encryption_algs")
    return {"accepted": is_accepted(case["algorithm"], accepted)}


def _origin(case: dict) -> dict:
    """As registrars up to 7.9 look at IAK and IDevID certificates."""
    certificate = cert_utils.x509_der_cert(base64.b64decode(case["certificate"]))
    try:
        return {"accepted": cert_utils.check_tpm_origin(certificate)}
    except Exception as error:  # noqa: BLE001 - where those registrars answer 500
        return {"accepted": False, "error": repr(error)}


def _column(case: dict) -> dict:
    """Whether so many characters have room in a column of the registrar's table."""
    return {"accepted": case["characters"] <= RegistrarMain.__table__.columns[case["column"]].type.length}


def main() -> None:
    """Answer every case in its turn."""
    judges = {
        "registration": _registration,
        "tenant": _tenant,
        "algorithm": _algorithm,
        "origin": _origin,
        "column": _column,
    }
    answers = []
    for case in json.load(sys.stdin):
        os.environ["KEYLIME_TENANT_TPM_CERT_STORE"] = case["store"]
        answers.append(judges[case["judge"]](case))
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    from keylime import cert_utils, config
    from keylime.common.algorithms import is_accepted
    from keylime.db.registrar_db import RegistrarMain
    from keylime.models.base import db_manager
    from keylime.models.registrar.registrar_agent import RegistrarAgent
    from keylime.tenant import Tenant
    from keylime.tpm.tpm_main import Tpm

    db_manager.make_engine("registrar")
    main()
