"""Metrics of video quality: Frechet distances, Inception Scores and their evaluation protocols."""
