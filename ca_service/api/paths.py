"""What may stand in a path. All else is not there, and no database is asked for it."""

from typing import Final

from flask import Flask
from werkzeug.routing import BaseConverter


class HexName(BaseConverter):
    """Serial numbers, key ids and ids of enrolments."""

    regex = "[0-9a-f]{1,64}"


class ShardNumber(BaseConverter):
    """Numbers of revocation lists, in the one way in which distribution points write them."""

    regex = "0|[1-9][0-9]{0,2}"


PATTERNS: Final = {"hex": HexName.regex, "shard": ShardNumber.regex, "path": ".+"}
"""What fits a variable part of a path, by its converter."""


def install(app: Flask) -> None:
    """Let an application's paths have these parts."""
    app.url_map.converters["hex"] = HexName
    app.url_map.converters["shard"] = ShardNumber
