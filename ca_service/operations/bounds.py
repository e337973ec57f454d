"""What operators may say, and how much of it; known to the command line before an operation is loaded."""

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

MAX_CAUSE: Final = 160
"""Longest cause that an operator may give, in characters: with his name it fits the database's 256."""

REASONS: Final = ("unspecified", "keyCompromise", "affiliationChanged", "superseded", "cessationOfOperation")
"""Reasons that an operator may give (RFC 5280, section 5.3.1)."""

MAX_LISTED: Final = 100_000
"""How many certificates an answer lists at most."""

LISTED: Final = 1_000
"""How many certificates a revocation lists unless it is asked for another number; the counts are always whole."""

SIMULATED_DAYS: Final = 90
"""How far back a simulation looks at decisions, unless something else is said."""

SIMULATED_LAST: Final = 10_000
"""How many decisions it looks at, the newest, unless something else is said."""

SIMULATED_LISTED: Final = 100
"""How many flips, and how many TPMs, it lists, unless something else is said."""
