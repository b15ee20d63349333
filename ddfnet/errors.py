"""The one exception whose message is meant for the user of a command: shown as it is, without a traceback."""


class UserError(Exception):
    """One sentence that names the thing, where it stands and what would be right."""
