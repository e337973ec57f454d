"""Bytes to values and back, for all that crosses a border between the parties.

Pure: no I/O, no clock, no trust decision. Both sides of every exchange use the same definitions, so the CA
and the device side cannot drift apart. Every parser of untrusted bytes raises `vtpm.wire.errors.WireError`
and nothing else.
"""
