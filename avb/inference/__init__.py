"""Scores of clips by a trained model: found, loaded, run by torch or another engine, kept as they are made."""
