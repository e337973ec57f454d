import contextlib

import pytest
import small_service
import tls_files


@pytest.fixture
def serve(tmp_path):
    """Starts servers of `small_service`, and ends them."""
    with contextlib.ExitStack() as stack:

        def start(*specs, workers: int = 1):
            server = small_service.Small(
                tmp_path / "log", *(specs or (small_service.Spec(),)), workers=workers
            )
            stack.callback(server.close)
            return server

        yield start


@pytest.fixture
def authority(tmp_path):
    """Makes CAs for TLS."""
    return lambda name: tls_files.Authority(tmp_path, name)
