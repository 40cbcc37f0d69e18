"""Adapters: attach what was trained to the models that `probe` reads."""
