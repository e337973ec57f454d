"""Brokers and resources that a permissive entry admits whether they are listed or not.

The ledger knows an instance by broker and resource, and by its volume's salt where the resource is shared. Under such
an entry, who is taken off the list is admitted as before, but as another instance: nothing that is known of the
earlier one holds it back any more.
"""

from collections.abc import Container, Iterable, Iterator
from dataclasses import replace
from typing import Final

from ca_service.policy.changes.effects import Change, Effect

_RENAMING: Final = ("UnsafeAllowAnyKbs", "UnsafeAllowAnyResource")


def admitted_unlisted(changes: Iterable[Change], unsafe: Container[str]) -> Iterator[Change]:
    """Differences between key brokers as they are under a policy with these permissive entries.

    Which of them would move no instance is not looked for: simulation CAs alone have such policies.
    """
    entry = next((name for name in _RENAMING if name in unsafe), None)
    for change in changes:
        if entry is None or change.effect is not Effect.NARROWS:
            yield change
        else:
            text = f"{change.text}; {entry} may admit it as another instance"
            yield replace(change, text=text, effect=Effect.WIDENS)
