"""docs/operations.md as blocks of commands, each with what it is to show."""

import re
from dataclasses import dataclass
from pathlib import Path

TEXT = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
_BLOCK = re.compile(r"<!-- tested: ([a-z]+) -->\n```sh\n(.*?)```\n(?:```\n(.*?)```\n)?", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """Commands, and lines that they are to show in this order; ``...`` in a line stands for anything."""

    name: str
    commands: str
    shows: tuple[str, ...]

    def missing_in(self, shown: str) -> str:
        """The first line that is not there; empty if all are."""
        lines = iter(shown.splitlines())
        for wanted in self.shows:
            pattern = re.compile(".*".join(map(re.escape, re.split(r"\s*\.\.\.\s*", wanted))))
            if not any(pattern.fullmatch(line.rstrip()) for line in lines):
                return wanted
        return ""


BLOCKS = {
    name: Block(name, commands, tuple(filter(None, shows.splitlines())))
    for name, commands, shows in _BLOCK.findall(TEXT)
}
