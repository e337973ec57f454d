"""Policy documents that differ from one another as an operator's do: a strategy for properties of whole documents.

A document is a dict as `tomllib` reads it. `edited` changes, adds or takes away one member or entry; most of what comes
out can be loaded, and what it says is likely to matter to facts that are drawn from the same values.
"""

import copy
import json
from collections.abc import Callable
from datetime import UTC, date, datetime

from hypothesis import strategies as st

from ca_service.judgment import BadRequest
from ca_service.policy import UNSAFE_RULES, Policy, load

LATER = datetime(2030, 1, 1, tzinfo=UTC)

POOL = {
    "grant_max_age_s": [1800, 3599, 3600, 3601],
    "tenant": ["payments", "retail"],
    "status": ["trusted", "suspended"],
    "pattern": ["*/vtpm/*", "default/vtpm/*", "default/pool/*", "x/vtpm/a", "default/*/a"],
    "platform": ["fleet", "cloud"],
    "measurement": ["11" * 48, "22" * 48, "33" * 48],
    "firmware": ["1.55.28", "1.55.29", "1.54.99", "1.56.0"],
    "min_abi": ["1.50", "1.51", "1.52", "0.99"],
    "valid_from": [datetime(2026, 1, 1, tzinfo=UTC), LATER],
    "valid_to": [datetime(2026, 1, 2, tzinfo=UTC), LATER],
    "from": [LATER, datetime(2026, 11, 1, tzinfo=UTC), datetime(2027, 6, 1, tzinfo=UTC)],
    "pair": ["default", "second"],
    "iak_profile": ["iak", "iak-webauthn"],
    "days": [1, 3, 7],
}
"""Values of members that have one."""

LISTS = {
    "origins": ["kbs-generated", "provisioned"],
    "release_policies": ["ab" * 32, "cd" * 32, "00" * 32],
    "host_data": ["d0" * 32, "d1" * 32, "d2" * 32, "d3" * 32, "00" * 32],
    "id_keys": ["5a" * 48, "5b" * 48, "5c" * 48],
    "capabilities": ["verifies-grants", "reports-state", "oracle-free"],
    "products": ["Milan", "Genoa"],
    "keys": ["VCEK", "VLEK"],
    "report_versions": [2, 3, 5],
    "profiles": ["amd-svsm-services", "amd-svsm-vtpm:0"],
    "ek": ["L-1", "H-3", "L-2"],
    "iak": ["H-3", "H-2"],
    "idevid": ["H-3", "H-2", "H-1"],
    "formats": ["cocoonfs/1", "cocoonfs/2"],
    "allow": [bytes(range(64)).hex(), "01" * 64, "fe" * 8],
    "unconstrained": [
        "measurement", "id-key", "author-key", "host-data", "guest-svn", "abi", "guest-policy", "family-id", "image-id",
        "chip", "info", "crl-age", "reported-tcb", "build", "api", "release-policy",
    ],
}  # fmt: skip
"""Values of members that have several."""

OPTIONAL = {
    "": {
        "ephemeral": [{"days": 3, "profiles": ["amd-svsm-services"]}, {"days": 2, "volatile_stores": True}],
        "grant": [{"max_age_s": 3600}],
        "certificates": [{"ek": {"days": 365}}, {"iak": {"days": 30}, "idevid": {"days": 365}}],
        "limits": [{"instance_enrolments": 30}, {"instance_window_s": 1800}],
        "store": [{"formats": ["cocoonfs/1"]}],
        "unsafe": [[{"name": name, "gives_up": "x"}] for name in sorted(UNSAFE_RULES)],
    },
    "kbs": {
        "label": ["Ours"],
        "tenant": POOL["tenant"],
        "grant_max_age_s": POOL["grant_max_age_s"],
        "unconstrained": [["release-policy"]],
        "release_policies": [["ab" * 32], ["00" * 32]],
        "valid_from": POOL["valid_from"],
        "valid_to": POOL["valid_to"],
        "pair": POOL["pair"],
    },
    "launch": {
        "label": ["Ours"],
        "host_data": [["d0" * 32], ["00" * 32]],
        "min_guest_svn": [0, 3],
        "id_keys": [["5a" * 48]],
    },
    "platform": {"label": ["Ours"], "crl_max_age_days": [30], "chips": [{"deny": ["01" * 64]}]},
}
"""Members that an entry of a table may have and need not, with values; those of the document under the empty name."""


def written(content: dict[str, object]) -> str:
    """A document as TOML text."""
    return "".join(f"{name} = {_value(value)}\n" for name, value in content.items())


def _value(value: object) -> str:
    if isinstance(value, dict):
        return (
            "{" + ", ".join(f"{json.dumps(name)} = {_value(member)}" for name, member in value.items()) + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(_value(element) for element in value) + "]"
    if isinstance(value, date):
        return value.isoformat()
    return json.dumps(value)


def _at(content: dict, path: tuple) -> object:
    for step in path:
        content = content[step]
    return content


def edited(content: dict, data: st.DataObject) -> dict:
    """A document in which one member was changed, added, or taken away."""
    after = copy.deepcopy(content)
    if data.draw(st.integers(0, 4)) == 0:
        _add(after, data)
    else:
        _change(after, data)
    return after


def _add(content: dict, data: st.DataObject) -> None:
    entries = [(table, ()) for table in OPTIONAL if not table]
    entries += [(t, (t, i)) for t in OPTIONAL if t for i in range(len(content.get(t, ())))]
    table, path = data.draw(st.sampled_from(entries))
    place = _at(content, path)
    missing = sorted(OPTIONAL[table].keys() - place.keys())
    if missing:
        name = data.draw(st.sampled_from(missing))
        place[name] = copy.deepcopy(data.draw(st.sampled_from(OPTIONAL[table][name])))
        given_up = place.get("unconstrained", [])
        for word in (name.removesuffix("s").replace("_", "-"), name.removeprefix("min_").replace("_", "-")):
            if word in given_up:
                given_up.remove(word)


def _change(content: dict, data: st.DataObject) -> None:
    place, name, value = _drawn_place(content, data)
    if data.draw(st.integers(0, 3)) == 0:
        del place[name]
    elif name in LISTS:
        place[name] = data.draw(st.lists(st.sampled_from(LISTS[name]), unique=True))
    elif name in POOL:
        place[name] = data.draw(st.sampled_from(POOL[name]))
    elif isinstance(value, bool):
        place[name] = not value
    elif isinstance(value, int):
        place[name] = max(0, value + data.draw(st.integers(-2, 2)))
    elif name in ("require", "forbid", "either") and value:
        bit = data.draw(st.sampled_from(value))
        value.remove(bit)
        place[data.draw(st.sampled_from(["require", "forbid", "either"]))].append(bit)


def _drawn_place(content: dict, data: st.DataObject) -> tuple[object, object, object]:
    """A member or element, what it is in, and its value; one of a small table is as likely as one of a large one."""
    value: object = content
    while True:
        place = value
        name = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
        value = place[name]
        if not value or not isinstance(value, dict | list) or name in ("jwk", *LISTS):
            return place, name, value
        if data.draw(st.integers(0, 3)) == 0:
            return place, name, value


def permissive(content: dict, data: st.DataObject, most: int = 2) -> dict:
    """The document, often with some permissive entries."""
    names = data.draw(st.lists(st.sampled_from(sorted(UNSAFE_RULES)), unique=True, max_size=most))
    return content | {"unsafe": [{"name": name, "gives_up": "x"} for name in names]} if names else content


def drawn_policies(
    content: dict, data: st.DataObject, most: int = 6, loaded: Callable[[str], Policy] = load
) -> list[Policy]:
    """The document, and those that come of it by up to `most` edits one after the other, as policies."""
    found = [loaded(written(content))]
    for _ in range(data.draw(st.integers(1, most))):
        after = edited(content, data)
        try:
            found.append(loaded(written(after)))
        except BadRequest:
            continue
        content = after
    return found
