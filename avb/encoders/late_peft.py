"""peft is imported when it is used: it takes seconds, which a command's help and a wrong argument need not wait for.

Where peft is installed, `transformers.trainer_utils`, which `TrainingArguments` needs, imports two of its classes, and
with them most of Transformers and torch's compiler; all it does with them is to ask whether a model is one of them.
"""

import contextlib
import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_NAME = "peft"
_ASKED_FOR = ("PeftModel", "PeftMixedModel")  # imported by transformers.trainer_utils


def import_before_peft(name: str) -> ModuleType:
    """Imports a module that imports `_ASKED_FOR` from peft without loading peft: it gets stand-ins for these classes.

    A stand-in behaves like its class: until peft is loaded, no object is an instance; afterwards, the class itself is
    asked. If the module uses anything else from peft, peft is loaded. If peft is already loaded or not installed, or
    the module does not work with stand-ins, it is imported normally.
    """
    spec = None if _NAME in sys.modules else find_spec(_NAME)
    if spec is None:
        return import_module(name)
    stand_in = _LatePeft(_NAME)
    stand_in.__spec__ = spec
    sys.modules[_NAME] = stand_in
    try:
        with contextlib.suppress(ImportError):  # `import peft.utils`: the stand-in is not a package
            return import_module(name)
    finally:
        stand_in.withdraw()
    return import_module(name)


class _LatePeft(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name in _ASKED_FOR:
            return _LateClass(name, (), {})
        if name.startswith("__"):  # the import system asks for __path__
            raise AttributeError(name)
        self.withdraw()
        return getattr(import_module(_NAME), name)

    def withdraw(self):
        if sys.modules.get(_NAME) is self:
            del sys.modules[_NAME]


class _LateClass(type):
    """The type of a class that delegates to the class of the same name in peft."""

    def __instancecheck__(cls, instance: Any) -> bool:
        own = _loaded_class(cls.__name__)
        return own is not None and isinstance(instance, own)

    def __subclasscheck__(cls, subclass: type) -> bool:
        own = _loaded_class(cls.__name__)
        return own is not None and issubclass(subclass, own)

    def __getattr__(cls, name: str) -> Any:
        return getattr(getattr(import_module(_NAME), cls.__name__), name)

    def __call__(cls, *args, **kwargs) -> Any:
        return getattr(import_module(_NAME), cls.__name__)(*args, **kwargs)


def _loaded_class(name: str) -> type | None:
    module = sys.modules.get(_NAME)
    return None if isinstance(module, _LatePeft) else getattr(module, name, None)
