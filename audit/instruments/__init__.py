"""Instruments: detectors and quality measures of single pictures, and distances between sets of pictures."""
