"""CocoonFs as bytes and values: what lies where, how it is encrypted, and what vouches for what. Pure.

Nothing here reads or writes a disk; where bytes are followed from one place to the next, the caller hands in how to
read them. Places and sizes count allocation blocks unless they say otherwise.
"""
