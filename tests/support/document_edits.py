"""Edits of a policy document that is held as values: each gives a function that changes the document in its place."""

import copy


def edited(content, edit):
    """A copy of a document on which `edit` has worked."""
    changed = copy.deepcopy(content)
    edit(changed)
    return changed


def _place(content, path):
    for step in path:
        content = content[step]
    return content


def put(*path, value):
    def edit(content):
        _place(content, path[:-1])[path[-1]] = value

    return edit


def drop(*path):
    def edit(content):
        del _place(content, path[:-1])[path[-1]]

    return edit


def twice(*path):
    """The first element of a list once more at its end."""

    def edit(content):
        place = _place(content, path)
        place.append(copy.deepcopy(place[0]))

    return edit


def twice_last(*path):
    def edit(content):
        place = _place(content, path)
        place.append(copy.deepcopy(place[-1]))

    return edit


def both(*edits):
    """One edit after the other."""

    def edit(content):
        for each in edits:
            each(content)

    return edit
