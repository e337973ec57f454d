"""From a document's tables to entries; every complaint names the place and the entry."""

from collections.abc import Iterable, Mapping

from ca_service.policy.document import tables
from ca_service.policy.document.form import problem
from vtpm.wire.templates import Role, templates


class Reader:
    """What reading any part of a document needs: refusing at a place, lists without doubles."""

    def __init__(self, content: Mapping[str, object]) -> None:
        self.content = content

    def refuse(self, detail: str, *path: int | str) -> Exception:
        """The error about a place."""
        return problem(self.content, path, detail)

    def unique(self, values: Iterable[str], *path: int | str, member: str = "") -> frozenset[str]:
        """The values as a set; refused where one stands twice."""
        seen: set[str] = set()
        for i, value in enumerate(values):
            if value in seen:
                at = (*path, i, member) if member else (*path, i)
                raise self.refuse("stands twice", *at)
            seen.add(value)
        return frozenset(seen)


class TemplateReader(Reader):
    """Reads `[tpm]`."""

    def read(self, table: tables.TpmTable | None) -> dict[Role, frozenset[str]]:
        """Allowed template ids by role.

        Raises:
            BadRequest: there is no such template, or one stands twice.
        """
        if table is None:
            return {}
        allowed: dict[Role, frozenset[str]] = {}
        for role, ids in ((Role.EK, table.ek), (Role.IAK, table.iak), (Role.IDEVID, table.idevid)):
            known = [template.id for template in templates(role)]
            for i, template_id in enumerate(ids):
                if template_id not in known:
                    raise self.refuse("must be one of " + ", ".join(known), "tpm", role.value, i)
            allowed[role] = self.unique(ids, "tpm", role.value)
        return allowed
