"""recurlm: from a text corpus to recurrent language models that can be compared, trusted and shipped."""

import os

__version__ = "0.1.0"

# Since 1.29, onnxruntime reports its use to Microsoft and leaves an id in the home folder, unless this is set before
# its import. What a person has set themselves stays as it is.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
