"""recurlm: from a text corpus to recurrent language models that can be compared, trusted and shipped."""

__version__ = "0.1.0"
