"""Where an attack happens: a key broker, a CA and machines, fresh for each attempt, all on loopback."""

import io
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Self

from flask import Flask, Response
from flask.typing import ResponseReturnValue

from vtpm.errors import VtpmError
from vtpm.host import Behaviour, HostConfig, HostProxy, KbsRefused
from vtpm.kbs import Kbs
from vtpm.kbs.app import create_app
from vtpm.kbs.errors import RcarError
from vtpm.lab.allowlist import launch_entry, platform_entry
from vtpm.lab.attacks.model import PolicyDecision
from vtpm.lab.attacks.naive import LabBoot
from vtpm.lab.loopback import served
from vtpm.lab.throwaway import Ceremony, ThrowawayCa, throwaway_ca
from vtpm.snp import LaunchContext, Platform
from vtpm.svsm.boot import BootConfig, Launched
from vtpm.svsm.build import Build, measurement
from vtpm.svsm.events import Narrator
from vtpm.svsm.host_channel import HostChannel
from vtpm.volume import make_blank_disk

RESOURCE = "default/vtpm/victim"
"""The victim's persistence key at the organisation's key broker."""

TENANT_RESOURCE = "tenant/keys/mallory"
"""A resource whose key its tenant has brought along, and so knows."""

_SALT = 32


class LabClock:
    """The time of the lab's CA and key broker: the real one, and what was skipped."""

    def __init__(self) -> None:
        self._skipped = timedelta()

    def __call__(self) -> datetime:
        """Now, aware."""
        return datetime.now(UTC) + self._skipped

    def skip(self, **time: int) -> None:
        """Let time pass; arguments as for `timedelta`."""
        self._skipped += timedelta(**time)


@dataclass(frozen=True)
class Lab:
    """What takes long to make and no attack changes: the CA's keys, the processor, the builds' measurements."""

    directory: Path
    ceremony: Ceremony
    platform: Platform

    @classmethod
    def furnish(cls, directory: Path) -> Self:
        """Make a lab in an empty directory."""
        ceremony = Ceremony.hold(directory, LabClock())
        return cls(directory, ceremony, Platform.create(directory / "platform"))

    @cached_property
    def measurements(self) -> dict[Build, bytes]:
        """Launch measurement of each build of the SVSM, computed from the sources of this process."""
        return {build: measurement(build) for build in Build}

    def launch(self, build: Build = Build.STANDARD) -> LaunchContext:
        """Start a VM with a build of the SVSM on the lab's processor."""
        return self.platform.launch_measured(self.measurements[build])


class Disk:
    """A machine's disk; the host has it, copies it and exchanges it as it likes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        make_blank_disk(path, secrets.token_bytes(_SALT))

    def copy(self) -> bytes:
        """What is on it."""
        return self.path.read_bytes()

    def put(self, content: bytes) -> None:
        """Put something else on it."""
        self.path.write_bytes(content)

    def blank(self) -> None:
        """Exchange it for a new one."""
        self.path.unlink()
        make_blank_disk(self.path, secrets.token_bytes(_SALT))


@dataclass
class Scene:
    """One attempt's world.

    Attributes:
        lab: what was there before.
        directory: fresh, for everything of this attempt.
        off: rules that are left out, at the CA, the SVSM or the key broker.
        clock: the CA's and the key broker's time.
        kbs: the organisation's key broker.
        kbs_url: where it listens.
        ca: the CA.
        refusals: rules by which the key broker has refused, in their order.
    """

    lab: Lab
    directory: Path
    off: frozenset[str]
    clock: LabClock
    kbs: Kbs
    kbs_url: str
    ca: ThrowawayCa
    refusals: list[str] = field(default_factory=list)

    def host_config(self, resource: str = RESOURCE) -> HostConfig:
        """What a host of this world is connected to."""
        return HostConfig(self.kbs_url, self.ca.url, resource)

    def disk(self, name: str = "victim") -> Disk:
        """A new blank disk."""
        return Disk(self.directory / f"{name}.img")

    @contextmanager
    def running(
        self,
        disk: Disk,
        host: Behaviour,
        *,
        boot: type[LabBoot] = LabBoot,
        processor: LaunchContext | None = None,
    ) -> Iterator[Launched]:
        """A machine that has booted and enrolled, with its TPM up; raises what stopped it."""
        with self.booting(host) as channel:
            config = BootConfig(disk.path, ("L-2",), "H-3", enrol=True, build=Build.STANDARD)
            story = Narrator(io.StringIO())
            launched = boot(config, processor or self.lab.launch(), channel, story, off=self.off).run()
            try:
                yield launched
            finally:
                launched.power_off()

    def boot(self, disk: Disk, host: Behaviour, *, boot: type[LabBoot] = LabBoot) -> None:
        """Boot a machine, enrol its TPM, and switch it off."""
        with self.running(disk, host, boot=boot):
            pass

    @contextmanager
    def booting(self, host: Behaviour) -> Iterator[HostChannel]:
        """The channel from an SVSM to a host with this behaviour."""
        socket = self.directory / f"{secrets.token_hex(4)}.sock"
        with HostProxy(socket, host):
            yield HostChannel(socket)

    def rule_of(self, error: VtpmError) -> str:
        """Which rule is behind an error; for a key that was not released, the key broker's."""
        asked = isinstance(error, KbsRefused) or error.rule == "svsm.key-released"
        if asked and self.refusals:
            return self.refusals[-1]
        return error.rule


@contextmanager
def staged(
    lab: Lab,
    directory: Path,
    off: frozenset[str],
    *,
    origins: tuple[str, ...],
    decision: PolicyDecision | None = None,
) -> Iterator[Scene]:
    """Set up a world.

    Args:
        lab: what it builds on.
        directory: fresh.
        off: rules that are left out: at the CA by its policy as far as `decision` goes, else the check is replaced.
        origins: origins of secrets that the CA's allow-list admits.
        decision: what the CA's policy can give up.
    """
    extra, given_up = ("", frozenset[str]()) if decision is None else decision.document(off)
    elsewhere = () if decision is None else decision.elsewhere
    clock, refusals = LabClock(), list[str]()
    kbs = Kbs.create_or_open(directory / "kbs", measurements=tuple(lab.measurements.values()))
    kbs.declare(RESOURCE)
    app = create_app(kbs, clock, os.urandom)
    _note_refusals(app, refusals)
    with ExitStack() as stack:
        kbs_url = stack.enter_context(served(app))
        policy = allow_list(lab, kbs, origins) + extra
        replaced = off.difference(given_up, elsewhere)
        ca = stack.enter_context(throwaway_ca(lab.ceremony, directory, policy, clock, replaced))
        yield Scene(lab, directory, off, clock, kbs, kbs_url, ca, refusals)


def _note_refusals(app: Flask, refusals: list[str]) -> None:
    """Keep the rules of the key broker's refusals; its answers do not always name them."""
    answer = app.error_handler_spec[None][None][RcarError]

    def note(error: RcarError) -> ResponseReturnValue:
        refusals.append(error.rule)
        response: Response = answer(error)  # type: ignore[assignment] # the key broker's own handler
        return response

    app.register_error_handler(RcarError, note)


def allow_list(lab: Lab, kbs: Kbs, origins: tuple[str, ...]) -> str:
    """The organisation's allow-list: its key broker with its release policy, the SVSM's builds for what they can."""
    jwk = ", ".join(f'{name} = "{value}"' for name, value in kbs.public_jwk().members().items())
    return f"""
schema = 1
[grant]
max_age_s = 3600
[[kbs]]
id = "organisation"
label = "the organisation's key broker"
status = "trusted"
origins = [{", ".join(f'"{origin}"' for origin in origins)}]
release_policies = ["{kbs.policy().digest}"]
[[kbs.key]]
jwk = {{ {jwk} }}
[[kbs.resource]]
pattern = "default/vtpm/*"
{launch_entry("svsm", lab.measurements[Build.STANDARD], ("verifies-grants", "reports-state"))}
{launch_entry("svsm-of-today", lab.measurements[Build.APROXY_HEAD], ())}
{platform_entry()}
[tpm]
ek = ["L-2"]
iak = ["H-3"]
idevid = ["H-3"]
[store]
formats = ["cocoonfs/1"]
"""
