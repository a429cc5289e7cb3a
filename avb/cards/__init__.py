"""Publishes a finished run: its card, the folder that is a model on the Hub, and the push."""
