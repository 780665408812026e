"""Measure detectors on models whose truth is known."""
