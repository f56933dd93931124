"""What an ONNX file is asked before onnxruntime loads it: no weights in another file, and no file breaks the reader."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from recurlm.errors import InputError
from recurlm.runtime.session import check_graph_file

Fields = tuple[Any, ...]


def paths_to_tensors(message: Any, above: tuple[str, ...] = ()) -> Iterator[Fields]:
    """The fields that lead from a message to a tensor, by the description of the format that comes with onnx."""
    for field in message.fields:
        if field.message_type is None or field.message_type.name in above:
            continue
        if field.message_type.name == "TensorProto":
            yield (field,)
        for below in paths_to_tensors(field.message_type, (*above, field.message_type.name)):
            yield (field, *below)


PATHS = list(paths_to_tensors(onnx.ModelProto.DESCRIPTOR))


def with_tensor(path: Fields) -> tuple[onnx.ModelProto, TensorProto]:
    """A model with a tensor at one place."""
    model = onnx.ModelProto(ir_version=8)
    message: Any = model
    for field in path:
        inner = getattr(message, field.name)
        message = inner.add() if hasattr(inner, "add") else inner
    message.CopyFrom(helper.make_tensor("weights", TensorProto.FLOAT, [1], [0.5]))
    return model, message


def varint(number: int, least: int = 1) -> bytes:
    """A number in groups of 7 bits, in `least` bytes or more."""
    groups = [number >> shift & 0x7F for shift in range(0, max(number.bit_length(), 7 * least), 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


def along(path: Fields, tags: Iterable[bytes]) -> bytes:
    """A model with a tensor at one place whose weights lie in another file, with these tags on the way."""
    content = TensorProto(data_location=TensorProto.EXTERNAL).SerializeToString()
    for _, tag in reversed([*zip(path, tags, strict=True)]):
        content = tag + varint(len(content)) + content
    return content


def check(folder: Path, content: bytes) -> None:
    file = folder / "step.onnx"
    file.write_bytes(content)
    check_graph_file(file)


def refusal(folder: Path, content: bytes) -> str | None:
    try:
        check(folder, content)
    except InputError as error:
        return str(error)
    return None


def test_weights_in_another_file_are_refused_wherever_a_model_may_have_tensors(tmp_path: Path) -> None:
    assert len(PATHS) > 20
    for path in PATHS:
        model, tensor = with_tensor(path)
        check(tmp_path, model.SerializeToString())
        tensor.data_location = TensorProto.EXTERNAL
        with pytest.raises(InputError, match=r"^\S+step\.onnx: its weights lie in another file"):
            check(tmp_path, model.SerializeToString())
        tensor.ClearField("data_location")
        tensor.external_data.add(key="location", value="outside.bin")
        with pytest.raises(InputError, match=r"^\S+step\.onnx: its weights lie in another file"):
            check(tmp_path, model.SerializeToString())


def test_graphs_within_graphs_are_read_to_a_bounded_depth(tmp_path: Path) -> None:
    def nested(depth: int) -> bytes:
        graph = onnx.GraphProto()
        for _ in range(depth):
            node = onnx.NodeProto()
            node.attribute.add().g.CopyFrom(graph)
            graph = onnx.GraphProto(node=[node])
        return onnx.ModelProto(graph=graph).SerializeToString()

    check(tmp_path, nested(20))
    with pytest.raises(InputError, match="not an ONNX file"):
        check(tmp_path, nested(22))  # three messages each


def test_a_file_that_was_cut_off_is_refused_or_a_smaller_model(tmp_path: Path) -> None:
    model, _ = with_tensor(PATHS[0])
    content = model.SerializeToString()
    for size in range(len(content)):
        message = refusal(tmp_path, content[:size])
        if message is None:
            onnx.ModelProto().ParseFromString(content[:size])
        else:
            assert message.endswith("step.onnx: not an ONNX file: download or export it again")
    assert refusal(tmp_path, content[:-1])


@given(st.binary(max_size=200))
def test_any_bytes_are_a_model_or_one_clear_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    assert "\n" not in (refusal(tmp_path_factory.getbasetemp(), content) or "")


def test_a_number_has_ten_bytes_at_most(tmp_path: Path) -> None:
    version = b"\x08"  # the field before the number
    assert refusal(tmp_path, version + b"\xff" * 9 + b"\x01") is None  # −1
    assert "not an ONNX file" in str(refusal(tmp_path, version + b"\x80" * 10 + b"\x01"))


def test_no_tag_is_another_field_for_onnxruntime(tmp_path: Path) -> None:
    """It keeps the low 32 bits of a tag, of at most five bytes: 0x10000003A is a model's graph to it."""
    for path in PATHS:
        usual = [field.number << 3 | 2 for field in path]
        assert "lie in another file" in str(refusal(tmp_path, along(path, map(varint, usual))))
        for place in range(len(path)):
            for tag, message in (
                (varint(usual[place], 5), "lie in another file"),
                (varint(usual[place] + (1 << 32)), "not an ONNX file"),
                (varint(usual[place] + (7 << 32)), "not an ONNX file"),
                (varint(usual[place], 6), "not an ONNX file"),
                (varint(usual[place] + (1 << 40)), "not an ONNX file"),
            ):
                tags = [varint(number) if at != place else tag for at, number in enumerate(usual)]
                assert message in str(refusal(tmp_path, along(path, tags))), (path, place, tag)


def test_no_field_has_the_number_0(tmp_path: Path) -> None:
    assert "not an ONNX file" in str(refusal(tmp_path, b"\x02\x00"))
    assert "not an ONNX file" in str(refusal(tmp_path, b"\x00\x00"))
