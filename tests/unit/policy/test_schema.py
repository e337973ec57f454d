"""The JSON schema for editors: the one that is kept is the one of this release, and it says what the loader says."""

import json
import re
import tomllib
from datetime import datetime
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner
from document_edits import drop, edited, put

from ca_service.judgment import BadRequest
from ca_service.policy import example_document, load
from ca_service.policy.document.schema import FILE, document_schema, main, text

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def schema():
    return document_schema()


@pytest.fixture(scope="module")
def accepts(schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    # Editors hand a TOML date over as its text.
    return lambda content: validator.is_valid(json.loads(json.dumps(content, default=datetime.isoformat)))


def test_the_schema_that_is_kept_is_that_of_this_release():
    assert (ROOT / FILE).read_text(encoding="utf-8") == text(), "python -m ca_service.policy.document.schema"


def test_it_is_written_and_compared_by_a_command(tmp_path):
    file = tmp_path / "schema.json"

    def command(*options):
        return CliRunner().invoke(main, [*options, str(file)]).exit_code

    assert command("--check") == 1
    assert not file.exists()
    assert command() == 0
    assert file.read_text() == text()
    assert command("--check") == 0
    file.write_text(text() + " ")
    assert command("--check") == 1


def tables(schema):
    """All tables of the schema, by name."""
    return {"": schema, **schema["$defs"]}


def test_every_table_and_member_says_what_it_means(schema):
    for name, table in tables(schema).items():
        assert table["additionalProperties"] is False, name
        assert re.fullmatch(r"[ -~\n]+\.", table["description"]), name
        for member, said in table["properties"].items():
            assert re.fullmatch(r"[A-Z][ -~]+\.", said.get("description", "")), (name, member)


def test_nothing_in_it_is_null_or_a_repeated_name(schema):
    assert "null" not in text()
    assert '"title"' not in text()


@pytest.mark.parametrize("name", ["simulation.toml", "production.toml"])
def test_the_examples_name_the_schema_and_hold_to_it(accepts, name):
    document = example_document(name)
    assert document.startswith(f"#:schema ./{FILE.name}\n")
    assert accepts(tomllib.loads(document))


def test_a_whole_document_holds_to_it(accepts, content):
    content["certificates"] = {
        "ek": {"validity": "bounded", "days": 30},
        "iak": {"validity": "device-lifetime"},
    }
    content["limits"] = {"instance_enrolments": 5}
    content["kbs"][0] |= {"tenant": "payments", "grant_max_age_s": 60}
    assert accepts(content)


FORM = [
    drop("schema"),
    put("surprise", value=1),
    put("grant", "max_age_s", value=0),
    put("kbs", 0, "id", value="Org KBS"),
    put("kbs", 0, "key", 0, value={}),
    put("kbs", 0, "key", 0, "pem", value="x"),
    put("kbs", 0, "origins", value=[]),
    put("kbs", 0, "valid_from", value=7),
    put("kbs", 1, "unconstrained", value=["origin"]),
    put("kbs", 1, "grant_max_age_s", value=604_801),
    put("launch", 0, "measurement", value="11" * 47),
    put("launch", 0, "guest_policy", "require", value=["debug"]),
    put("launch", 0, "capabilities", value=["flies"]),
    put("platform", 0, "report_versions", value=[1]),
    put("platform", 0, "chips", "allow", value=["01" * 32]),
    put("platform", 0, "tcb", 0, "reported", "snp", value=256),
    put("certificates", value={"ek": {"validity": "forever"}}),
    put("limits", value={"launches": 1}),
]


@pytest.mark.parametrize("edit", FORM, ids=range(len(FORM)))
def test_what_is_wrong_in_form_an_editor_sees(accepts, content, toml, edit):
    wrong = edited(content, edit)
    assert not accepts(wrong)
    with pytest.raises(BadRequest):
        load(toml(wrong))
