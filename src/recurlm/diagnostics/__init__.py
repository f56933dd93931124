"""What a trained model is like beyond its score: adaptive perplexities, memory, gates, overfitting, its texts."""
