"""Entry point of the demonstration."""

import sys
import time
from pathlib import Path

import click

from vtpm.errors import VtpmError
from vtpm.lab.demo.stage import Stage
from vtpm.lab.demo.story import tell


@click.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="folder for the artefacts")
@click.option("--hold", is_flag=True, help="leave all parties up until interrupted")
def main(out: Path | None, *, hold: bool) -> None:
    """Tell the story from nothing to a certified vTPM, then two attacks that fail."""
    folder = out or Path("build") / time.strftime("demo-%Y%m%d-%H%M%S")
    try:
        with Stage(folder.resolve()) as stage:
            tell(stage, hold=hold)
    except KeyboardInterrupt:
        click.echo("\ninterrupted; all parties are switched off")
        sys.exit(0 if hold else 130)
    except VtpmError as error:
        click.echo(f"\nFAILED: {error.diagnostics()}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
