"""The SVSM's process: one line of JSON on standard input says what the machine is; its end is the power button.

Steps go to standard output as JSON lines, errors to standard error. Exit codes: 0 done, 1 refused, 3 unavailable.
"""

import json
import selectors
import socket
import sys
from pathlib import Path

from vtpm.client import EnrollmentRefused
from vtpm.errors import VtpmError
from vtpm.snp.server import PspClient
from vtpm.svsm.boot import Boot, BootConfig, Launched
from vtpm.svsm.build import Build, pages
from vtpm.svsm.events import Narrator
from vtpm.svsm.host_channel import HostChannel
from vtpm.tpm import GuestGateway

_LOOK_S = 0.5
"""How often a silent guest's TPM is looked after, in seconds."""


def _serve_guest(launched: Launched, narrator: Narrator, port: int) -> None:
    """Let a guest use the TPM until the power button is pressed (standard input ends) or the TPM fails."""
    with GuestGateway(launched.tpm, port=port, after_command=launched.persist) as gateway:
        narrator.say("guest", tcti=gateway.tcti)
        with selectors.DefaultSelector() as button:
            button.register(sys.stdin, selectors.EVENT_READ)
            while not gateway.wait(0.0) and not button.select(_LOOK_S):
                pass
    if gateway.failure is not None:
        raise gateway.failure


def main() -> int:
    """Boot, serve the guest's TPM if told to, and power off in order."""
    told = json.loads(sys.stdin.readline())
    narrator = Narrator()
    build = Build(told["build"])
    try:
        with PspClient(socket.socket(fileno=told["processor_fd"])) as processor:
            processor.launch(pages(build))
            config = BootConfig(
                Path(told["disk"]), tuple(told["ek"]), told["iak"], bool(told["enrol"]), build
            )
            launched = Boot(config, processor, HostChannel(Path(told["host_socket"])), narrator).run()
            try:
                if told["hold"]:
                    _serve_guest(launched, narrator, told["guest_port"])
            finally:
                launched.power_off()
            narrator.say("off")
    except VtpmError as error:
        decision = error.problem.decision_id if isinstance(error, EnrollmentRefused) else ""
        step = "refused" if error.exit_code == 1 else "failed"
        narrator.say(step, rule=error.rule, reason=error.detail, decision_id=decision)
        sys.stderr.write(error.diagnostics() + "\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
