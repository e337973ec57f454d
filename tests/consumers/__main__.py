"""Write the tables of docs/consumers.md anew, from what the consumers say of certificates made for the purpose."""

import os
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

os.environ.setdefault("TSS2_LOG", "all+none")

import every_certificate
from consumer_table import DOCUMENT, document_with, look
from consumer_tools import Files, programs
from consumer_tpm import machines


def main() -> None:
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "ca").mkdir()
        every = every_certificate.make(folder / "ca", start)
        files = Files(folder / "files", every)
        with machines(every, folder / "tpms") as tpms, programs(files) as asked:
            seen = look(every, asked, tpms)
    DOCUMENT.write_text(document_with(DOCUMENT.read_text(encoding="utf-8"), seen), encoding="utf-8")


main()
