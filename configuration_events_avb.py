"""Configuration of `BurstEventsModel`. Self-contained code for the Hub: it needs only transformers."""

from collections.abc import Sequence

from transformers import PreTrainedConfig


class BurstEventsConfig(PreTrainedConfig):
    """Configuration of `BurstEventsModel`.

    Args:
        channels: of the blocks.
        dilations: of the blocks, in frames of 40 ms; negative ones look back only, the others as far ahead as back.
        threshold: probability at which an event begins, unless the caller says otherwise.
    """

    model_type = "vocal-burst-events"

    channels: int = 192
    dilations: Sequence[int] = (1, 2, 4, -8, -16, -32, 1, 2, 4, -8, 1, 2)
    dropout: float = 0.1
    threshold: float = 0.5

    def __init__(self, **kwargs):
        kwargs = {"id2label": {0: "burst"}, "label2id": {"burst": 0}} | kwargs
        super().__init__(**kwargs)
        if not self.dilations or 0 in self.dilations or self.channels < 1:
            raise ValueError(f"dilations={self.dilations!r}, channels={self.channels!r}: they must not be 0")
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold={self.threshold!r} is invalid: it must be a probability between 0 and 1")
