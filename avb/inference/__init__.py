"""Scores clips with a trained model: loads it, runs it with torch or another engine, and stores the scores."""
