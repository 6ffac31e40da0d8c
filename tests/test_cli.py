"""The command line as a person meets it: real processes, exit statuses, no tracebacks, quick to start."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

import athanor
from athanor.cli import app
from athanor.errors import AthanorError
from athanor.recipe import load

COMMANDS = [
    *("recipe show", "recipe check", "recipe schema", "recipe presets"),
    *("data build", "data extract", "data inspect", "data stats", "data sample", "data diff", "data synthesise"),
    *("data quality train", "data quality eval", "tokenizer train", "tokenizer inspect", "tokenizer compare"),
    *("plan", "plan compare", "plan scale", "plan validate", "dryrun", "calibrate", "launch"),
    *("pretrain", "sft", "rl", "eval"),
    *("generate", "chat", "import", "export", "lab stability", "quickstart", "report"),
]


def run(*words: str, **kwargs) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "COLUMNS": "120", "NO_COLOR": "1", **kwargs.pop("env", {})}
    return subprocess.run(
        [sys.executable, "-m", "athanor", *words], capture_output=True, text=True, timeout=60, env=env, **kwargs
    )


def test_version():
    assert run("--version").stdout.strip() == f"athanor {athanor.__version__}"


def test_help_is_quick_and_does_not_import_torch():
    code = (
        "import sys, athanor.cli\n"
        "try: athanor.cli.app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'transformers', 'tokenizers', 'pyarrow', 'pydantic', 'matplotlib', 'yaml'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    # The best of three: the machine that tests may be busy; processor time is what a start costs.
    costs = []
    for _ in range(3):
        before = time.process_time(), os.times().children_user + os.times().children_system
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        costs.append(os.times().children_user + os.times().children_system - before[1])
        assert done.stdout.splitlines()[-1] == "[]"
    assert min(costs) < 1.0


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command):
    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage" in result.output


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("train: {stpes: 3}\n", "r.yaml:1: unknown key 'stpes' in train\n  → did you mean 'steps'?"),
        ("train: {steps: many}\n", "train.steps is a text: 'many'"),
        ("model: {preset: tiny, num_attention_heads: 3}\n", "num_attention_heads (3) is not a multiple"),
        ("a: [1\n", "not valid YAML"),
        ("", "the recipe is empty"),
        (None, "no such recipe file"),
    ],
)
@pytest.mark.parametrize("command", ["recipe show", "recipe check"])
def test_a_bad_recipe_exits_2_without_a_traceback(tmp_path, command, text, says):
    file = tmp_path / "r.yaml"
    if text is not None:
        file.write_text(text)
    done = run(*command.split(), str(file))
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_debug_shows_the_traceback(tmp_path):
    done = run("--debug", "recipe", "show", str(tmp_path / "none.yaml"))
    assert done.returncode != 0
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("words", [["recipe", "shwo"], ["recipe", "show"], ["--nonsense"], ["recipe", "show", "--out"]])
def test_mistyped_commands_exit_2(words):
    done = run(*words)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_errors_are_red_on_request_and_plain_in_pipes(tmp_path):
    plain = CliRunner().invoke(app, ["recipe", "show", str(tmp_path / "none.yaml")], env={"NO_COLOR": ""}, color=False)
    red = CliRunner().invoke(app, ["recipe", "show", str(tmp_path / "none.yaml")], env={"NO_COLOR": ""}, color=True)
    assert "\x1b[31m" in red.output
    assert "\x1b[" not in plain.output


def test_show_prints_what_would_run(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text("name: x\nmodel: {preset: tiny}\n")
    done = run("recipe", "show", str(file), "train.steps=7", "seed=3")
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(done.stdout)
    assert load(resolved) == load(file, ["train.steps=7", "seed=3"])


def test_check_reports_every_file_and_fails_for_one(tmp_path):
    for name, text in {"good": "model: {preset: tiny}\n", "bad": "seeed: 1\n", "worse": "a: 1\na: 2\n"}.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    files = [str(tmp_path / f"{name}.yaml") for name in ("good", "bad", "worse")]
    done = run("recipe", "check", *files)
    assert done.returncode == 2
    assert done.stdout == f"{files[0]}: ok, 1.313 M parameters\n"
    assert "did you mean 'seed'?" in done.stderr
    assert "given twice" in done.stderr
    assert run("recipe", "check", files[0], "seed=2").returncode == 0
    assert run("recipe", "check", "seed=2").returncode == 2


def test_schema_is_json(tmp_path):
    assert json.loads(run("recipe", "schema").stdout)["title"] == "Recipe"
    out = tmp_path / "schema.json"
    assert run("recipe", "schema", "--out", str(out)).returncode == 0
    assert json.loads(out.read_text())["properties"]["model"]


def test_the_schema_in_the_repository_is_current():
    """Editors read recipes/schema.json (the first line of each recipe names it); `make schema` writes it."""
    from pathlib import Path

    stored = Path(athanor.__file__).parents[1] / "recipes" / "schema.json"
    assert stored.read_text(encoding="utf-8") == run("recipe", "schema").stdout, "run: make schema"


def test_an_unwritable_path_is_told_without_a_traceback(tmp_path):
    (tmp_path / "file").write_text("")
    done = run("recipe", "schema", "--out", str(tmp_path / "file" / "schema.json"))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "file/schema.json" in done.stderr


def test_a_closed_pipe_is_not_a_traceback(tmp_path):
    words = f"{sys.executable} -m athanor recipe schema | head -c 10"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr


def test_ctrl_c_exits_130_with_a_word():
    code = (
        "import athanor.cli, athanor.commands.recipe as r, signal, time, sys\n"
        # a shell that runs the tests in the background starts them with SIGINT ignored
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def wait(*a): print('ready', flush=True); time.sleep(30)\n"
        "import athanor.recipe; athanor.recipe.dump = wait; r.load_recipe = wait\n"
        "sys.argv = ['athanor', 'recipe', 'show', 'x.yaml']; athanor.cli.main()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "stopped" in err
    assert "Traceback" not in err


def test_bugs_keep_their_traceback(monkeypatch):
    """Only bad input is told briefly: an error of the program itself must stay visible."""
    monkeypatch.setattr("athanor.commands.recipe.load_recipe", lambda *a: 1 / 0)
    assert isinstance(CliRunner().invoke(app, ["recipe", "show", "x"]).exception, ZeroDivisionError)


def test_error_text_has_what_where_and_fix():
    error = AthanorError("the what", where="r.yaml:3", fix="the fix")
    assert str(error) == "r.yaml:3: the what\n  → the fix"
    assert str(AthanorError("the what")) == "the what"


LIFE = """
name: life
model: {preset: tiny, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, vocab_size: 300}
tokenizer: {vocab_size: 300}
data: {sources: {sums: {kind: arithmetic, documents: 60}}}
train: {seq_len: 128, global_batch_tokens: 256, steps: 2, tensorboard: false}
sft:
  sources: {sums: {kind: arithmetic, documents: 20}}
  train: {seq_len: 128, global_batch_tokens: 256, steps: 1, tensorboard: false}
rl:
  sources: {sums: {kind: arithmetic, documents: 8}}
  prompts_per_step: 2
  group_size: 2
  max_new_tokens: 4
  train: {seq_len: 128, steps: 1, tensorboard: false}
eval: {questions: 4, max_new_tokens: 4}
"""


def test_a_whole_life_by_commands(tmp_path):
    """Every stage takes a model directory and leaves one; the last loads, exports and speaks."""
    (tmp_path / "r.yaml").write_text(LIFE)
    at = {name: str(tmp_path / name) for name in ("r.yaml", "data", "pretrain", "sft", "rl", "eval", "hf", "back")}
    for words in (
        f"tokenizer train {at['r.yaml']} --out {at['data']}",
        f"data build {at['r.yaml']} --out {at['data']}",
        f"pretrain {at['r.yaml']} --data {at['data']} --out {at['pretrain']}",
        f"sft {at['r.yaml']} --model {at['pretrain']}/model --out {at['sft']}",
        f"rl {at['r.yaml']} --model {at['sft']}/model --out {at['rl']}",
        f"eval {at['r.yaml']} --model {at['rl']}/model --out {at['eval']} seed=1",
        f"export {at['rl']}/model {at['hf']}",
        f"import {at['hf']} {at['back']} --dtype bf16",
        f"generate {at['back']} --prompt 1+1= --max-new-tokens 2",
        f"report {at['pretrain']}",
    ):
        result = CliRunner().invoke(app, words.split())
        assert result.exit_code == 0, f"{words}: {result.output} {result.exception!r}"
    assert (tmp_path / "pretrain" / "report.html").is_file()
    assert json.loads((tmp_path / "eval" / "eval.json").read_text())["seed"] == 1
    other = CliRunner().invoke(app, ["pretrain", at["r.yaml"], "--data", at["data"], "--out", at["pretrain"], "seed=1"])
    assert other.exit_code == 2
    assert "another recipe" in other.output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("pretrain R --out O data.sources={}", "the recipe names no source"),
        ("sft R --model NOWHERE --out O", "NOWHERE"),
        ("eval R --model NOWHERE --out O", "NOWHERE"),
        ("generate NOWHERE --prompt x", "NOWHERE"),
        ("chat NOWHERE", "NOWHERE"),
        ("export NOWHERE O", "NOWHERE"),
        ("import NOWHERE O", "NOWHERE"),
        ("report NOWHERE", "NOWHERE"),
        ("lab stability layer=3 --out O", "did you mean 'layers'?"),
        ("lab stability --lrs fast --out O", "'fast' is not a learning rate"),
        ("lab stability --lrs 0 --out O", "trains nothing"),
        ("lab stability --archs pre+huge --out O", "pre+huge"),
    ],
)
def test_bad_input_of_every_command_exits_2(tmp_path, words, says):
    (tmp_path / "r.yaml").write_text(LIFE)
    names = {"R": str(tmp_path / "r.yaml"), "O": str(tmp_path / "out"), "NOWHERE": str(tmp_path / "nowhere")}
    result = CliRunner().invoke(app, [names.get(word, word) for word in words.split()])
    assert result.exit_code == 2, f"{result.output} {result.exception!r}"
    assert names.get(says, says) in result.output
