"""The status page: how the CA stands, for a person with a browser.

Read-only, rendered here, without a script; over any other way than the operators' it does not exist. `rendering` makes
the HTML, `views` the pages. What is shown is read by `ca_service.operations.overview`.
"""

from ca_service.api.page.views import page

__all__ = ["page"]
