"""Text ↔ ids: three kinds of tokenizer, memory-mapped id files, training batches."""
