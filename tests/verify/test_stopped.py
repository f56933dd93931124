"""Promises of the checks with a stop token: they see `length`, `next_seen`, and in int8 a state's last bit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from configs import PARAMS

from recurlm.config import override
from recurlm.verify.agreement import CALL_TOKENS, Verification
from recurlm.verify.checks import STOP_TOLERANCE, VerificationError, stopped
from recurlm.verify.faults.catalogue import in_graph
from recurlm.verify.faults.graph_edits import Part, op
from recurlm.verify.faults.plant import Subject, tiny_subjects
from recurlm.verify.sessions import Graphs, prompts_of

PRECISIONS = ("fp32", "int8")
TOKEN = 9  # some row of the check reads and draws it nowhere


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Subject]:
    params = PARAMS.model_copy(update={"verify": override(PARAMS.verify, {"num_tokens": 40})})
    return dict(
        zip(PRECISIONS, tiny_subjects("lstm", PRECISIONS, params, tmp_path_factory.mktemp("lstm")), strict=True)
    )


def length_counts_what_is_absent(part: Part) -> None:
    present = part.makes(part.makes(part.makes(part.makes("length").input[0]).input[0]).input[0])
    absent = present.input[0]
    part.become(present, "Or", [absent, absent])
    part.before(present, 1, op("Not", [absent], "not_absent"))


def any_token_in_place_of_none(part: Part) -> None:
    scatter = part.makes(part.makes("next_seen").input[0])
    part.set(part.makes(scatter.input[1]), 1, np.array([[TOKEN]]))


def call(subject: Subject, folder: Path, tolerance: float) -> None:
    prompts = prompts_of(np.asarray(subject.held_out.ids, np.int64))
    numbers = np.random.default_rng(2).random((len(prompts), CALL_TOKENS), np.float32)
    stopped(Graphs(folder), prompts, numbers, tolerance)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_generator_says_of_a_text_that_was_stopped_is_checked(
    subjects: dict[str, Subject], precision: str, tmp_path: Path
) -> None:
    subject = subjects[precision]
    call(subject, subject.folder, STOP_TOLERANCE if precision == "fp32" else 0.0)
    edits: list[tuple[Callable[[Part], None], str]] = [
        (length_counts_what_is_absent, "`length` of generator.onnx is not the number of tokens up to the stop token"),
        (any_token_in_place_of_none, "`next_seen` of generator.onnx does not hold the tokens of prompt and text"),
    ]
    for edit, message in edits:
        folder = tmp_path / edit.__name__
        shutil.copytree(subject.folder, folder)
        in_graph(edit.__name__, "generator.onnx", None, edit).plant(folder)
        with pytest.raises(VerificationError, match=f"^{message}$"):
            call(subject, folder, STOP_TOLERANCE)


def test_a_state_that_moves_a_little_after_a_stop_token_is_float_error_in_fp32_only(
    subjects: dict[str, Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = Graphs.generate

    def moved(self: Graphs, *arguments: Any, **named: Any) -> Any:
        results, after = generate(self, *arguments, **named)
        if "stop_token" in (named.get("more") or {}) and len(arguments[0]) > 1:
            after = {name: value + np.float32(1e-6) for name, value in after.items()}
        return results, after

    def check(subject: Subject) -> None:
        settings, scoring = subject.params.verify, subject.params.evaluate
        verification = Verification(
            subject.reference, subject.folder, subject.held_out, subject.metrics, settings, scoring, error=1e-5
        )
        for _, each in verification.checks():
            if getattr(each, "func", None) is stopped:
                each()

    for subject in subjects.values():
        check(subject)
    monkeypatch.setattr(Graphs, "generate", moved)
    check(subjects["fp32"])
    with pytest.raises(VerificationError, match=r"moves on after a stop token$"):
        check(subjects["int8"])
