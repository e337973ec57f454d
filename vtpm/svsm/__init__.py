"""The simulated SVSM: the measured code at VMPL 0 that keeps the virtual TPM.

``python -m vtpm.svsm`` is the process; `boot.Boot` is the story of one boot, step by step. It trusts the simulated
processor and its own memory; the host that relays its messages and owns its disk is hostile.
"""
