"""All arguments of `train_avb.py` and `pretrain_avb.py`: dataclasses with help; `avb.command_line` parses them.

Further properties of an argument are in its field's metadata (`PROPERTIES` of `properties.py`); those of the stock
Trainer's arguments are in `STOCK` there.

The defaults are the `recommended` preset: front end frozen, transformer trained at 1e-5 and head at 1e-4, CCC averaged
over labels, masked pooling. Batch size, epochs and weight decay are the paper's (section IV-B). If an argument whose
help says `auto` is not given, training chooses a value for its encoder and clips: `avb.training.defaults`.
"""

import dataclasses

from avb.arguments.data import DataArguments
from avb.arguments.model import ModelArguments, PretrainingArguments
from avb.arguments.properties import NO_CHANGE, PROPERTIES, STOCK
from avb.arguments.training import AvbTrainingArguments

__all__ = [
    "NO_CHANGE",
    "PROPERTIES",
    "AvbTrainingArguments",
    "DataArguments",
    "ModelArguments",
    "PretrainingArguments",
    "names_with",
]


def names_with(prop: str, value: bool = True) -> list[str]:
    """The arguments with this value of a property of `PROPERTIES`."""
    found = dict.fromkeys(STOCK, PROPERTIES[prop])
    for arguments in (ModelArguments, PretrainingArguments, DataArguments, AvbTrainingArguments):
        found |= {f.name: f.metadata.get(prop, PROPERTIES[prop]) for f in dataclasses.fields(arguments)}
    found |= {name: properties[prop] for name, properties in STOCK.items() if prop in properties}
    return [name for name, own in found.items() if own == value]
