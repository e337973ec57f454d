"""What a package offers is said in three places: to type checkers, to the interpreter and in `__all__`. They agree."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FACES = sorted(
    path
    for path in ROOT.glob("ca_service/**/__init__.py")
    if "on_demand(" in path.read_text(encoding="utf-8")
)


def package_of(path: Path) -> str:
    return ".".join(path.parent.relative_to(ROOT).parts)


def stated(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The home of each name, as type checkers see it and as the interpreter does."""
    package = package_of(path)
    [condition] = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.If)]
    checked = {
        alias.name: node.module
        for node in condition.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    [call] = [node for node in ast.walk(condition) if isinstance(node, ast.Call)]
    homes = ast.literal_eval(call.args[1])
    loaded = {
        name: package + home if home.startswith(".") else home
        for home, names in homes.items()
        for name in names.split()
    }
    return checked, loaded


def test_the_costly_packages_have_such_faces():
    assert {"ca_service.enrollment", "ca_service.keys", "ca_service.operations", "ca_service.store"} <= {
        package_of(path) for path in FACES
    }


@pytest.mark.parametrize("path", FACES, ids=package_of)
def test_a_face_says_the_same_to_all(path):
    package = import_module(package_of(path))
    checked, loaded = stated(path)
    assert loaded == checked
    assert sorted(loaded) == sorted(package.__all__)
    for name, home in loaded.items():
        assert getattr(package, name) is getattr(import_module(home), name)


@pytest.mark.parametrize("path", FACES, ids=package_of)
def test_no_name_is_that_of_a_module(path):
    """Whoever loaded that module first would put it in the name's place."""
    modules = {entry.stem for entry in path.parent.iterdir() if entry.suffix == ".py" or entry.is_dir()}
    assert modules & set(stated(path)[1]) == set()


@pytest.mark.parametrize("path", FACES, ids=package_of)
def test_what_is_not_offered_is_not_there(path):
    package = import_module(package_of(path))
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        package.nothing_of_the_kind  # noqa: B018
