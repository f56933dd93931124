"""Planted faults of sampling, and of the frames around the loops: prompts, padding, settings, the two sides."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from recurlm.export.sampling import GREEDY
from recurlm.verify.faults.arithmetic import ARITHMETIC, LARGER
from recurlm.verify.faults.graph_edits import Edit, NotHereError, Part, op

# Sampling: the last loop of generator.onnx, and filler.onnx.


def suppressed_add(part: Part) -> NodeProto:
    def masks(node: NodeProto) -> bool:
        value = part.constant(node.input[1])
        return value is not None and bool(np.isneginf(value).any())

    return part.find("Add", masks)


def wrong_token_suppressed(part: Part) -> None:
    add = suppressed_add(part)
    part.set(add, 1, np.roll(np.array(part.constant(add.input[1])), 1))


def suppression_dropped(part: Part) -> None:
    add = suppressed_add(part)
    part.set(add, 1, np.zeros_like(part.constant(add.input[1])))


def coefficient_of_exp(part: Part) -> None:
    largest = part.find("ReduceMax", lambda node: node.output[0].startswith("amax"))
    difference = part.reader(largest.output[0], "Sub")
    part.scale(part.reader(part.reader(difference.output[0], "Clip").output[0], "Div"), 0, 1.001)


def last_of_top_k(part: Part) -> NodeProto:
    """What takes the place where top-k ends, if that comes before the one where the nucleus does."""
    return part.find("Min", lambda node: node.input[1].startswith("place"))


def top_k_excludes_its_last(part: Part) -> None:
    """But never its first."""
    before, none = part.weight(np.array(1)), part.weight(np.array(0))
    nodes = [op("Sub", [last_of_top_k(part).input[1], before], "place"), op("Max", ["planted.place", none], "shorter")]
    part.before(last_of_top_k(part), 1, *nodes)


def top_p_before_top_k(part: Part) -> None:
    """Shares are of all that is ranked, not of what top-k left."""
    gather = part.find("GatherElements", lambda node: node.input[1].startswith("place"))
    part.become(gather, "ReduceMax", [gather.input[0], part.weight(np.array([1]))])


def kept(part: Part) -> NodeProto:
    """The comparison of weights with the lowest that is kept."""
    return part.makes(part.makes(part.makes("kept").input[1]).input[0])


def temperature_after_the_cuts(part: Part) -> None:
    """What is cut follows from weights at temperature 1."""
    scaled, weight = part.makes("scaled"), part.makes("weight").output[0]
    raw, again = scaled.input[0], part.again(scaled, part.makes("weight"))
    part.become(part.makes(again[scaled.output[0]]), "Identity", [raw])
    for kind in ("TopK", "Cast", "GreaterOrEqual"):
        for node in part.all(kind, lambda node: weight in node.input):
            node.input[0] = again[weight]


def first_row_s_temperature(part: Part) -> None:
    ends = [part.weight(np.array([value])) for value in (0, 1, 0)]
    scaled = part.makes("scaled")
    part.before(scaled, 1, op("Slice", [scaled.input[1], *ends], "first"))


def uniform_of_the_first_column(part: Part) -> None:
    trip = part.graph.input[0].name
    gather = part.find("Gather", lambda node: node.input[1] == trip and node.input[0].startswith("unsqueeze"))
    part.set(gather, 1, np.array(0))


def penalty_twice(part: Part) -> None:
    factor = part.makes(part.makes(part.makes("penalized").input[1]).input[1]).input[1]
    part.after(part.makes(factor), "Mul", factor)


def passed_through(part: Part, node: NodeProto, index: int) -> None:
    """A node gives one of its inputs."""
    part.become(node, "Identity", [node.input[index]])


def stop_compared_with_the_token_before(part: Part) -> None:
    equal = part.find("Equal", lambda node: node.input[0].startswith("token."))
    equal.input[0] = next(value.name for value in part.graph.input if value.name.startswith("token."))


def state_moves_on_after_the_stop(part: Part) -> None:
    states = [value.name for value in part.graph.input[6:]]
    passed_through(part, part.find("Where", lambda node: node.input[1] in states), 2)


# Loops that read.


def active(part: Part) -> NodeProto:
    """The comparison of the trip with where a prompt begins."""
    return part.find("GreaterOrEqual", lambda node: node.input[0] == part.graph.input[0].name)


def padding_read(part: Part) -> None:
    begins = active(part)
    part.before(begins, 1, op("Sub", [begins.input[1], begins.input[1]], "zeros"))


def target_is_the_token_itself(part: Part) -> None:
    following = part.find("Add", lambda node: node.input[0] == part.graph.input[0].name)
    part.reader(following.output[0], "Gather").input[1] = following.input[0]


def output_after_the_token(part: Part) -> None:
    """A side's output that has read the token which it predicts."""
    outputs = list(part.graph.output)
    part.output_is(len(outputs) - 1, outputs[-2].name)


# The frames around the loops.


def state_begins_not_at_zero(part: Part) -> None:
    first = part.find("Expand", lambda node: node.input[0].startswith(("state.", "zeros.")))
    part.before(first, 0, op("Add", [first.input[0], part.weight(np.float32(0.01))], "first"))


def length_off_by_one(part: Part) -> None:
    padding = part.find("Sub", lambda node: node.input[1] == "prompt_length")
    part.before(padding, 1, op("Sub", ["prompt_length", part.weight(np.array(1))], "length"))


def padding_counts_as_seen(part: Part) -> None:
    part.find("ScatterElements").input[1] = "prompt"


def seen_input_ignored(part: Part) -> None:
    seen = part.find("Expand", lambda node: node.input[0] == "seen")
    part.before(seen, 0, op("And", ["seen", part.weight(np.array(False))], "nothing"))


def seen_output_without_the_drawn(part: Part) -> None:
    part.makes("next_seen").input[0] = part.all("ScatterElements")[0].output[0]


def length_counts_one_more(part: Part) -> None:
    result = part.makes("length")
    part.before(result, 0, op("Add", [result.input[0], part.weight(np.array(1))], "counted"))


def greedy_draws(part: Part) -> None:
    def is_greedy(node: NodeProto) -> bool:
        value = part.constant(node.input[1])
        return value is not None and value.size == 1 and float(value) == GREEDY

    part.set(part.find("Where", is_greedy), 1, np.array(1, np.float32))


def top_p_too_large(part: Part) -> None:
    share = part.makes(part.makes("nucleus").input[0])
    part.before(share, 0, op("Mul", [share.input[0], part.weight(LARGER)], "larger"))


def left_and_right_exchanged(part: Part) -> None:
    both = part.find("Concat", lambda node: all(value.startswith("reshape") for value in node.input))
    both.input[0], both.input[1] = both.input[1], both.input[0]


def right_side_begins_in_the_padding(part: Part) -> None:
    first, second, third = (part.weight(np.array([value])) for value in (0, 1, 2))
    nodes = [
        op("Shape", ["tokens"], "shape"),
        op("Slice", ["planted.shape", first, second], "rows"),
        op("Slice", ["planted.shape", second, third], "time"),
        op("Expand", ["planted.time", "planted.rows"], "whole"),
    ]
    part.before(part.find("ReverseSequence"), 1, *nodes)


def uniform_of_the_next_column(part: Part) -> None:
    reshaped, ends = part.reader("uniform", "Reshape"), [0, 1, np.iinfo(np.int64).max]
    begin, one, end = (part.weight(np.array([value])) for value in ends)
    nodes = [
        op("Slice", ["uniform", begin, one, one], "first"),
        op("Slice", ["uniform", one, end, one], "rest"),
        op("Concat", ["planted.rest", "planted.first"], "rolled", axis=1),
    ]
    part.before(reshaped, 0, *nodes)


def probability_of_another_token(part: Part) -> None:
    chosen = part.all("GatherElements")[-1]
    part.before(chosen, 1, op("Mul", [chosen.input[1], part.weight(np.array(0))], "zero"))


ZERO_STATE: dict[str, Edit] = {"state begins not at zero": state_begins_not_at_zero}
PLAIN_SAMPLER: dict[str, Edit] = {
    "wrong token suppressed": wrong_token_suppressed,
    "suppression dropped": suppression_dropped,
    "strict comparison in the draw": lambda part: part.become(part.find("LessOrEqual"), "Less"),
    "coefficient of the sampler's exp": coefficient_of_exp,
}
SAMPLER = PLAIN_SAMPLER | {
    "top k excludes its last": top_k_excludes_its_last,
    "top p before top k": top_p_before_top_k,
    "the last kept is dropped": lambda part: part.become(kept(part), "Greater"),
    "temperature after the cuts": temperature_after_the_cuts,
    "first row's temperature in all": first_row_s_temperature,
}
FRAME = ZERO_STATE | {
    "greedy draws": greedy_draws,
    "top k one too few": lambda part: part.set(part.makes(part.makes("place").input[0]), 1, np.array(2)),
    "top p too large": top_p_too_large,
}
SIDES: dict[str, Edit] = {
    "left and right exchanged": left_and_right_exchanged,
    "right side not reversed": lambda part: passed_through(part, part.find("ReverseSequence"), 0),
    "right side begins in the padding": right_side_begins_in_the_padding,
    "one weight of the last product": ARITHMETIC["one weight of the last product"],
    "probability of another token": probability_of_another_token,
}


def gate_of_another_name(part: Part) -> None:
    outputs = [value.name for value in part.graph.output]
    gates = [name for name in outputs if name.startswith("gate.")]
    if not gates:
        raise NotHereError("no gate")
    part.output_is(outputs.index(gates[0]), gates[-1])


PADDING_SCORED: dict[str, Edit] = {"padding scored": lambda part: part.become(part.find("Less"), "LessOrEqual")}

# By file or loop: what is planted there, beside the arithmetic.
PLANTED: dict[str, dict[str, Edit]] = {
    "step": {"a gate's output is another gate": gate_of_another_name},
    "scorer loop": PADDING_SCORED | {"target is the token itself": target_is_the_token_itself},
    "prompt": {
        "first token of the prompt skipped": lambda part: part.become(active(part), "Greater"),
        "padding read": padding_read,
    },
    "plain loop": PLAIN_SAMPLER | {"uniform of the first column": uniform_of_the_first_column},
    "full loop": SAMPLER
    | {
        "uniform of the first column": uniform_of_the_first_column,
        "min p ignored": lambda part: passed_through(part, part.makes(kept(part).input[1]), 0),
        "penalty twice": penalty_twice,
        "penalty by the wrong sign": lambda part: part.become(
            part.makes(part.makes(part.makes("penalized").input[1]).input[0]), "Less"
        ),
        "drawn tokens not remembered": lambda part: passed_through(part, part.makes("remembered"), 0),
        "stop compared with the token before": stop_compared_with_the_token_before,
        "state moves on after the stop": state_moves_on_after_the_stop,
    },
    "side": {"output after the token": output_after_the_token},
    "scorer.onnx": ZERO_STATE,
    "generator.onnx": FRAME
    | {
        "length off by one": length_off_by_one,
        "padding counts as seen": padding_counts_as_seen,
        "seen input ignored": seen_input_ignored,
        "seen output without the drawn": seen_output_without_the_drawn,
        "length counts one more": length_counts_one_more,
    },
    "filler.onnx": SAMPLER | FRAME | SIDES | {"uniform of the next column": uniform_of_the_next_column},
    "cloze scorer.onnx": ZERO_STATE | PADDING_SCORED | SIDES,
}
