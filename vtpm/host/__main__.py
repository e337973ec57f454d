"""`python -m vtpm.host`: one host as a process of its own."""

import argparse
import logging
import signal
import sys
from pathlib import Path
from types import FrameType

from vtpm.errors import VtpmError
from vtpm.host.behaviour import HostConfig
from vtpm.host.malicious import BEHAVIOURS
from vtpm.host.proxy import HostProxy
from vtpm.wire.certtable import CertKind
from vtpm.wire.errors import WireError
from vtpm.wire.grant import check_resource


def _resource(text: str) -> str:
    try:
        return check_resource(text)
    except WireError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m vtpm.host", description="The untrusted host of an SVSM.")
    parser.add_argument("--socket", type=Path, required=True, help="UNIX socket for SVSMs")
    parser.add_argument("--kbs", required=True, help="base URL of the key broker")
    parser.add_argument("--ca", required=True, help="base URL of the CA")
    parser.add_argument("--resource", type=_resource, required=True, help="resource to fetch, repo/type/tag")
    parser.add_argument("--vcek", type=Path, help="the processor's VCEK certificate, DER or PEM")
    parser.add_argument(
        "--behaviour",
        choices=sorted(BEHAVIOURS),
        default="honest",
        help="; ".join(f"{name}: {behaviour.summary}" for name, behaviour in sorted(BEHAVIOURS.items())),
    )
    return parser.parse_args(argv)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; prints `listening` and the socket once SVSMs may connect."""
    arguments = _arguments(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="host: %(message)s")
    try:
        certificates = {CertKind.VCEK: arguments.vcek.read_bytes()} if arguments.vcek else {}
        config = HostConfig(arguments.kbs, arguments.ca, arguments.resource, certificates)
        proxy = HostProxy(arguments.socket, BEHAVIOURS[arguments.behaviour](config))
        proxy.bind()
    except (VtpmError, OSError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - a command's error
        return 2
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        print(f"listening {arguments.socket}", flush=True)  # noqa: T201 - the line that the parent waits for
        proxy.serve()
    except KeyboardInterrupt:
        pass
    finally:
        proxy.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
