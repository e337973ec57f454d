"""The OpenAPI document: made from what the service does, the same as what is kept, and true of what it answers."""

import json
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from ca_service.api import Surface, create_app
from ca_service.api.calls import CALLS, DOCUMENT, OPERATION
from ca_service.api.contract import __main__ as command
from ca_service.api.contract.arguments import EXAMPLES
from ca_service.api.contract.openapi import text
from ca_service.api.contract.schemas import Schemas, Unshown, as_bytes
from ca_service.api.watching import route_of
from ca_service.operations import OPERATIONS
from vtpm.wire.encoding import Members
from vtpm.wire.enrollment import Directory, NonceReply
from vtpm.wire.errors import WireError

ROOT = Path(__file__).parents[3]
KEPT = (ROOT / "ca_service" / "api" / "openapi.json").read_text()
SPEC = json.loads(KEPT)
MESSAGES = json.loads((ROOT / "tests" / "vectors" / "protocol" / "messages.json").read_text())
JSON = {"content_type": "application/json"}
REGISTRY = Registry().with_resource("urn:api", Resource(SPEC, DRAFT202012))


def validator(pointer: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"urn:api#{pointer}"}, registry=REGISTRY)


def resolved(value: dict) -> dict:
    while "$ref" in value:
        place = SPEC
        for step in value["$ref"].removeprefix("#/").split("/"):
            place = place[step]
        value = place
    return value


def conforms(response, path: str, method: str = "post") -> None:
    """The answer is one that the document has: status, media type, header fields, form of the body."""
    answer = resolved(SPEC["paths"][path][method]["responses"][str(response.status_code)])
    content = answer["content"][response.mimetype]
    if "schema" in content:
        Draft202012Validator(
            {**content["schema"], "components": SPEC["components"]}, registry=REGISTRY
        ).validate(json.loads(response.data))
    for name in set(answer["headers"]) - {"X-Request-Id"}:
        assert name in response.headers


class TestTheDocument:
    def test_it_is_the_one_that_is_kept(self):
        """If not: python -m ca_service.api.contract."""
        assert text() == KEPT

    def test_it_is_openapi_3_1(self):
        assert SPEC["openapi"] == "3.1.0"
        assert list(OpenAPIV31SpecValidator(SPEC).iter_errors()) == []

    def test_the_command_tells_a_difference(self, tmp_path, monkeypatch):
        monkeypatch.setattr(command, "files", lambda _package: tmp_path)
        kept = tmp_path / "openapi.json"
        kept.write_text(KEPT.replace('"version": "1.', '"version": "0.'))

        def run(*words: str):
            return CliRunner().invoke(command.main, words)

        differs = run("--check")
        assert differs.exit_code == 1
        assert '+    "version": "1.' in differs.stderr
        assert run().exit_code == 0
        assert kept.read_text() == KEPT
        assert run("--check").exit_code == 0
        assert run("--stdout").stdout == KEPT

    def test_every_example_is_valid(self):
        checked = 0

        def walk(value, pointer: str) -> None:
            nonlocal checked
            if isinstance(value, dict):
                if "schema" in value and "examples" in value:
                    for example in value["examples"].values():
                        validator(f"{pointer}/schema").validate(example["value"])
                        checked += 1
                for name, inner in value.items():
                    walk(inner, f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}")

        walk(SPEC, "")
        assert checked > 30

    def test_it_names_every_operation_and_what_to_call_it(self):
        paths = {path for path in SPEC["paths"] if path.startswith("/operator/v1/")}
        assert paths == {f"/operator/v1/{name}" for name in OPERATIONS}
        assert set(EXAMPLES) == set(OPERATIONS)
        for path in paths:
            assert SPEC["paths"][path]["post"]["summary"]


@pytest.mark.parametrize("surface", Surface)
def test_the_paths_of_a_surface_are_those_of_the_table(services, surface):
    app = create_app(services, {surface})
    blueprints = {"enrolment", "publication", "ocsp", "log", "operator", "metrics", "document"}
    found = {
        (method, route_of(rule.rule))
        for rule in app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
        if rule.endpoint.partition(".")[0] in blueprints
    }
    wanted = {(call.method, route_of(call.rule)) for call in CALLS if call.surface is surface}
    if surface is Surface.OPERATION:
        wanted.add((DOCUMENT.method, DOCUMENT.rule))
    # This CA has no OCSP.
    assert found == {each for each in wanted if not each[1].startswith("/ocsp")}


class TestTheSchemas:
    @pytest.mark.parametrize("vector", MESSAGES["valid"], ids=lambda vector: vector["name"])
    def test_they_take_what_the_readers_take(self, vector):
        validator(f"/components/schemas/{vector['message']}").validate(vector["document"])

    def test_they_refuse_most_of_what_the_readers_refuse(self):
        """Not all: that a day exists, or that a key fits its name, is beyond them."""
        taken = {
            vector["name"]
            for vector in MESSAGES["invalid"]
            if validator(f"/components/schemas/{vector['message']}").is_valid(vector["document"])
        }
        assert {name.partition(": ")[2] for name in taken} <= {
            "expires-no-such-day",
            "ek-name-33-bytes",
            "no-checkpoint",
            "one-entry-without-a-proof",
            "hash-31-bytes",
            "key-of-another-name",
            "no-key",
            "report-1183-bytes",
        }


class TestListening:
    """What a reader takes is heard, not written down: so a change of the reader changes the document or stops it."""

    @staticmethod
    def of(read, *examples):
        return Schemas().of(as_bytes(lambda data: read(Members(json.loads(data)))), examples)

    def test_bounds_and_kinds(self):
        def read(members: Members) -> None:
            members.text("name", least=2, most=9)
            members.integer("age", 0, 120)
            members.boolean("well")
            members.hex("hash", size=4)
            members.b64url("key", most=3)
            members.one_of("colour", ("red", "blue"))
            for value, path in members.array("list", 1, 2):
                Members(value, path).end()
            members.end()

        schema = self.of(
            read,
            {
                "name": "Ada",
                "age": 36,
                "well": True,
                "hash": "00112233",
                "key": "AAA",
                "colour": "red",
                "list": [{}],
            },
        )
        assert schema["additionalProperties"] is False
        assert schema["required"] == ["name", "age", "well", "hash", "key", "colour", "list"]
        properties = schema["properties"]
        assert (properties["name"]["minLength"], properties["name"]["maxLength"]) == (2, 9)
        assert properties["age"] == {"type": "integer", "minimum": 0, "maximum": 120}
        assert (properties["hash"]["minLength"], properties["hash"]["maxLength"]) == (8, 8)
        assert properties["key"]["maxLength"] == 4
        assert properties["colour"]["enum"] == ["red", "blue"]
        assert properties["list"]["items"] == {"type": "object", "additionalProperties": False}

    def test_a_member_that_no_example_has_is_an_error(self):
        def read(members: Members) -> None:
            if members.has("new"):
                members.text("new")
            members.end()

        assert "new" not in self.of(read, {"new": "x"}).get("required", [])
        with pytest.raises(Unshown, match="new"):
            self.of(read, {})

    def test_an_example_that_the_reader_refuses_is_an_error(self):
        with pytest.raises(WireError):
            self.of(lambda members: members.text("name"), {})

    def test_a_pattern_counts_if_the_whole_text_is_compared(self):
        word, part = re.compile(r"[a-z]+\Z"), re.compile(r"[0-9]\Z")

        def read(members: Members) -> None:
            assert word.match(members.text("word"))
            text = members.text("text")
            assert part.match(text[-1:])

        properties = self.of(read, {"word": "abc", "text": "abc1"})["properties"]
        assert properties["word"]["pattern"] == "^[a-z]+$"
        assert properties["text"]["pattern"] == "^[ -~]*$"

    def test_what_depends_on_a_choice_is_one_of_several(self):
        def read(members: Members) -> None:
            if members.one_of("kind", ("a", "b")) == "a":
                members.integer("number", 0, 1)
            else:
                members.boolean("flag")
            members.end()

        first, second = self.of(read, {"kind": "a", "number": 1}, {"kind": "b", "flag": True})["oneOf"]
        assert (first["properties"]["kind"]["enum"], first["required"]) == (["a"], ["kind", "number"])
        assert (second["properties"]["kind"]["enum"], second["required"]) == (["b"], ["kind", "flag"])

    def test_listening_ends(self):
        before = sys.getprofile()
        with pytest.raises(WireError):
            self.of(lambda members: members.text("name"), {})
        assert sys.getprofile() is before


def test_a_whole_enrolment_conforms(client, world, tpm, helpers):
    nonce = client.post("/v1/nonces")
    conforms(nonce, "/v1/nonces")
    body = world.body(NonceReply.parse(nonce.data).nonce, tpm)
    validator("/components/schemas/EnrollmentRequest").validate(json.loads(body))
    first = client.post("/v1/enrollments", data=body, **JSON)
    conforms(first, "/v1/enrollments")
    enrollment_id, secrets = helpers.answer(tpm, first.data)
    validator("/components/schemas/ActivationRequest").validate(json.loads(secrets))
    done = client.post(f"/v1/enrollments/{enrollment_id}/activation", data=secrets, **JSON)
    conforms(done, "/v1/enrollments/{enrollment_id}/activation")
    conforms(client.get(f"/v1/enrollments/{enrollment_id}"), "/v1/enrollments/{enrollment_id}", "get")
    new = NonceReply.parse(client.post("/v1/nonces").data).nonce
    known = client.post("/v1/enrollments", data=world.body(new, tpm, helpers.Boot(certify=False)), **JSON)
    assert known.status_code == 200
    conforms(known, "/v1/enrollments")
    conforms(client.post("/v1/enrollments", data=b"{}", **JSON), "/v1/enrollments")
    other = client.post("/v1/enrollments", data=world.body(new, helpers.SoftTpm()), **JSON)
    assert other.status_code == 409
    conforms(other, "/v1/enrollments")


def test_what_is_published_conforms(client, world, services):
    directory = client.get("/.well-known/vtpm-ca")
    conforms(directory, "/.well-known/vtpm-ca", "get")
    skid = world.authority.issuer("ek").skid
    for path, place in {
        f"/ca/{skid}.cer": "/ca/{skid}.cer",
        f"/crl/{skid}/0.crl": "/crl/{skid}/{shard}.crl",
        "/log/checkpoint": "/log/checkpoint",
        "/healthz": "/healthz",
        "/readyz": "/readyz",
        "/openapi.json": "/openapi.json",
    }.items():
        conforms(client.get(path), place, "get")
    told = Directory.parse(directory.data).urls.values()
    assert {_shape(url) for url in told} <= {_shape(path) for path in SPEC["paths"]}


def _shape(path: str) -> str:
    return re.sub(r"\{\w+\}", "{}", path)


def test_operators_answers_conform(client):
    operator = {"environ_overrides": {"vtpm_ca.operator": "alice"}}
    done = client.post("/operator/v1/echo", json={}, **operator)
    place = "/operator/v1/cert-list"
    conforms(done, place)
    conforms(client.post("/operator/v1/nothing", json={}, **operator), place)
    conforms(client.post("/operator/v1/echo", data=b"[]", **JSON, **operator), place)
    conforms(client.post("/operator/v1/echo", data=b"{}", content_type="text/plain", **operator), place)
    assert OPERATION.takes == "application/json"
