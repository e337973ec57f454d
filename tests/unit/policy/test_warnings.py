"""What a policy document may say and should be asked about."""

import pytest

from ca_service.policy import load

KEY = """
[[kbs.key]]
[kbs.key.jwk]
crv = "P-256"
kty = "EC"
x = "axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY"
y = "T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU"
"""
BROKER = f"""
schema = 1
[[kbs]]
id = "org"
label = "the organisation's"
status = "trusted"
origins = [{{origins}}]
{{extra}}
{KEY.replace("{", "{{").replace("}", "}}")}
[[kbs.resource]]
pattern = "default/*/*"
shared = {{shared}}
"""
PINNED = 'release_policies = ["' + "ab" * 32 + '"]'


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"shared": "true"}, "shared"),
        ({"origins": '"kbs-generated", "provisioned"'}, "provisioned"),
        ({"extra": ""}, "release_policies"),
    ],
    ids=["shared", "provisioned", "release-policies"],
)
def test_each_is_said_once(changes, word):
    fields = {"shared": "false", "origins": '"kbs-generated"', "extra": PINNED} | changes
    (warning,) = load(BROKER.format(**fields)).warnings()
    assert word in warning
    assert "org" in warning


def test_a_careful_entry_is_left_alone():
    text = BROKER.format(shared="false", origins='"kbs-generated"', extra=PINNED)
    assert load(text).warnings() == []
