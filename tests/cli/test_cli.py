"""Promises of the command `recurlm`, kept in processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tiny_bundles import TinyBundles
from tiny_project import CHECKOUT

from recurlm import runtime
from recurlm.cli import streams
from recurlm.cli.streams import Progress
from recurlm.runtime import Filler, Generator, Scorer

Result = subprocess.CompletedProcess[str]
Refuses = Callable[[Result, str], None]

RECURLM = [sys.executable, "-m", "recurlm.cli"]
ENDLESS = ["--prompt", "king", "--temperature", "0", "--max-new-tokens", "1000000000"]

FULL = "recurlm: cannot write to stdout: No space left on device: the output is not complete\n"

# What is left of Python where only numpy, onnxruntime and tokenizers were installed.
BARE = """
import sys

GONE = {"torch", "pydantic", "yaml", "onnx", "jaxtyping", "safetensors", "datasets", "mlflow", "tqdm"}

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in GONE:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
from recurlm import cli
cli.main()
assert "torch" not in sys.modules
"""


@pytest.fixture(scope="module")
def folder(bundles: TinyBundles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with bundles at data/onnx/, like a checkout after the pipeline."""
    root = tmp_path_factory.mktemp("checkout")
    shutil.copytree(bundles("lstm"), root / "data/onnx/lstm/fp32")
    shutil.copytree(bundles("bilstm"), root / "data/onnx/bilstm/fp32")
    return root


@pytest.fixture
def recurlm(folder: Path) -> Callable[..., Result]:
    def run(*arguments: str | Path) -> Result:
        return subprocess.run([*RECURLM, *map(str, arguments)], cwd=folder, capture_output=True, text=True)

    return run


def test_generate_prints_the_prompt_and_what_follows(recurlm: Callable[..., Result], folder: Path) -> None:
    options = "--max-new-tokens 40 --temperature 0.9 --top-k 30 --top-p 0.9 --seed 3"
    result = recurlm("generate", "--variant", "lstm", "--prompt", "the king\nor", *options.split())
    text = Generator.from_bundle(folder / "data/onnx/lstm/fp32").generate("the king\nor", 40, 0.9, 30, 0.9, 3)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"the king\nor{text}".removesuffix("\n") + "\n"


def test_generate_ends_before_a_stop_sequence(recurlm: Callable[..., Result], folder: Path) -> None:
    text = Generator.from_bundle(folder / "data/onnx/lstm/fp32").generate("the king", 40, seed=3)
    stop = text[len(text) // 2 :][:2]
    options = ["--max-new-tokens", "40", "--seed", "3", "--stop", "☃", "--stop", stop]
    result = recurlm("generate", "--variant", "lstm", "--prompt", "the king", *options)
    assert result.stdout.rstrip("\n") == f"the king{text[: text.index(stop)]}".rstrip("\n")


def test_generate_works_without_options(recurlm: Callable[..., Result], bundles: TinyBundles) -> None:
    result = recurlm("generate", "--bundle", bundles("lstm"), "--prompt", "king")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("king")


def test_fill_prints_the_filled_text(recurlm: Callable[..., Result], folder: Path) -> None:
    result = recurlm("fill", "--variant", "bilstm", "to be or ___ to be")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == Filler.from_bundle(folder / "data/onnx/bilstm/fp32").fill("to be or ___ to be") + "\n"


def test_score_prints_json(recurlm: Callable[..., Result], folder: Path) -> None:
    result = recurlm("score", "--variant", "lstm", "--text", "the king", "--json")
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout) == Scorer.from_bundle(folder / "data/onnx/lstm/fp32").score("the king").metrics()


def test_score_prints_lines_that_name_their_units(recurlm: Callable[..., Result], folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("the king\nor the sea\n", encoding="utf-8")
    result = recurlm("score", "--variant", "bilstm", "--file", path)
    assert (result.returncode, result.stderr) == (0, "")
    score = Scorer.from_bundle(folder / "data/onnx/bilstm/fp32").score_file(path)
    lines = dict(line.rsplit(maxsplit=1) for line in result.stdout.splitlines())
    assert lines["pseudo bits per byte"] == f"{score.bits_per_byte:,.4f}"
    assert (lines["protocol"], lines["words"], lines["bytes"]) == ("cloze", "5", "20")


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "--variant", "lstm", "--prompt", "king", "--seed", "1"],
        ["fill", "--variant", "bilstm", "to ___ or"],
        ["score", "--variant", "lstm", "--text", "king", "--json"],
    ],
)
def test_everything_works_where_the_pipeline_is_not_installed(
    folder: Path, recurlm: Callable[..., Result], arguments: list[str]
) -> None:
    bare = subprocess.run([sys.executable, "-c", BARE, *arguments], cwd=folder, capture_output=True, text=True)
    assert (bare.returncode, bare.stderr) == (0, "")
    assert bare.stdout == recurlm(*arguments).stdout


def test_importing_the_runtime_loads_neither_torch_nor_onnxruntime() -> None:
    """Which keeps it fast: each takes longer than all the rest."""
    names = "import sys, recurlm.runtime; print(*({'torch', 'onnxruntime', 'pydantic', 'onnx'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", names], capture_output=True, text=True).stdout == "\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND (see recurlm --help)"),
        (["generat"], "invalid choice: 'generat'"),
        (["generate", "--prompt", "king"], "one of the arguments --variant --bundle is required"),
        (["generate", "--variant", "lstm"], "required: --prompt (see recurlm generate --help)"),
        (
            ["generate", "--variant", "lstm", "--prompt", "king", "--seed", "x"],
            "argument --seed: invalid int value: 'x'",
        ),
        (["generate", "--variant", "lstm", "--prompt", "king", "--hot"], "unrecognized arguments: --hot"),
        (["generate", "--variant", "lsmt", "--prompt", "king"], "variant 'lsmt': did you mean 'lstm'?"),
        (
            ["generate", "--variant", "lstm", "--precision", "int7", "--prompt", "king"],
            "no bundle in 'int7': known: fp32",
        ),
        (["generate", "--variant", "lstm", "--prompt", "king", "--min-p", "2"], "min_p is 2.0: 0 (keeps every token)"),
        (["generate", "--variant", "lstm", "--prompt", "king", "--top-p", "nan"], "top_p is nan: above 0, up to 1"),
        (["generate", "--variant", "lstm", "--prompt", "king", "--seed", "-1"], "seed is -1: 0 or more"),
        (["generate", "--variant", "lstm", "--prompt", "king", "--threads", "0"], "threads is 0"),
        (["serve", "--variant", "lstm", "--port", "0", "--threads", "2000"], "threads is 2000: 1 to"),
        (["generate", "--variant", "bilstm", "--prompt", "king"], "'bilstm' fills masks and cannot generate"),
        (["generate", "--bundle", "data", "--prompt", "king"], "data: no bundle here"),
        (["fill", "--variant", "bilstm", "to be"], "the text has no mask"),
        (["fill", "--variant", "lstm", "to ___"], "'lstm' reads from the left only"),
        (["score", "--variant", "lstm"], "one of the arguments --text --file is required"),
        (["score", "--variant", "lstm", "--text", ""], "the text is empty"),
        (["score", "--variant", "lstm", "--file", "nowhere.txt"], "nowhere.txt: No such file"),
    ],
)
def test_wrong_usage_and_bad_input_get_one_line(
    recurlm: Callable[..., Result], refuses: Refuses, arguments: list[str], message: str
) -> None:
    result = recurlm(*arguments)
    assert result.stdout == ""
    refuses(result, message)


def test_a_folder_without_bundles_says_what_to_do(tmp_path: Path, refuses: Refuses) -> None:
    arguments = [*RECURLM, "score", "--variant", "lstm", "--text", "king"]
    refuses(subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True), "no bundles in data/onnx: run the")


def test_a_variant_before_its_export_names_the_command_that_makes_it(
    folder: Path, tmp_path: Path, refuses: Refuses
) -> None:
    params = (CHECKOUT / "params.yaml").read_text(encoding="utf-8")
    variants = yaml.safe_load(params)["variants"]
    for root in (tmp_path, Path(shutil.copytree(folder, tmp_path / "checkout"))):
        (root / "params.yaml").write_text(params, encoding="utf-8")
        for variant in variants:
            arguments = [*RECURLM, "generate", "--variant", variant, "--prompt", "king", "--precision", "int4"]
            result = subprocess.run(arguments, cwd=root, capture_output=True, text=True)
            refuses(result, f"dvc repro verify@{variant} makes it")
    arguments[arguments.index(variant)] = "gur"
    refuses(subprocess.run(arguments, cwd=root, capture_output=True, text=True), "did you mean 'gru'?")


def test_two_texts_in_a_row_are_told_apart_on_a_terminal(folder: Path) -> None:
    terminal, side = pty.openpty()
    command = f"{shlex.join(RECURLM)} generate --variant lstm --prompt king --max-new-tokens 5 --seed 1"
    with subprocess.Popen(["sh", "-c", f"{command}; {command}"], cwd=folder, stdout=side):
        os.close(side)
        shown = b""
        with contextlib.suppress(OSError):  # the other side was closed
            while part := os.read(terminal, 1000):
                shown += part
    os.close(terminal)
    first, second = shown.decode().replace("\r\n", "\n").removesuffix("\n\n").split("\n\n")
    assert first == second
    assert first.startswith("king")


def test_the_runtimes_docstring_names_a_folder_that_the_pipeline_makes() -> None:
    (folder,) = re.findall(r'from_bundle\("(.+)"\)', str(runtime.__doc__))
    parts = Path(folder).parts
    assert parts[:2] == ("data", "onnx")
    params = yaml.safe_load((CHECKOUT / "params.yaml").read_text(encoding="utf-8"))
    assert parts[2] in params["variants"]
    assert parts[3] in params["export"]["precisions"]


def test_a_prompt_of_broken_bytes_is_refused(folder: Path, refuses: Refuses) -> None:
    arguments = [*RECURLM, "generate", "--variant", "lstm", "--prompt", b"caf\xe9"]
    result = subprocess.run(arguments, cwd=folder, capture_output=True)
    refuses(Result(arguments, result.returncode, "", result.stderr.decode()), "the prompt is not UTF-8")


def test_a_terminal_that_lacks_a_character_shows_a_question_mark(folder: Path) -> None:
    arguments = [*RECURLM, "generate", "--variant", "lstm", "--prompt", "漢 king", "--max-new-tokens", "1"]
    environment = os.environ | {"PYTHONIOENCODING": "latin-1"}
    result = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.startswith(b"? king")


@pytest.mark.parametrize("command", [[], ["generate"], ["fill"], ["score"]])
def test_help_explains_every_option(recurlm: Callable[..., Result], command: list[str]) -> None:
    result = recurlm(*command, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert "usage: recurlm" in result.stdout
    if command:
        assert "recurlm " + command[0] + " --variant" in result.stdout  # an example
        assert "default: " in result.stdout


def test_version_prints_the_version(recurlm: Callable[..., Result]) -> None:
    assert recurlm("--version").stdout == "recurlm 0.1.0\n"


def endless(folder: Path) -> subprocess.Popen[bytes]:
    """A generation that would not end, of which the first text has been read."""
    arguments = [*RECURLM, "generate", "--variant", "lstm", *ENDLESS]
    process = subprocess.Popen(arguments, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.read(20).startswith(b"king")
    return process


def test_a_reader_that_has_seen_enough_ends_it_quietly(folder: Path) -> None:
    process = endless(folder)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(timeout=30) == 141
    assert process.stderr.read() == b""


def test_ctrl_c_ends_it_without_a_traceback(folder: Path) -> None:
    process = endless(folder)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, b"")


# A shell's redirections: each is a way in which stdout or stderr cannot be written to.
@pytest.mark.parametrize(
    ("redirection", "arguments", "status", "message"),
    [
        (
            ">&-",
            "generate --variant lstm --prompt king",
            2,
            "recurlm: stdout is closed: there is nowhere to print to\n",
        ),
        (">&-", "score --variant lstm --text king", 2, "recurlm: stdout is closed: there is nowhere to print to\n"),
        (">/dev/full", "generate --variant lstm --prompt king", 2, FULL),
        (">/dev/full", "score --variant lstm --text king", 2, FULL),
        (">/dev/full", "--help", 2, FULL),
        ("2>&-", "generate --variant lsmt --prompt king", 2, ""),
        ("2>&-", "generat", 2, ""),
        ("2>/dev/full", "generat", 2, ""),
        (">&- 2>&-", "generate --variant lstm --prompt king", 2, ""),
        ("<&- 2>&- >/dev/null", "generate --variant lstm --prompt king", 0, ""),
    ],
)
def test_a_file_that_cannot_be_written_to_ends_it_with_one_line(
    folder: Path, redirection: str, arguments: str, status: int, message: str
) -> None:
    command = f"exec {shlex.join(RECURLM)} {arguments} {redirection}"
    result = subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True)
    assert (result.returncode, result.stderr, result.stdout) == (status, message, "")


# Ctrl-C while a module is imported: the first of our own, one of the runtime's, and one in C++, which reports it so.
INTERRUPTED = """
import sys

module = sys.argv[1]

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == module and name == "onnxruntime":
            raise ImportError("initialization failed") from KeyboardInterrupt()
        if name == module:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
sys.argv = ["recurlm", *sys.argv[2:]]
import runpy
runpy.run_module("recurlm.cli", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("module", ["recurlm.cli.commands", "recurlm.errors", "argparse", "numpy", "onnxruntime"])
def test_ctrl_c_during_the_start_ends_it_without_a_traceback(folder: Path, module: str) -> None:
    arguments = ["generate", "--variant", "lstm", "--prompt", "king"]
    code = [sys.executable, "-c", INTERRUPTED, module, *arguments]
    result = subprocess.run(code, cwd=folder, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_is_shown_where_stderr_is_no_terminal_too(
    bundles: TinyBundles, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: bool
) -> None:
    monkeypatch.setattr(streams, "LINE_SECONDS", 0.0)
    monkeypatch.setattr(streams, "TERMINAL_SECONDS", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    Filler.from_bundle(bundles("bilstm")).fill("to be ___ not ___ be", progress=Progress("masks"))
    shown = capsys.readouterr().err
    if terminal:
        assert shown.endswith("\r\033[K")
        shown = shown.removesuffix("\r\033[K").replace("\r\033[K", "\n").lstrip("\n") + "\n"
    lines = [re.fullmatch(r" *(\d+)% of 2 masks, \d+ s left", line) for line in shown.splitlines()]
    assert all(lines)
    done = [int(line[1]) for line in lines if line]
    assert done == sorted(done)
    assert (done[0], done[1]) == (25, 50)
    assert done[-1] < 100


def test_a_terminal_shows_how_far_a_long_file_is(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("the king or the sea\n" * 5_000, encoding="utf-8")
    terminal, side = pty.openpty()
    always = "from recurlm import cli; from recurlm.cli import streams; streams.TERMINAL_SECONDS = 0.0; cli.main()"
    arguments = [sys.executable, "-c", always, "score", "--variant", "lstm", "--file", str(path)]
    process = subprocess.Popen(arguments, cwd=folder, stdout=subprocess.DEVNULL, stderr=side)
    os.close(side)
    shown = b""
    while process.poll() is None or select.select([terminal], [], [], 0)[0]:
        try:
            shown += os.read(terminal, 1000)
        except OSError:  # the other side was closed
            break
    os.close(terminal)
    assert process.wait() == 0
    assert b"% of 0.1 MB, " in shown
    assert shown.endswith(b"\r\x1b[K")
