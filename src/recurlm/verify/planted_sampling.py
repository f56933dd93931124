"""Planted faults of sampling, and of the frames around the loops: prompts, padding, settings, the two sides."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto

from recurlm.export.sampling import GREEDY
from recurlm.verify.graph_edits import Edit, Part, op
from recurlm.verify.planted_arithmetic import LARGER, one_weight_of_the_last_product

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


def strict_comparison_in_the_draw(part: Part) -> None:
    part.become(part.find("LessOrEqual"), "Less")


def coefficient_of_the_sampler_s_exp(part: Part) -> None:
    largest = part.find("ReduceMax", lambda node: node.output[0].startswith("amax"))
    difference = part.reader(largest.output[0], "Sub")
    factor = part.reader(part.reader(difference.output[0], "Clip").output[0], "Mul")
    part.set(factor, 1, np.array(part.constant(factor.input[1])) * np.float32(1.001))


def top_k_excludes_its_last(part: Part) -> None:
    part.become(ranked_at_least(part), "Greater")


def ranked_at_least(part: Part) -> NodeProto:
    """The comparison of ranked logits with the last of top-k."""
    last = part.find("Where", lambda node: node.input[0].startswith("limited"))
    return part.reader(last.output[0], "GreaterOrEqual")


def top_p_before_top_k(part: Part) -> None:
    """Shares are of all that is ranked, not of what top-k left."""
    masked = part.find("Where", lambda node: node.input[0] == ranked_at_least(part).output[0])
    part.become(masked, "Identity", [masked.input[1]])


def the_last_kept_is_dropped(part: Part) -> None:
    part.become(part.makes(part.makes("kept").input[0]), "Greater")


def min_p_ignored(part: Part) -> None:
    lowest = part.makes(part.makes(part.makes("kept").input[0]).input[1])
    part.become(lowest, "Identity", [lowest.input[0]])


def temperature_after_the_cuts(part: Part) -> None:
    scaled = part.makes("scaled")
    raw, divisor = scaled.input
    part.become(scaled, "Identity", [raw])

    def cuts(node: NodeProto) -> bool:
        return any("kept" in result.name for branch in node.attribute for result in branch.g.output)

    part.after(part.find("If", cuts), "Div", divisor)


def first_row_s_temperature_in_all(part: Part) -> None:
    scaled = part.makes("scaled")
    ends = [part.weight(np.array([value])) for value in (0, 1, 0)]
    part.before(scaled, 1, op("Slice", [scaled.input[1], *ends], "first"))


SAMPLER: list[Edit] = [
    wrong_token_suppressed, suppression_dropped, strict_comparison_in_the_draw, coefficient_of_the_sampler_s_exp,
    top_k_excludes_its_last, top_p_before_top_k, the_last_kept_is_dropped, temperature_after_the_cuts,
    first_row_s_temperature_in_all,
]  # fmt: skip


def uniform_of_the_first_column(part: Part) -> None:
    trip = part.graph.input[0].name
    gather = part.find("Gather", lambda node: node.input[1] == trip and node.input[0].startswith("unsqueeze"))
    part.set(gather, 1, np.array(0))


def penalty_twice(part: Part) -> None:
    chosen = part.makes(part.makes("penalized").input[1])
    factor = part.makes(chosen.input[1]).input[1]
    part.after(part.makes(factor), "Mul", factor)


def penalty_by_the_wrong_sign(part: Part) -> None:
    part.become(part.makes(part.makes(part.makes("penalized").input[1]).input[0]), "Less")


def drawn_tokens_not_remembered(part: Part) -> None:
    remembered = part.makes("remembered")
    part.become(remembered, "Identity", [remembered.input[0]])


def stop_compared_with_the_token_before(part: Part) -> None:
    equal = part.find("Equal", lambda node: node.input[0].startswith("token."))
    equal.input[0] = next(value.name for value in part.graph.input if value.name.startswith("token."))


def state_moves_on_after_the_stop(part: Part) -> None:
    states = [value.name for value in part.graph.input[6:]]
    kept = part.find("Where", lambda node: node.input[1] in states)
    part.become(kept, "Identity", [kept.input[2]])


def first_token_of_the_prompt_skipped(part: Part) -> None:
    part.become(part.find("GreaterOrEqual", lambda node: node.input[0] == part.graph.input[0].name), "Greater")


def padding_read(part: Part) -> None:
    active = part.find("GreaterOrEqual", lambda node: node.input[0] == part.graph.input[0].name)
    part.before(active, 1, op("Sub", [active.input[1], active.input[1]], "zeros"))


def padding_scored(part: Part) -> None:
    part.become(part.find("Less"), "LessOrEqual")


def target_is_the_token_itself(part: Part) -> None:
    following = part.find("Add", lambda node: node.input[0] == part.graph.input[0].name)
    target = part.reader(following.output[0], "Gather")
    target.input[1] = following.input[0]


def output_after_the_token(part: Part) -> None:
    """A side's output that has read the token which it predicts."""
    outputs = list(part.graph.output)
    part.output_is(len(outputs) - 1, outputs[-2].name)


# The frames around the loops.


def state_begins_not_at_zero(part: Part) -> None:
    zeros = [weight for weight in part.graph.initializer if weight.name.startswith(("state.", "zeros."))]
    value = onnx.numpy_helper.to_array(zeros[0]) + np.float32(0.01)
    zeros[0].CopyFrom(onnx.numpy_helper.from_array(value, zeros[0].name))


def length_off_by_one(part: Part) -> None:
    padding = part.find("Sub", lambda node: node.input[1] == "prompt_length")
    part.before(padding, 1, op("Sub", ["prompt_length", part.weight(np.array(1))], "length"))


def padding_counts_as_seen(part: Part) -> None:
    part.find("ScatterElements").input[1] = "prompt"


def seen_input_ignored(part: Part) -> None:
    seen = part.find("Expand", lambda node: node.input[0] == "seen")
    part.set(seen, 0, np.zeros_like(part.constant("seen")))


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


def top_k_one_too_few(part: Part) -> None:
    less = part.makes(part.makes("place").input[0])
    part.set(less, 1, np.array(2))


def top_p_too_large(part: Part) -> None:
    share = part.find("Where", lambda node: "top_p" in node.input[1] or node.input[1].startswith("reshape"))
    scaled = part.reader(share.output[0], "Mul")
    part.set(scaled, 1, np.array(part.constant(scaled.input[1])) * LARGER)


def left_and_right_exchanged(part: Part) -> None:
    both = part.find("Concat", lambda node: all(value.startswith("reshape") for value in node.input))
    both.input[0], both.input[1] = both.input[1], both.input[0]


def right_side_not_reversed(part: Part) -> None:
    text = part.find("ReverseSequence")
    part.become(text, "Identity", [text.input[0]])


def right_side_begins_in_the_padding(part: Part) -> None:
    text, first, second = part.find("ReverseSequence"), part.weight(np.array([0])), part.weight(np.array([1]))
    nodes = [
        op("Shape", ["tokens"], "shape"),
        op("Slice", ["planted.shape", first, second], "rows"),
        op("Slice", ["planted.shape", second, part.weight(np.array([2]))], "time"),
        op("Expand", ["planted.time", "planted.rows"], "whole"),
    ]
    part.before(text, 1, *nodes)


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


FRAME: list[Edit] = [greedy_draws, top_k_one_too_few, top_p_too_large, state_begins_not_at_zero]
GENERATOR: list[Edit] = [
    *FRAME, length_off_by_one, padding_counts_as_seen, seen_input_ignored, seen_output_without_the_drawn,
    length_counts_one_more,
]  # fmt: skip
SIDES: list[Edit] = [
    left_and_right_exchanged, right_side_not_reversed, right_side_begins_in_the_padding,
    one_weight_of_the_last_product, probability_of_another_token,
]  # fmt: skip
FILLER: list[Edit] = [*FRAME, *SIDES, uniform_of_the_next_column]
SCORER: list[Edit] = [state_begins_not_at_zero]
CLOZE_SCORER: list[Edit] = [state_begins_not_at_zero, padding_scored, *SIDES]

PLAIN: list[Edit] = [uniform_of_the_first_column, *SAMPLER[:4]]
FULL: list[Edit] = [
    uniform_of_the_first_column, *SAMPLER, min_p_ignored, penalty_twice, penalty_by_the_wrong_sign,
    drawn_tokens_not_remembered, stop_compared_with_the_token_before, state_moves_on_after_the_stop,
]  # fmt: skip
