"""Checks of the stated keys themselves: template, attributes, sanity, distinctness.

Source: TCG "TPM 2.0 Keys for Device Identity and Attestation" 1.0, sections 6 and 7; TCG EK Credential Profile 2.x,
annex B. Equality with the template is the stronger rule; the attributes are judged once more on their own, because
each of them is what makes a key fit for its role.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ca_service.judgment import Checks, Finding, Timeless, failed, passed
from ca_service.residency.evidence import TpmEvidence
from ca_service.residency.sanity import weakness
from vtpm.wire.errors import WireError
from vtpm.wire.public_area import PublicArea
from vtpm.wire.runtime_data import KeyStatement
from vtpm.wire.templates import Role, differences, template

# TPMA_OBJECT (TPM 2.0 Library, Part 2, section 8.3)
_ATTRIBUTES = {
    "fixedTPM": 1 << 1,
    "stClear": 1 << 2,
    "fixedParent": 1 << 4,
    "sensitiveDataOrigin": 1 << 5,
    "adminWithPolicy": 1 << 7,
    "encryptedDuplication": 1 << 11,
    "restricted": 1 << 16,
    "decrypt": 1 << 17,
    "sign": 1 << 18,
}

_BORN_HERE = ("fixedTPM", "fixedParent", "sensitiveDataOrigin")
_NEVER = ("stClear", "encryptedDuplication")

_MUST_BE_SET = {
    Role.EK: (*_BORN_HERE, "adminWithPolicy", "restricted", "decrypt"),
    Role.IAK: (*_BORN_HERE, "restricted", "sign"),
    Role.IDEVID: (*_BORN_HERE, "sign"),
}
_MUST_BE_CLEAR = {
    Role.EK: (*_NEVER, "sign"),
    Role.IAK: (*_NEVER, "decrypt"),
    Role.IDEVID: (*_NEVER, "restricted", "decrypt"),
}


@dataclass(frozen=True)
class _EachKey(Timeless):
    """One rule about every key of a role; `trouble` says what is wrong with a key, "" for nothing."""

    id: str
    role: Role
    trouble: Callable[[Role, KeyStatement], str]

    def judge(self, subject: TpmEvidence) -> Finding:
        """Look at every key of the role and name the first that is wrong."""
        keys = subject.keys[self.role]
        if not keys:
            return failed(self, f"there is no {self.role} key", expected="one at least", actual="none")
        for at, key in keys:
            try:
                trouble = self.trouble(self.role, key)
            except WireError as error:
                trouble = f"is malformed: {error}"
            if trouble:
                return failed(self, f"{at} {trouble}", expected=key.template, actual=key.public.hex())
        return passed(self, actual=subject.templates[self.role])


def _template_trouble(role: Role, key: KeyStatement) -> str:
    differing = differences(key.public, template(role, key.template))
    return f"differs from template {key.template} in {', '.join(differing)}" if differing else ""


def _mask(names: tuple[str, ...]) -> int:
    return sum(_ATTRIBUTES[name] for name in names)


_SET_MASK = {role: _mask(names) for role, names in _MUST_BE_SET.items()}
_JUDGED_MASK = {role: _SET_MASK[role] | _mask(names) for role, names in _MUST_BE_CLEAR.items()}


def _attribute_trouble(role: Role, key: KeyStatement) -> str:
    attributes = key.area.attributes
    if attributes & _JUDGED_MASK[role] == _SET_MASK[role]:
        return ""
    missing = [name for name in _MUST_BE_SET[role] if not attributes & _ATTRIBUTES[name]]
    excess = [name for name in _MUST_BE_CLEAR[role] if attributes & _ATTRIBUTES[name]]
    return "; ".join(
        f"{verb} {', '.join(names)}"
        for verb, names in (("lacks the attribute", missing), ("must not have the attribute", excess))
        if names
    )


def _key_trouble(_role: Role, key: KeyStatement) -> str:
    return weakness(key.area) or ""


def _identity(area: PublicArea) -> tuple[object, ...]:
    """What makes two keys the same key, whatever else their public areas say."""
    return (area.kind, area.curve, *area.numbers())


@dataclass(frozen=True)
class _KeysDistinct(Timeless):
    """EK, IAK and IDevID are all different keys, and no two EKs are of one template."""

    id: str = "tpm.keys-distinct"

    def judge(self, subject: TpmEvidence) -> Finding:
        """Compare the keys by their key material, not by Name: attributes do not make another key."""
        seen: dict[tuple[object, ...], str] = {}
        for role, keys in subject.keys.items():
            for at, key in keys:
                try:
                    marks = [_identity(key.area)]
                except WireError as error:
                    return failed(self, f"{at} is malformed: {error}", actual=key.public.hex())
                if role is Role.EK:
                    marks.append(("template", key.template))
                for mark in marks:
                    if mark in seen:
                        return failed(
                            self,
                            f"{at} is the same as {seen[mark]}",
                            expected="keys that all differ, and EKs of different templates",
                            actual=f"{at}: {key.template}, {key.public.hex()}",
                        )
                    seen[mark] = at
        return passed(self)


KEY_CHECKS: Checks[TpmEvidence] = Checks(
    (
        *(_EachKey(f"tpm.{role.value}-template", role, _template_trouble) for role in Role),
        *(_EachKey(f"tpm.{role.value}-attributes", role, _attribute_trouble) for role in Role),
        *(_EachKey(f"tpm.{role.value}-key", role, _key_trouble) for role in Role),
        _KeysDistinct(),
    )
)
"""All that is demanded of the keys in a statement, whether or not a proof of residency comes with them."""
