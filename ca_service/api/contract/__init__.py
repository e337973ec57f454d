"""The published contract: an OpenAPI 3.1 document, made from the calls and the readers of the service itself.

`listening` finds out what a reader takes, `schemas` says it in JSON Schema, `messages` and `arguments` are the examples
that the readers read meanwhile, `openapi` puts the document together. A server serves the document as it is kept in
``ca_service/api/openapi.json`` and needs nothing of this; ``python -m ca_service.api.contract`` writes it.
"""
