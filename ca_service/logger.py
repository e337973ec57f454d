"""The logger of code that runs in a server and in a command alike."""

from typing import Any


def logger(name: str) -> Any:
    """The logger of this name, structlog's.

    It is loaded by the first who has something to say: with it come libraries that format for a terminal, and most
    commands end without a word. A server has it loaded before it answers.
    """
    import structlog  # noqa: PLC0415 - see above

    return structlog.get_logger(name)
