"""The OpenAPI 3.1 document: the table of calls, the schemas heard from the readers, and what HTTP adds to both."""

import inspect
import json
import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Final

from ca_service.api.calls import (
    ACTIVATION,
    CALLS,
    ENROLLMENTS,
    EVERYWHERE,
    JSON,
    OPERATION,
    STATE,
    Answer,
    Call,
)
from ca_service.api.contract import messages
from ca_service.api.contract.arguments import arguments, operations
from ca_service.api.contract.messages import Message
from ca_service.api.contract.schemas import Schema, Schemas
from ca_service.api.paths import PATTERNS
from ca_service.api.surfaces import Surface
from ca_service.api.watching import route_of
from vtpm.wire.problem import PROBLEM_MEDIA_TYPE

VERSION: Final = "1.1"
"""Of the interface: the first number is that of its paths, the second grows with what is added."""

_VARIABLE: Final = re.compile(r"<(?:(\w+):)?(\w+)>")
_NAME: Final = re.compile(r"\{(\w+)\}")
_SEGMENT: Final = "[^/]+"

_PARTS: Final = {
    "enrollment_id": "the enrolment's `id`",
    "skid": "a CA's subject key identifier, in hex",
    "serial": "serial number, in hex",
    "shard": "number of the list, as in a certificate's cRLDistributionPoints",
    "encoded": "the OCSP request in Base64, escaped",
}

_SURFACES: Final = {
    Surface.ENROLMENT: "For machines: the listener of `--bind`. TLS, or loopback.",
    Surface.PUBLICATION: "For everybody: the listener of `--publish`, else of `--bind`; operators' listeners, too.",
    Surface.OPERATION: "For operators: the Unix socket in the CA's directory, and the listener of `--operator-bind`.",
}

_HEADERS: Final[dict[str, tuple[str, Schema]]] = {
    "Cache-Control": ("how long it may be kept: `no-store` but for what is published", {"type": "string"}),
    "Allow": ("the methods that exist here", {"type": "string"}),
    "ETag": ("changes with the bytes; If-None-Match gets 304", {"type": "string"}),
    "Last-Modified": ("when the list was made", {"type": "string"}),
    "Vary": ("the form depends on Accept", {"type": "string"}),
    "Retry-After": ("seconds to wait before trying again", {"type": "string", "pattern": "^[0-9]+$"}),
    "X-Content-Type-Options": ("nosniff", {"const": "nosniff"}),
    "X-Request-Id": (
        "our name for this request, in the CA's log too; missing where the request was not read to its end",
        {"type": "string", "pattern": "^[0-9a-f]{16}$"},
    ),
}

_PROBLEMS: Final = {
    400: "malformed; `pointer` names the member at fault",
    403: "refused by a rule, which `rule` names",
    404: "there is no such object or path",
    405: "this method does not exist here; `Allow` has those that do",
    406: "no form that `Accept` takes",
    408: "the request did not come in time",
    409: "contradicts an earlier request, or the present state",
    411: "no `Content-Length`",
    413: "the content is too large",
    414: "the request line is too long",
    415: "another media type than the call takes, or a content coding",
    417: "an expectation other than 100-continue",
    429: "too many requests or connections",
    431: "the header is too large",
    500: "the CA failed; its log says why",
    503: "the CA cannot do this now",
    505: "not HTTP/1.1",
}
_RETRY: Final = frozenset({408, 429, 503})

_STATUS: Final[Schema] = {
    "type": "object",
    "properties": {"status": {"type": "string"}},
    "required": ["status"],
}
_RESULT: Final[Schema] = {
    "type": "object",
    "properties": {"result": {"description": "as the command of `vtpm-ca` prints it with --json"}},
    "required": ["result"],
    "additionalProperties": False,
}
_FREE: Final[dict[str, Schema]] = {"STATUS": _STATUS, "RESULT": _RESULT, "DOCUMENT": {"type": "object"}}


def document() -> Schema:
    """The whole document, always the same."""
    schemas = Schemas()
    paths: dict[str, dict[str, Schema]] = {}
    for call in CALLS:
        if call is OPERATION:
            paths.update(_operations(schemas))
        else:
            path = _path(call, paths)
            paths.setdefault(path, {})[call.method.lower()] = _call(call, _NAME.findall(path), schemas)
    problem = messages.PROBLEM.schema(schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "vtpm-ca",
            "version": VERSION,
            "summary": "A certificate authority for the vTPMs of confidential VMs",
            "description": "docs/api.md says what clients do with it, docs/protocol.md what the messages mean.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "each tag has listeners of its own"}],
        "tags": [{"name": surface.value, "description": text} for surface, text in _SURFACES.items()],
        "paths": paths,
        "components": {
            "schemas": schemas.named,
            "headers": {
                name: {"description": text, "schema": schema} for name, (text, schema) in _HEADERS.items()
            },
            "responses": {str(status): _problem(status, problem) for status in _PROBLEMS},
        },
    }


def text() -> str:
    """The document as it is kept."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


def _path(call: Call, known: Iterable[str]) -> str:
    """The path of a call; two that differ in names of variable parts only are one (OpenAPI 3.1, Paths Object)."""
    path = route_of(call.rule)
    return next((other for other in known if _NAME.sub("{}", other) == _NAME.sub("{}", path)), path)


def _call(call: Call, names: Sequence[str], schemas: Schemas) -> Schema:
    found: Schema = {
        "operationId": call.name,
        "tags": [call.surface.value],
        "summary": call.means,
    }
    parts = _VARIABLE.findall(call.rule)
    if parts:
        found["parameters"] = [
            _parameter(converter, part, name) for (converter, part), name in zip(parts, names, strict=True)
        ]
    if call.takes:
        found["requestBody"] = {"required": True, "content": {call.takes: _content(call.message, schemas)}}
    responses = _responses(call, schemas)
    if call is ENROLLMENTS:
        # From the answer of this call comes the variable part of the others.
        responses["201"] = {
            **responses["201"],
            "links": {one.name: _link(one) for one in (ACTIVATION, STATE)},
        }
    return {**found, "responses": responses}


def _link(call: Call) -> Schema:
    return {"operationId": call.name, "parameters": {"enrollment_id": "$response.body#/id"}}


def _operations(schemas: Schemas) -> dict[str, dict[str, Schema]]:
    """Each operation as a path of its own."""
    found: dict[str, dict[str, Schema]] = {}
    for operation, examples in operations():
        said = inspect.getdoc(operation.run) or ""
        summary, _, rest = said.partition("\n\n")
        content = {"schema": arguments(operation, schemas), "examples": _examples(examples)}
        method: Schema = {
            "operationId": operation.name,
            "tags": [OPERATION.surface.value],
            "summary": summary.replace("\n", " "),
            **({"description": rest} if rest else {}),
            "requestBody": {"required": False, "content": {JSON: content}},
            "responses": _responses(OPERATION, schemas),
        }
        path = route_of(OPERATION.rule).replace("{name}", operation.name)
        found[path] = {OPERATION.method.lower(): method}
    return found


def _parameter(converter: str, part: str, name: str) -> Schema:
    pattern = PATTERNS.get(converter, _SEGMENT)
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": _PARTS[part],
        "schema": {"type": "string", "pattern": f"^({pattern})$"},
    }


def _responses(call: Call, schemas: Schemas) -> dict[str, Schema]:
    found = {str(status): _answer(answer, schemas) for status, answer in call.answers.items()}
    if any("ETag" in answer.headers for answer in call.answers.values()):
        found["304"] = {"description": "what the client has is what there is"}
    for status in sorted({*call.problems, *EVERYWHERE}):
        found[str(int(status))] = {"$ref": f"#/components/responses/{int(status)}"}
    return dict(sorted(found.items()))


def _answer(answer: Answer, schemas: Schemas) -> Schema:
    names = (*answer.headers, "X-Content-Type-Options", "X-Request-Id")
    return {
        "description": answer.means,
        "headers": {name: _header(name) for name in names},
        "content": {form: _content(message, schemas) for form, message in answer.forms.items()},
    }


def _header(name: str) -> Schema:
    return {"$ref": f"#/components/headers/{name}"}


def _content(message: str, schemas: Schemas) -> Schema:
    if not message:
        return {}
    if message in _FREE:
        return {"schema": _FREE[message]}
    known: Message = getattr(messages, message)
    return {"schema": known.schema(schemas), "examples": _examples(known.examples)}


def _examples(examples: tuple[dict[str, object], ...]) -> Schema:
    return {str(number): {"value": example} for number, example in enumerate(examples, 1)}


def _problem(status: int, schema: Schema) -> Schema:
    names = ["Cache-Control", "X-Content-Type-Options", "X-Request-Id"]
    if status in _RETRY:
        names.append("Retry-After")
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        names.append("Allow")
    content: Schema = {"schema": schema}
    examples = [example for example in messages.PROBLEM.examples if example["status"] == status]
    if examples:
        content["examples"] = _examples(tuple(examples))
    return {
        "description": f"{HTTPStatus(status).phrase}: {_PROBLEMS[status]}",
        "headers": {name: _header(name) for name in names},
        "content": {PROBLEM_MEDIA_TYPE: content},
    }
