"""Drawings of finished findings; computes nothing."""
