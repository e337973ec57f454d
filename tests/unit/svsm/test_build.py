"""What the launch measurement covers."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import vtpm
from vtpm.snp import Platform
from vtpm.svsm import build
from vtpm.svsm.build import Build, measurement, pages

ROOT = Path(vtpm.__file__).parent


def fresh(path, code):
    """What a new interpreter prints that finds `vtpm` at `path`."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=path,
        env={"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


MEASURE = """
import vtpm
from vtpm.svsm.build import measurement
print(vtpm.__file__, measurement().hex())
"""


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(ROOT, tmp_path / "vtpm", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_pages_are_pages_in_a_row():
    image = pages(Build.STANDARD)
    assert {len(page) for _, page in image} == {4096}
    first = image[0][0]
    assert first % 4096 == 0
    assert [gpa for gpa, _ in image] == [first + 4096 * i for i in range(len(image))]


def test_the_measurement_is_the_same_each_time_and_differs_per_build():
    assert measurement() == measurement(Build.STANDARD)
    assert len({measurement(one) for one in Build}) == len(Build)


def test_it_is_what_the_processor_makes_of_the_pages(tmp_path):
    context = Platform.create(tmp_path / "chip").launch(pages(Build.STANDARD))
    assert context.measurement == measurement()


def test_it_does_not_depend_on_where_the_source_lies_but_on_each_line(copy):
    found, digest = fresh(copy, MEASURE).split()
    assert Path(found) == copy / "vtpm" / "__init__.py"
    assert digest == measurement().hex()
    source = copy / "vtpm" / "svsm" / "kbs_session.py"
    source.write_text(source.read_text().replace("MIN_SECRET = 32", "MIN_SECRET = 31"))
    assert fresh(copy, MEASURE).split()[1] != digest


SOURCES = (("one.py", b"x = 1\n"), ("two.py", b"y = 2\n"))


@pytest.mark.parametrize(
    "others",
    [
        (("one.py", b"x = 2\n"), ("two.py", b"y = 2\n")),
        (("one.py", b"x = 1\n"), ("renamed.py", b"y = 2\n")),
        (("one.py", b"x = 1\n\0"), ("two.py", b"y = 2\n")),
        (("one.py", b"x = 1\n"),),
        (*SOURCES, ("three.py", b"")),
        (("one.py", b""), ("two.py", b"x = 1\ny = 2\n")),
    ],
)
def test_content_name_and_number_of_sources_count(monkeypatch, others):
    monkeypatch.setattr(build, "_sources", lambda: iter(SOURCES))
    before = measurement()
    monkeypatch.setattr(build, "_sources", lambda: iter(others))
    assert measurement() != before


def test_all_that_the_svsm_runs_is_measured():
    code = """
import sys, vtpm.svsm.__main__
for name, module in sys.modules.items():
    if name.split(".")[0] == "vtpm":
        print(module.__file__)
"""
    loaded = {Path(line).resolve() for line in fresh(ROOT.parent, code).splitlines()}
    assert ROOT / "svsm" / "boot.py" in loaded
    measured = {ROOT.parent / name for name, _ in build._sources()}
    assert loaded - measured == set()
