"""Diagnostics of a trained model: perplexities, gradient flow, effective context, gates, overfitting, samples."""
