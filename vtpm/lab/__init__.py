"""The laboratory: whole machines, the demonstration, and the attacks.

It may assemble what no operator can: hostile hosts, and a throwaway CA with a check replaced by `UnsafeSkip`.
"""
