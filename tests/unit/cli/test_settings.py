"""The settings of `vtpm-ca serve` as a file: the options' names, read strictly; the command line wins."""

import contextlib
import re
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca_service.cli.serve import serve
from ca_service.cli.settings import read_settings
from ca_service.judgment import BadRequest

ROOT = Path(__file__).parents[3]
EXAMPLE = (ROOT / "deploy" / "etc" / "serve.toml").read_text()


@pytest.fixture
def taken(monkeypatch, tmp_path, empty):
    """What the options of `serve` are for a settings file and a command line; it does not serve."""

    def run(text: str, *words: str) -> dict[str, object]:
        path = tmp_path / "etc" / "serve.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        seen: dict[str, object] = {}
        monkeypatch.setattr(serve, "callback", lambda **values: seen.update(values))
        serve.main(["--config", str(path), "--dir", str(empty), *words], standalone_mode=False)
        return seen

    return run


def names() -> set[str]:
    return {option.opts[0].removeprefix("--") for option in serve.params} - {"config", "dir"}


def test_the_example_names_every_setting_once(taken):
    """Also those that are commented out, which are as good as what is not."""
    whole = re.sub(r"^#(?=[a-z-]+ = )", "", EXAMPLE, flags=re.MULTILINE)
    whole = re.sub(
        r"\Z",
        'database = "sqlite:////x"\nbundle = "/x"\n',
        re.sub(r'^bind = "127.*\n', "", whole, flags=re.MULTILINE),
    )
    found = re.findall(r"^([a-z-]+) = ", whole, re.MULTILINE)
    assert sorted(found) == sorted(names())
    values = taken(whole)
    assert (values["bind"], values["workers"], values["kds"]) == ("0.0.0.0:8443", 2, True)
    assert "database" not in EXAMPLE


def test_the_example_as_it_stands(taken):
    values = taken(EXAMPLE)
    assert {name for name, value in values.items() if value not in (None, False)} == {
        "bind", "publish", "workers", "directory",
    }  # fmt: skip


def test_paths_are_relative_to_the_file(taken, tmp_path):
    values = taken('tls-cert = "tls/a.pem"\ntls-key = "/abs/a.key"\n')
    assert (values["tls_cert"], values["tls_key"]) == (tmp_path / "etc/tls/a.pem", Path("/abs/a.key"))


def test_the_command_line_wins(taken):
    values = taken('bind = "127.0.0.1:1"\nworkers = 3\n', "--bind", "127.0.0.1:2")
    assert (values["bind"], values["workers"]) == ("127.0.0.1:2", 3)


def test_without_a_file_everything_is_as_before(monkeypatch, empty):
    seen: dict[str, object] = {}
    monkeypatch.setattr(serve, "callback", lambda **values: seen.update(values))
    serve.main(["--dir", str(empty)], standalone_mode=False)
    assert (seen["bind"], seen["workers"], seen["kds"]) == ("127.0.0.1:8443", 1, False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('# first\nbind = "127.0.0.1:1"\nwokers = 2\n', "line 3: 'wokers' is no setting"),
        ("\n[bind]\naddress = 1\n", "line 2: bind must be a text"),
        ("[listeners]\n", "line 1: 'listeners' is no setting"),
        ('workers = "2"\n', "line 1: workers must be a whole number"),
        ("workers = true\n", "line 1: workers must be a whole number"),
        ("kds = 1\n", "line 1: kds must be true or false"),
        ("bind = 8443\n", "line 1: bind must be a text"),
        ("tls-cert = ['a']\n", "line 1: tls-cert must be a text"),
        ('dir = "/var/lib/x"\n', "line 1: 'dir' is no setting"),
        ('config = "other.toml"\n', "line 1: 'config' is no setting"),
        ('tls_cert = "a.pem"\n', "line 1: 'tls_cert' is no setting"),
        ('bind = "a"\nbind = "b"\n', "line 2"),
        ('bind = "127.0.0.1:1\n', "line 1"),
    ],
)
def test_what_is_refused(here, empty, tmp_path, text, said):
    path = tmp_path / "serve.toml"
    path.write_text(text)
    done = here("serve", "--config", path, "--dir", empty)
    assert (done.code, done.out) == (2, "")
    assert str(path) in done.err
    assert said in done.err


@pytest.mark.parametrize(
    ("text", "said"),
    [("workers = 65\n", "--workers"), ('tls-cert = ""\n', "--tls-cert"), ('bind = "x"\n', "--bind")],
)
def test_values_are_judged_as_on_the_command_line(here, empty, tmp_path, text, said):
    path = tmp_path / "serve.toml"
    path.write_text(text)
    done = here("serve", "--config", path, "--dir", empty)
    assert (done.code, said in done.err) == (2, True)


def test_a_file_that_cannot_be_read(here, empty, tmp_path):
    (tmp_path / "long.toml").write_text("#" * 70_000)
    (tmp_path / "latin.toml").write_bytes(b'bind = "\xe9"\n')
    for name in ("none.toml", "long.toml", "latin.toml", ""):
        done = here("serve", "--config", tmp_path / name, "--dir", empty)
        assert (done.code, done.out) == (2, "")


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("settings") / "serve.toml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    found: dict[str, object] = {}
    with contextlib.suppress(BadRequest):
        found = read_settings(path, serve.params)
    assert set(found) <= {parameter.name for parameter in serve.params if isinstance(parameter, click.Option)}
