"""The demonstration: the whole chain, with real commands in real processes, told step by step.

Run it with ``make demo``, or ``python -m vtpm.lab.demo``.
"""
