"""Statistics of retrieval results: numbers in, numbers out; no torch, no plots."""
