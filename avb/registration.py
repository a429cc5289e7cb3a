"""Registers model, feature extractor and pipeline with Transformers when `avb` is imported. No other module does.

Unusual: `import avb` loads neither torch nor Transformers, because that takes seconds which the help of a command, the
report of a wrong argument or `avb.metrics` should not cost. Instead, an import hook registers each class when the
module of Transformers that looks it up is loaded, or at once if it is already loaded. So after `import avb`, whatever
the order of the other imports,

    AutoModel.from_pretrained(folder)

finds the class, and `save_pretrained` and `push_to_hub` include its code.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def _register_config():
    from transformers import AutoConfig

    from configuration_avb import Wav2Vec2VocalBurstConfig

    AutoConfig.register(Wav2Vec2VocalBurstConfig.model_type, Wav2Vec2VocalBurstConfig, exist_ok=True)
    Wav2Vec2VocalBurstConfig.register_for_auto_class()


def _register_model():
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification

    from avb.encoders.kinds import all_classes
    from feature_extraction_avb import VocalBurstFeatureExtractor

    for model_class in all_classes():  # and configurations: these modules need torch
        config_class = model_class.config_class
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        config_class.register_for_auto_class()
        AutoFeatureExtractor.register(config_class, VocalBurstFeatureExtractor, exist_ok=True)
        for auto_class in (AutoModel, AutoModelForAudioClassification):
            auto_class.register(config_class, model_class, exist_ok=True)
        model_class.register_for_auto_class(AutoModelForAudioClassification.__name__)


def _register_feature_extractor():
    from transformers import AutoFeatureExtractor

    from configuration_avb import Wav2Vec2VocalBurstConfig
    from feature_extraction_avb import VocalBurstFeatureExtractor

    AutoFeatureExtractor.register(Wav2Vec2VocalBurstConfig, VocalBurstFeatureExtractor, exist_ok=True)
    VocalBurstFeatureExtractor.register_for_auto_class()


def _register_events_config():
    from transformers import AutoConfig

    from configuration_events_avb import BurstEventsConfig

    AutoConfig.register(BurstEventsConfig.model_type, BurstEventsConfig, exist_ok=True)
    BurstEventsConfig.register_for_auto_class()


def _register_events_model():
    from transformers import AutoModel, AutoModelForAudioFrameClassification

    from configuration_events_avb import BurstEventsConfig
    from modeling_events_avb import BurstEventsModel

    for auto_class in (AutoModel, AutoModelForAudioFrameClassification):
        auto_class.register(BurstEventsConfig, BurstEventsModel, exist_ok=True)
    BurstEventsModel.register_for_auto_class(AutoModelForAudioFrameClassification.__name__)


def _register_pipeline():
    from transformers import AutoModelForAudioClassification
    from transformers.pipelines import PIPELINE_REGISTRY

    from pipeline_avb import TASK, VocalBurstPipeline

    PIPELINE_REGISTRY.register_pipeline(TASK, VocalBurstPipeline, pt_model=AutoModelForAudioClassification)


# The modules of Transformers that look up classes; and ours, whose classes can be saved without any of these.
_REGISTERED_AFTER: dict[str, tuple[Callable[[], None], ...]] = {
    "transformers.models.auto.configuration_auto": (_register_config, _register_events_config),
    "transformers.models.auto.modeling_auto": (_register_model, _register_events_model),
    "transformers.models.auto.feature_extraction_auto": (_register_feature_extractor,),
    "transformers.pipelines": (_register_pipeline,),
    "configuration_avb": (_register_config,),
    "configuration_events_avb": (_register_events_config,),
    "modeling_avb": (_register_model,),
    "modeling_events_avb": (_register_events_model,),
    "feature_extraction_avb": (_register_feature_extractor,),
}
_PACKAGES = ("transformers", *(name for name in _REGISTERED_AFTER if name.endswith("_avb")), "pipeline_avb")


class _RegisterOnImport(threading.local, MetaPathFinder):
    """Finds modules like the other finders, and registers our classes when the modules above have been loaded.

    These packages import each other. Registration waits for the end of the outermost import, so that it never sees a
    partially executed module. Each thread has its own state, because it has its own chain of imports.
    """

    def __init__(self):
        self.depth = 0  # nesting depth
        self.waiting: list[Callable[[], None]] = []

    def find_spec(self, fullname, path=None, target=None) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in _PACKAGES:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader.exec_module = partial(self._execute, spec.loader.exec_module)  # type: ignore[method-assign]
                return spec
        return None

    def _execute(self, execute: Callable[[ModuleType], None], module: ModuleType):
        self.depth += 1
        try:
            execute(module)
            if module.__name__ in _REGISTERED_AFTER:
                self.waiting += _REGISTERED_AFTER[module.__name__]
        finally:
            self.depth -= 1
        self.register_waiting()

    def register_waiting(self):
        while self.waiting and not self.depth:
            self.waiting.pop(0)()


_FINDER = _RegisterOnImport()


@contextmanager
def registering_later() -> Iterator[None]:
    """Postpones registration of imports in the block to the next import of those modules, or to `register_now`.

    For the imports with which a command checks its arguments: Transformers' configurations also load the Auto classes.
    """
    _FINDER.depth += 1
    try:
        yield
    finally:
        _FINDER.depth -= 1


def register_now():
    """Registers everything that was postponed."""
    _FINDER.register_waiting()


def register_when_loaded():
    """Registers the classes whose modules are loaded, and the others when their modules are imported."""
    sys.meta_path.insert(0, _FINDER)
    for name, registers in _REGISTERED_AFTER.items():
        if name in sys.modules:
            for register in registers:
                register()
