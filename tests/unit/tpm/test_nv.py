import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vtpm.tpm import MAX_CERTIFICATE, TpmError, read_certificate, write_certificate

INDEX = 0x01C90100


@pytest.mark.parametrize("size", [1, 1023, 1024, 1025, MAX_CERTIFICATE])
def test_certificates_of_every_size_are_written_locked_and_read(make_tpm, reboot, size):
    tpm = make_tpm()
    der = bytes(i & 0xFF for i in range(size))
    assert write_certificate(tpm, INDEX, der) is True
    assert read_certificate(tpm, INDEX) == der
    with tpm.esapi("reading the index") as esapi:
        public, _ = esapi.nv_read_public(esapi.tr_from_tpmpublic(INDEX))
        assert int(public.nvPublic.attributes) == 0x62072801
        assert int(public.nvPublic.dataSize) == size
    tpm = reboot(tpm)
    assert read_certificate(tpm, INDEX) == der


@pytest.mark.parametrize("size", [0, MAX_CERTIFICATE + 1])
def test_what_does_not_fit_is_refused_before_anything_is_removed(make_tpm, size):
    tpm = make_tpm()
    write_certificate(tpm, INDEX, b"certificate")
    with pytest.raises(TpmError, match="1 to 2048"):
        write_certificate(tpm, INDEX, bytes(size))
    assert read_certificate(tpm, INDEX) == b"certificate"


def test_the_same_certificate_is_not_written_again(make_tpm):
    tpm = make_tpm()
    assert write_certificate(tpm, INDEX, b"one")
    assert not write_certificate(tpm, INDEX, b"one")
    assert write_certificate(tpm, INDEX, b"two")
    assert write_certificate(tpm, INDEX, b"three")
    assert read_certificate(tpm, INDEX) == b"three"


def test_an_index_that_is_not_there_reads_as_none(make_tpm):
    assert read_certificate(make_tpm(), INDEX) is None


def test_an_end_of_swtpm_is_not_taken_for_a_missing_index(make_tpm):
    tpm = make_tpm()
    tpm.kill()
    with pytest.raises(TpmError):
        read_certificate(tpm, INDEX)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ders=st.lists(st.binary(min_size=1, max_size=MAX_CERTIFICATE), min_size=1, max_size=3))
def test_the_last_write_is_what_is_read(make_tpm, ders):
    tpm = make_tpm()
    for der in ders:
        write_certificate(tpm, INDEX, der)
    assert read_certificate(tpm, INDEX) == ders[-1]
    tpm.stop()
