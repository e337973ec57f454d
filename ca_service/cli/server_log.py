"""gunicorn's own messages, in the form of our log."""

from typing import Any

from gunicorn.glogging import Logger

from ca_service.api.journal import OtherLog


class ServerLog(Logger):  # type: ignore[misc] # gunicorn has no type information
    """Sends what gunicorn has to say to the server's log: bounded, since strangers cause most of it."""

    def setup(self, cfg: Any) -> None:
        """Take our handler in the place of gunicorn's."""
        super().setup(cfg)
        self.error_log.handlers = [OtherLog()]

    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None:
        """Nothing: the application writes a line for each request that deserves one."""
