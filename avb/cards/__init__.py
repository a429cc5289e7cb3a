"""A finished run as others see it: its card, the folder that is a model on the Hub, and the push."""
