"""`vtpm-ca export ek-check-config`: the folder that a host of keylime's tenant gets."""

import json
import tomllib


def test_a_folder_for_the_check(here, empty, tmp_path):
    dest = tmp_path / "ek-check"
    words = ("export", "ek-check-config", dest, "--dir", empty)
    done = here(*words)
    assert (done.code, done.err) == (0, "")
    assert "wrote vtpm-ca-ek-check.toml" in done.out
    configuration = tomllib.loads((dest / "vtpm-ca-ek-check.toml").read_text())
    assert (dest / configuration["root"]).read_bytes() == (empty / "certs" / "root.pem").read_bytes()
    assert configuration["root_sha256"] in done.out
    assert [path.name.split("-")[2] for path in (dest / configuration["issuers"]).iterdir()] == ["ek"]
    report = json.loads(here(*words, "--json").out)
    assert (report["written"], report["configuration_kept"]) == ([], True)
    (dest / "root.pem").write_text("another")
    done = here(*words)
    assert (done.code, "is another root" in done.err) == (1, True)
    assert here("export", "ek-check-config", dest / "root.pem", "--dir", empty).code == 2
