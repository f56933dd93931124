"""What ships: generate, fill and score from a bundle, with numpy, onnxruntime and tokenizers, and nothing else.

    from recurlm.runtime import Generator

    generator = Generator.from_bundle("data/onnx/lstm")
    for text in generator.stream("KING.\\n", max_new_tokens=200, seed=1):
        print(text, end="", flush=True)

An instance keeps nothing of a call: any number of threads may use one at once.
"""

from recurlm.runtime.bundle import Bundle
from recurlm.runtime.filler import Filler
from recurlm.runtime.generator import Generator
from recurlm.runtime.scorer import Score, Scorer

__all__ = ["Bundle", "Filler", "Generator", "Score", "Scorer"]
