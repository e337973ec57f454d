"""What a shell starts in the place of a program that is forked elsewhere, see `forked_programs`."""

import json
import os
import signal
import socket
import sys

FORWARDED = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


def ask(address: str, name: str, words: list[str]) -> int:
    """How the program ended, as `subprocess` says it."""
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(address)
        request = {
            "name": name,
            "words": words,
            "environment": dict(os.environ),
            "cwd": os.getcwd(),  # noqa: PTH109 - pathlib costs more than all the rest
            "pid": os.getpid(),
        }
        link.sendall(json.dumps(request).encode() + b"\n")
        for number in FORWARDED:
            signal.signal(number, lambda number, _: link.send(bytes([number])))
        with link.makefile("rb") as answer:
            return int(json.loads(answer.readline()))


if __name__ == "__main__":
    code = ask(sys.argv[1], sys.argv[2], sys.argv[3:])
    if code < 0:
        for forwarded in FORWARDED:
            signal.signal(forwarded, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)
