"""A command as it is typed, called in this process: what it imports and its encoder are read once for all tests."""

import importlib
import shlex
from importlib.util import find_spec
from unittest import mock


def call(command: str | list[str], *more: str):
    """Calls the `main` of `python -m MODULE ...` or `python SCRIPT.py ...` in the working folder; it must succeed.

    Args:
        command: as typed, or as words.
        more: further arguments.
    """
    words = shlex.split(command) if isinstance(command, str) else command
    assert words[0] == "python"
    if words[1] == "-m":
        module, argv = words[2], words[3:]
        module += ".command" if find_spec(module).submodule_search_locations and find_spec(f"{module}.command") else ""
    else:
        module, argv = words[1].removesuffix(".py").replace("/", "."), words[2:]
    with mock.patch("sys.argv", [words[1], *argv, *more]):
        assert importlib.import_module(module).main() in (0, None), command
