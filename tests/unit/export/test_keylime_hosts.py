"""keylime takes its store from the tenant's configuration, on the registrar's host too, or from where it stands."""

import re
from pathlib import Path

import pytest
from keylime_document import BLOCKS

from ca_service.export import keylime_settings, store_warning


@pytest.fixture
def host(tmp_path):
    """A file system with keylime's folders, and what to write into it."""

    def write(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode("utf-8", "surrogateescape"))
        return tmp_path

    return write


def conf(store):
    return f"[tenant]\ntpm_cert_store = {store}\n"


def test_a_machine_without_keylime_is_not_warned(tmp_path):
    assert store_warning(tmp_path / "store", tmp_path) is None


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"etc/keylime/registrar.conf": ""}, "without .*tenant.conf.*working directory"),
        ({"etc/keylime/tenant.conf": "[tenant]\n"}, "does not say .*working directory"),
        ({"etc/keylime/tenant.conf": "[registrar]\ntpm_cert_store = STORE\n"}, "does not say"),
        ({"etc/keylime/tenant.conf": conf("/elsewhere")}, "looks into /elsewhere"),
        ({"etc/keylime/tenant.conf": conf("tpm_cert_store")}, "another folder for each working directory"),
        ({"etc/keylime/tenant.conf": "no section"}, "cannot be read"),
        ({"etc/keylime/tenant.conf": "[tenant]\nx = \udcff"}, "cannot be read"),
        # The folder of snippets counts over its base, and nothing without one.
        (
            {
                "etc/keylime/tenant.conf": conf("STORE"),
                "etc/keylime/tenant.conf.d/9.conf": conf("/elsewhere"),
            },
            "looks into /elsewhere",
        ),
        ({"etc/keylime/tenant.conf.d/9.conf": conf("STORE")}, "without .*tenant.conf"),
        # /etc hides what the distribution brings.
        (
            {"usr/etc/keylime/tenant.conf": conf("STORE"), "etc/keylime/tenant.conf": conf("/elsewhere")},
            "looks into /elsewhere",
        ),
    ],
)
def test_another_folder_is_warned_of(files, said, host, tmp_path):
    store = tmp_path / "store"
    root = host({name: text.replace("STORE", str(store)) for name, text in files.items()})
    warning = store_warning(store, root)
    assert re.search(said, warning), warning


@pytest.mark.parametrize(
    "files",
    [
        {"etc/keylime/tenant.conf": conf("STORE")},
        {"etc/keylime/tenant.conf": conf('"STORE"')},
        {"etc/keylime/tenant.conf": conf("STORE/../store/")},
        {"usr/etc/keylime/tenant.conf": conf("STORE")},
        {"etc/keylime/tenant.conf": "[tenant]\n", "usr/etc/keylime/tenant.conf.d/1.conf": conf("STORE")},
        {
            "etc/keylime/tenant.conf": conf("/elsewhere"),
            "usr/etc/keylime/tenant.conf.d/9.conf": conf("/further"),
            "etc/keylime/tenant.conf.d/1.conf": conf("STORE"),
        },
    ],
)
def test_the_right_folder_is_not(files, host, tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    root = host({name: text.replace("STORE", str(store)) for name, text in files.items()})
    assert store_warning(store, root) is None


def test_a_name_that_leads_nowhere(host, tmp_path):
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    for named in (f"{tmp_path}/a\0b", circle / "store"):
        root = host({"etc/keylime/tenant.conf": conf(named)})
        assert "looks into" in store_warning(tmp_path / "store", root)


def test_a_configuration_that_may_not_be_read(host, tmp_path, monkeypatch):
    root = host({"etc/keylime/tenant.conf": conf("x")})

    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.exists", denied)
    warning = store_warning(tmp_path / "store", root)
    assert "look yourself" in warning


@pytest.mark.parametrize(
    ("role", "options"),
    [
        ("ek", ["tpm_cert_store", "require_ek_cert", "ek_check_script"]),
        ("devid", ["tpm_cert_store", "enable_iak_idevid"]),
        (
            None,
            ["tpm_cert_store", "require_ek_cert", "ek_check_script", "tpm_cert_store", "enable_iak_idevid"],
        ),
    ],
)
def test_settings_name_the_folder_by_its_whole_path(role, options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = keylime_settings(Path("store"), role)
    assert [setting.option for setting in settings] == options
    stores = {setting.value for setting in settings if setting.option == "tpm_cert_store"}
    assert stores == {str(tmp_path / "store")}
    # The registrar reads the tenant's file.
    assert {s.file for s in settings if s.option == "tpm_cert_store"} == {"tenant.conf"}


def test_the_document_says_the_same():
    settings = keylime_settings(Path("/var/lib/keylime/tpm_cert_store"), "ek")
    lines = "".join(f"{setting.option} = {setting.value}\n" for setting in settings)
    assert BLOCKS["tenant"].commands == f"[tenant]\n{lines}"
