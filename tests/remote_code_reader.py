"""Run by test_remote_code.py: scores clips with a saved model in every way a Hub user has, without this project.

    python -I remote_code_reader.py MODELS CLIP...

MODELS are names and folders as a list in JSON: to start a process takes longer than to read one of them. Prints, as
JSON and by model, for each way a list of {label: score}, one per clip, and the modules that the classes came from.
"""

import json
import sys


class Hide:
    """The first to be asked for a module: refuses those of this project, which may be installed."""

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in ("avb", "av") or top.endswith("_avb"):  # av: PyAV, an extra that a Hub user may not have
            raise ModuleNotFoundError(f"{name} is hidden from this process", name=name)
        return None


def read(name: str, paths: list[str]) -> dict[str, list]:
    import soundfile as sf
    import torch
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification, pipeline

    config = AutoConfig.from_pretrained(name, trust_remote_code=True)
    feature_extractor = AutoFeatureExtractor.from_pretrained(name, trust_remote_code=True)
    waveforms = [sf.read(path, dtype="float32")[0] for path in paths]
    answers, classes = {}, [type(config), type(feature_extractor)]

    for auto_class in (AutoModel, AutoModelForAudioClassification):
        model = auto_class.from_pretrained(name, trust_remote_code=True)
        inputs = feature_extractor(
            waveforms, sampling_rate=16_000, padding=True, return_attention_mask=True, return_tensors="pt"
        )
        with torch.inference_mode():
            logits = model(**inputs).logits
        scores = logits if config.problem_type == "regression" else logits.softmax(-1)
        answers[auto_class.__name__] = [
            {config.id2label[index]: score for index, score in enumerate(clip)} for clip in scores.tolist()
        ]
        classes.append(type(model))

    stock = pipeline("audio-classification", model=name, trust_remote_code=True, top_k=None)
    classes += [type(stock.model), type(stock.feature_extractor)]
    if getattr(config, "custom_pipelines", None):
        own = pipeline(model=name, trust_remote_code=True)
        classes += [type(own), type(own.model)]
        answers["own pipeline"] = [as_dict(own(path)) for path in paths]
    answers["stock pipeline"] = [as_dict(stock(waveform)) for waveform in waveforms]
    answers["modules"] = sorted({a_class.__module__ for a_class in classes})
    return answers


def as_dict(scores: list[dict]) -> dict:
    return {entry["label"]: entry["score"] for entry in scores}


if __name__ == "__main__":
    sys.meta_path.insert(0, Hide())
    print(json.dumps({name: read(name, sys.argv[2:]) for name in json.loads(sys.argv[1])}))
