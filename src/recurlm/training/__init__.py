"""From a fresh model to a trained one: the loop, and the recipe that it follows."""
