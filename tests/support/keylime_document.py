"""docs/keylime.md as commands that run beside others on one machine: with ports and folders of their own."""

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from forked import CA, DEVICE, SCRIPT, Forks
from forked_programs import Programs
from keylime_site import EK_CHECK
from operations_document import Block

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "keylime.md").read_text()
_BLOCK = re.compile(r"<!-- tested: ([a-z]+) -->\n```(?:sh|ini)\n(.*?)```\n(?:```\n(.*?)```\n)?", re.DOTALL)
BLOCKS = {
    name: Block(name, commands, tuple(filter(None, shows.splitlines())))
    for name, commands, shows in _BLOCK.findall(TEXT)
}
_LIMIT_S = 120


class Reader:
    """Somebody who follows the document in a folder.

    Args:
        folder: for files.
        replaced: what stands in the document, and what is typed in its place.
        environment: what the shells have besides.
        programs: has the folder ``bin`` of that folder answered for.
        forks: forks our commands.
    """

    def __init__(
        self,
        folder: Path,
        replaced: Mapping[str, str],
        environment: Mapping[str, str],
        programs: Programs,
        forks: Forks,
    ) -> None:
        self.folder = folder
        self._replaced = dict(replaced)
        self._shells: list[subprocess.Popen[bytes]] = []
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name in (CA, DEVICE):
            programs.add(self.bin / name, forks, name)
        programs.add(self.bin / "vtpm-ca-ek-check", forks, SCRIPT, EK_CHECK)
        ours = {k: v for k, v in os.environ.items() if not k.startswith("VTPM_")}
        self._environment = {**ours, **environment}
        (folder / "build" / "keylime").mkdir(parents=True)
        policies = folder / "policies"
        policies.mkdir()
        for path in (ROOT / "policies").glob("*.toml"):
            (policies / path.name).write_text(self.typed(path.read_text()))

    def also(self, old: str, new: str) -> None:
        """From now on, type this in the place of that too."""
        self._replaced[old] = new

    def typed(self, text: str) -> str:
        """What the reader types for a text of the document."""
        for old, new in self._replaced.items():
            text = text.replace(old, new)
        return text

    def _script(self, name: str) -> str:
        # The document's PATH comes first, and ours before that.
        shell = BLOCKS["shell"].commands + f"export PATH='{self.folder}/bin':\"$PATH\"\n"
        return shell + self.typed(BLOCKS[name].commands)

    def run(self, name: str) -> str:
        """Run a block to its end; what it shows, which must be what the document says."""
        done = subprocess.run(
            ["bash", "-e", "-c", self._script(name)],
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, f"{name}\n{done.stdout}"
        block = BLOCKS[name]
        shows = tuple(self.typed(line) for line in block.shows)
        assert Block(name, "", shows).missing_in(done.stdout) == "", f"{name}\n{done.stdout}"
        return done.stdout

    def start(self, name: str, shows: str) -> re.Match[str]:
        """Run a block that goes on, until it shows this."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as stream:
            shell = subprocess.Popen(
                ["bash", "-e", "-c", self._script(name)],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        self._shells.append(shell)
        deadline = time.monotonic() + _LIMIT_S
        while (found := re.search(shows, log.read_text())) is None:
            assert shell.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        return found

    def close(self) -> None:
        """End what goes on, the last first."""
        for shell in reversed(self._shells):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                shell.wait(30)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
            shell.wait(30)
