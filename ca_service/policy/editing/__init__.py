"""Editing one entry of a document in its own lines, so that comments and layout stay."""
