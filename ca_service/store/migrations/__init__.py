"""Alembic's migrations of the CA's database, shipped with the package."""
