"""What minitx raises. Every message is one line: the thing, what is wrong with it, and what to do."""


class Error(Exception):
    """Anything that a user can be told in one line. The command line prints it and exits with 1."""


class ConfigError(Error):
    """A choice that is not in its table, a field that is unknown, missing or of the wrong type."""


class FileError(Error):
    """A file that is missing, damaged, of an unknown kind, or cannot be written."""


class DeviceError(Error):
    """A backend or a compiler that is not there, or that computes wrong results."""


class InputError(Error):
    """A text or token ids that the model cannot take."""
