"""Promises of planted faults: each is caught, in causal and cloze models, and one that nothing checks is told of."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from configs import CHECKOUT, PARAMS

from recurlm.config import override
from recurlm.verify import edges
from recurlm.verify.checks import Comparison, VerificationError
from recurlm.verify.faults import plant
from recurlm.verify.faults.__main__ import read_params
from recurlm.verify.faults.catalogue import Fault
from recurlm.verify.faults.plant import Outcome, Subject, plant_all, tiny_subjects
from recurlm.verify.sessions import Graphs

QUICK = PARAMS.model_copy(update={"verify": override(PARAMS.verify, {"num_tokens": 40})})
# A few of each kind; `python -m recurlm.verify.faults` plants all.
CAUSAL = """step.onnx: two gates swapped|step.onnx: rounding half up|step.onnx: a gate's output is another gate
    scorer.onnx: padding scored
    generator.onnx, prompt: padding read|generator.onnx, plain loop: one weight of the last product
    generator.onnx, full loop: top p before top k|generator.onnx, full loop: penalty twice
    generator.onnx: seen input ignored|scorer.onnx: state layer0.h not carried|generator.onnx: length off by one
    tokenizer.json: two pieces exchanged|bundle.json: a special id moved|bundle.json: the default temperature"""
CLOZE = """step.onnx: a gate's output is another gate|filler.onnx: left and right exchanged
    filler.onnx: the last kept is dropped|scorer.onnx: padding scored
    filler.onnx, right: one recurrent weight|filler.onnx: uniform of the next column
    bundle.json: the mask's id changed"""


def chosen(names: str) -> set[str]:
    return {name.strip() for line in names.splitlines() for name in line.split("|")}


@pytest.fixture(scope="module", params=[("gru", "int8", CAUSAL), ("bilstm", "fp32", CLOZE)], ids=["causal", "cloze"])
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Subject, set[str]]:
    variant, precision, names = request.param
    (made,) = tiny_subjects(variant, [precision], QUICK, tmp_path_factory.mktemp(variant))
    return made, chosen(names)


def test_planted_faults_are_caught(subject: tuple[Subject, set[str]]) -> None:
    bundle, names = subject
    outcome = Outcome()
    plant_all(bundle, outcome, lambda name: name.split(", ", 1)[1] in names)
    assert outcome.summary() == {"planted": len(names), "caught": len(names), "missed": []}


def test_what_nothing_checks_is_missed(subject: tuple[Subject, set[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """And so is a fault that changes nothing: none is counted as caught by rule."""
    bundle, _ = subject
    nothing = [Fault(f"nothing changed in {graph}", lambda folder: None, graph) for graph in ("step", "scorer", "")]
    monkeypatch.setattr(plant, "catalogue", lambda *_: nothing)
    outcome = Outcome()
    plant_all(bundle, outcome)
    names = [f"{bundle.variant} {bundle.precision}, {fault.name}" for fault in nothing]
    assert outcome.summary() == {"planted": 3, "caught": 0, "missed": names}


def test_the_catalogue_has_at_least_forty_faults_of_each_kind_of_bundle(subject: tuple[Subject, set[str]]) -> None:
    names = [fault.name for fault in subject[0].faults()]
    assert len(names) >= 40
    assert len(set(names)) == len(names)


def test_a_half_is_rounded_to_even_in_every_loop_of_graphs_that_take_no_state(tmp_path: Path) -> None:
    (sound,) = tiny_subjects("bilstm", ["int8"], QUICK, tmp_path)
    edges.halves(Comparison(sound.reference, Graphs(sound.folder)))
    faults = [fault for fault in sound.faults() if "rounding half up" in fault.name]
    assert len(faults) == 5
    for fault in faults:
        folder = tmp_path / fault.name
        shutil.copytree(sound.folder, folder)
        fault.plant(folder)
        with pytest.raises(VerificationError):
            edges.halves(Comparison(sound.reference, Graphs(folder)))


def test_a_half_is_found_where_the_state_reaches_a_rounding_through_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(CHECKOUT)
    params = read_params(["mamba2"], small=True).model_copy(update={"verify": QUICK.verify})
    (sound,) = tiny_subjects("mamba2", ["int8"], params, tmp_path)
    (fault,) = (each for each in sound.faults() if each.name == "step.onnx: rounding half up")
    folder = tmp_path / "planted"
    shutil.copytree(sound.folder, folder)
    fault.plant(folder)
    with pytest.raises(VerificationError):
        edges.halves(Comparison(sound.reference, Graphs(folder)))
