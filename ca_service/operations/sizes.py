"""How long what is sent with an operation may be, in bytes."""

from typing import Final

MAX_POLICY: Final = 16 * 1024 * 1024
"""Longest policy document, in bytes of UTF-8."""

MAX_EVIDENCE: Final = 4 * 1024 * 1024
"""How much evidence may come along with a document, in bytes."""

MAX_SENT: Final = MAX_EVIDENCE // 3 * 4 + 32 * 1024
"""The same as it is sent: in base64, each file with its path."""

MAX_REQUEST: Final = 3 * MAX_POLICY + MAX_SENT + 64 * 1024
"""Longest JSON text of an operation's arguments, in bytes. The longest is a policy document with its evidence, and
escaped as JSON in ASCII no text takes more than three times its bytes in UTF-8 (TOML has no control characters but
line ends and tabs)."""
