"""Where text comes from: one source a file, each giving its documents as a Hugging Face dataset."""
