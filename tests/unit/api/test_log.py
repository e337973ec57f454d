"""The checkpoint that everybody may read."""

import json

import pytest

from ca_service.audit import Log, VerifierKey, open_checkpoint
from ca_service.operations.log_identity import log_key
from vtpm.wire.enrollment import Directory


@pytest.fixture
def log(services):
    authority = services.authority
    made = Log(authority.log.origin, authority.log_key)
    with services.store.write() as tx:
        made.append(tx, (), services.enroller.desk.now())
    return made


def test_the_newest_checkpoint(client, log):
    answer = client.get("/log/checkpoint")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["Cache-Control"] == "public, max-age=2"
    assert open_checkpoint(answer.data, log.key).origin == "test-ca/log"


def test_a_log_without_a_checkpoint(client, services):
    with services.store.write() as tx:
        tx.connection.exec_driver_sql("DELETE FROM log_head")
    answer = client.get("/log/checkpoint")
    assert (answer.status_code, answer.get_json()["code"]) == (404, "not-found")


def test_the_directory_names_the_log(client, services):
    document = client.get("/.well-known/vtpm-ca").data
    key = log_key(services.authority)
    assert Directory.parse(document).log == key
    assert json.loads(document)["log"] == {"origin": "test-ca/log", "key": str(key)}
    assert VerifierKey.parse(json.loads(document)["log"]["key"]) == key
