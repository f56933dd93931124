"""Tokens from a recurlm bundle by step.onnx alone, for runtimes that have no loop: tract, or else onnxruntime.

    pip install tract numpy
    python step.py path/to/bundle 50 0.8 1 0 45 33

Arguments: the bundle, the number of tokens, the temperature (0: always the likeliest token), a seed, and the prompt's
token ids, <bos> first. It prints the ids that follow, up to a <bos> that the model samples.
"""

import json
import sys
from pathlib import Path

import numpy as np


def generate(step, description, prompt, uniform, temperature):
    """The tokens after a prompt, one for each uniform number; `step` takes and returns arrays by name."""
    state = {f"state.{name}": np.zeros((1, *shape), np.float32) for name, shape in description["state_spec"].items()}
    tokens = []
    for place in range(len(prompt) - 1 + len(uniform)):
        token = prompt[place] if place < len(prompt) else tokens[-1]
        results = step({"token": np.array([token]), **state})
        state = {name: results[f"next_{name}"] for name in state}
        if place < len(prompt) - 1:
            continue
        scores = results["logits"][0].astype(np.float64)
        scores[description["suppressed_tokens"]] = -np.inf
        if temperature > 0:
            cumulative = np.cumsum(np.exp((scores - scores.max()) / temperature))
            threshold = uniform[len(tokens)] * cumulative[-1]
            tokens.append(int(np.searchsorted(cumulative, threshold, side="right")))
        else:
            tokens.append(int(scores.argmax()))
    return tokens


def with_tract(file, state_spec):
    import tract

    model = tract.onnx().load(file)
    inputs = [model.input_name(index) for index in range(model.input_count())]
    for index, name in enumerate(inputs):
        shape = state_spec.get(name.removeprefix("state."))
        model.set_input_fact(index, "1,i64" if shape is None else ",".join(map(str, [1, *shape, "f32"])))
    runnable = model.into_model().into_runnable()

    def step(feeds):
        results = [each.to_numpy() for each in runnable.run([feeds[name] for name in inputs])]
        states = inputs[1:]  # the last outputs are theirs: tract has names of its own for them
        following = zip(states, results[-len(states) :], strict=True)
        return {"logits": results[0], **{f"next_{name}": state for name, state in following}}

    return step


def with_onnxruntime(file, state_spec):
    import onnxruntime

    session = onnxruntime.InferenceSession(file)
    names = [value.name for value in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(names, feeds), strict=True))


if __name__ == "__main__":
    bundle, count, temperature, seed, *prompt = sys.argv[1:]
    description = json.loads((Path(bundle) / "bundle.json").read_text(encoding="utf-8"))
    try:
        step = with_tract(f"{bundle}/step.onnx", description["state_spec"])
    except ImportError:
        step = with_onnxruntime(f"{bundle}/step.onnx", description["state_spec"])
    uniform = np.random.default_rng(int(seed)).random(int(count))
    tokens = generate(step, description, list(map(int, prompt)), uniform, float(temperature))
    bos = description["special"]["bos"]
    print(*(tokens[: tokens.index(bos)] if bos in tokens else tokens))
