"""The order of a store's update counters, which start anywhere below 2**128 and go round."""

_MODULUS = 1 << 128


def precedes(one: int, other: int) -> bool:
    """Whether a counter comes before another: CocoonFs gives each the 2**127 values below it, modulo 2**128.

    Any two different counters have an order, which holds as long as they are less than 2**127 transactions apart.
    """
    return 0 < (other - one) % _MODULUS <= _MODULUS // 2
