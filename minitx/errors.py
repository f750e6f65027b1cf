"""What minitx raises. Every message is one line: the thing, what is wrong with it, and what to do."""

from collections.abc import Iterable, Mapping


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


def several(items: Iterable[object], shown: int = 4) -> str:
    """The first few of `items` and how many more there are, for a message of one line."""
    texts = [str(item) for item in items]
    rest = f" and {len(texts) - shown} more" if len(texts) > shown else ""
    return ", ".join(texts[:shown]) + rest


def differences(what: str, expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> list[str]:
    """How the named shapes `found` differ from those expected: what is missing, unknown, of another shape."""
    both = [name for name in expected if name in found]
    kinds = {
        f"missing {what}": [name for name in expected if name not in found],
        f"unknown {what}": [repr(name[:60]) for name in found if name not in expected],
        "wrong shapes": [f"{n} is {found[n]}, not {expected[n]}" for n in both if found[n] != expected[n]],
    }
    return [f"{kind}: {several(names)}" for kind, names in kinds.items() if names]
