"""The order in which test files are handed out."""

from pathlib import Path
from types import SimpleNamespace

from longest_first import LONGEST, longest_first

TESTS = Path(__file__).parents[2]


def test_every_file_of_the_list_is_there():
    assert [name for name in LONGEST if not (TESTS / name).is_file()] == []
    assert len(set(LONGEST)) == len(LONGEST)


def test_the_longest_come_first_and_all_else_stays_as_it_is():
    files = ["unit/b.py", LONGEST[1], "unit/a.py", LONGEST[0], LONGEST[1]]
    items = [SimpleNamespace(nodeid=f"tests/{name}::test_{n}") for n, name in enumerate(files)]
    assert [item.nodeid.rpartition("_")[2] for item in longest_first(items)] == ["3", "1", "4", "0", "2"]
