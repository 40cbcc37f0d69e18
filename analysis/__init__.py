"""Findings from retrieval results, with their uncertainty: correlation, comparison, layer choice, measures, audit."""
