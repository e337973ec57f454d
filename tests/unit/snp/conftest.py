"""A signing service for each product, made once: RSA keys take their time."""

import pytest

from vtpm.snp import new_simulated_chain
from vtpm.wire.report import Product


@pytest.fixture(scope="session")
def chains():
    return {product: new_simulated_chain(product, label="Test", bits=2048) for product in Product}
