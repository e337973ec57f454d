"""``python -m ca_service.policy.document.schema [--check]``: the JSON schema of policy documents, for editors.

It is made from the tables themselves, so it says what they say. It knows the form alone: that a name is one, not that
there is an entry of that name. `vtpm-ca policy check` has the last word.
"""

import json
import sys
from pathlib import Path
from typing import Any, Final

import click
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from ca_service.policy.document.tables import Document

FILE: Final = Path("policies", "policy.schema.json")
"""Where the schema lies in a checkout."""

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


class _Toml(GenerateJsonSchema):
    """TOML has no null: what may be left out is left out."""

    def nullable_schema(self, schema: Any) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: Any) -> JsonSchemaValue:
        made = super().default_schema(schema)
        if made.get("default", ...) is None:
            del made["default"]
        return made

    def get_title_from_name(self, name: str) -> str:
        return name


def document_schema() -> dict[str, object]:
    """The JSON schema (draft 2020-12) of a policy document of schema 1."""
    made = Document.model_json_schema(schema_generator=_Toml)
    return {"$schema": _DIALECT, **_plain(made)}


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """Without the titles, which repeat the names."""
    return {
        name: _plain_members(value) if name in ("properties", "$defs") else _each(value)
        for name, value in schema.items()
        if name != "title"
    }


def _plain_members(members: dict[str, Any]) -> dict[str, Any]:
    return {name: _plain(member) for name, member in members.items()}


def _each(value: Any) -> Any:
    if isinstance(value, dict):
        return _plain(value)
    return [_each(element) for element in value] if isinstance(value, list) else value


def text() -> str:
    """The schema as it is kept."""
    return json.dumps(document_schema(), indent=2, ensure_ascii=True) + "\n"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--check", is_flag=True, help="write nothing; exit 1 if the file is not the right one")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), default=FILE)
def main(file: Path, *, check: bool) -> None:
    """Write the schema of this release's policy documents to FILE."""
    wanted = text()
    if not check:
        file.write_text(wanted, encoding="utf-8")
    elif not file.is_file() or file.read_text(encoding="utf-8") != wanted:
        click.echo(f"{file} differs. Write it: python -m ca_service.policy.document.schema", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
