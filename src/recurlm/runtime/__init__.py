"""Inference from a bundle: generate, fill masks and score, with numpy, onnxruntime and tokenizers, and nothing else.

    from recurlm.runtime import Generator

    generator = Generator.from_bundle("data/onnx/lstm/fp32")
    for text in generator.stream("KING.\\n", max_new_tokens=200, seed=1):
        print(text, end="", flush=True)

An instance keeps nothing of a call: any number of threads may use one at once.

    bundle       the folder that ships           session      one graph and its state, in onnxruntime
    tokenizer    text ↔ token ids                sampling     settings, random numbers
    generator    text generation                 filler       mask filling
    scorer       log-likelihoods
"""

from recurlm.runtime.bundle import Bundle
from recurlm.runtime.filler import Filler
from recurlm.runtime.generator import Generator
from recurlm.runtime.scorer import Score, Scorer
from recurlm.runtime.session import GraphSession

__all__ = ["Bundle", "Filler", "Generator", "GraphSession", "Score", "Scorer"]
