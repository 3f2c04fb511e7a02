"""The one exception that a user is meant to read."""


class UserError(Exception):
    """Something the user can mend: one line that says where, what was expected and what to do."""
