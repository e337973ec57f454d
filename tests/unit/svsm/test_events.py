import io
import json

import pytest

from vtpm.svsm.events import Narrator


def test_a_step_is_one_line_when_it_is_done_and_none_when_it_failed():
    stream = io.StringIO()
    narrator = Narrator(stream)
    with narrator.step("tpm") as step:
        step.detail["origin"] = "loaded"
        assert stream.getvalue() == ""
    told = json.loads(stream.getvalue())
    assert stream.getvalue().count("\n") == 1
    assert told["step"] == "tpm"
    assert told["detail"] == {"origin": "loaded"}
    assert told["ms"] >= 0
    with pytest.raises(KeyError), narrator.step("enrol"):
        raise KeyError
    assert stream.getvalue().count("\n") == 1


def test_a_line_cannot_be_broken_by_what_it_tells():
    stream = io.StringIO()
    Narrator(stream).say("refused", reason='a\nb"c\u2028')
    assert stream.getvalue().count("\n") == 1
    assert json.loads(stream.getvalue())["detail"]["reason"] == 'a\nb"c\u2028'
