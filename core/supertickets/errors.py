"""The one error that speaks to the user."""


class UserError(ValueError):
    """A message for the user: it names the file, key or value at fault and the valid choices.

    Entry points print it as one `error: ...` line and exit with status 2; anything else is a bug.
    """
