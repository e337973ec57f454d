"""SVSMs that leave out a rule: what "off" means for the checks that are not the CA's.

Each is the real boot with one step replaced, here and nowhere else: no build, option or file of the SVSM leads to
them. Rules that are not left out are the SVSM's own code.
"""

from collections.abc import Callable

from vtpm.svsm.boot import Boot, BootConfig, Processor
from vtpm.svsm.events import Narrator
from vtpm.svsm.host_channel import HostChannel
from vtpm.svsm.kbs_session import KbsSession, demand, negotiate


class LabBoot(Boot):
    """The SVSM's boot, whose exchange with the key broker leaves out the rules `off`.

    Args:
        config: as for `Boot`.
        processor: likewise.
        host: likewise.
        narrator: likewise.
        off: rules that are left out.
    """

    def __init__(
        self,
        config: BootConfig,
        processor: Processor,
        host: HostChannel,
        narrator: Narrator,
        *,
        off: frozenset[str],
    ) -> None:
        super().__init__(config, processor, host, narrator)
        self._off = off

    def _demand(self, rule: str, sentence: str, *, holds: bool) -> None:
        if rule not in self._off:
            demand(rule, sentence, holds=holds)

    def _negotiate(self) -> KbsSession:
        certificates: Callable[[], bytes] = self._processor.cert_table
        return negotiate(
            self._host.attest, self._processor.report, certificates, self._config.build, demand=self._demand
        )
