"""Streaming whole characters, conversations, and the two commands with piped input."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from athanor.errors import AthanorError
from athanor.inference import commands
from athanor.inference.chat import TEXTS, Conversation, chat_loop, ui_language
from athanor.inference.engine import generate
from athanor.inference.sampling import GREEDY, Sampling
from athanor.inference.session import Speaker, whole_characters
from athanor.model.hf import save_model_dir
from athanor.tokenizer.tokenizer import Tokenizer
from athanor.tokenizer.train import train_tokenizer
from tests.inference.small import small_decoder


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["the cat sat on the mat, the cat ran", "小明有三个苹果，小红有三个苹果"] * 3, 280)


@pytest.fixture(scope="module")
def speaker(tokenizer: Tokenizer) -> Speaker:
    return Speaker(small_decoder(vocab_size=280, max_position_embeddings=96), tokenizer)


@pytest.fixture(scope="module")
def model_dir(speaker: Speaker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chat") / "model"
    save_model_dir(speaker.model, path)
    speaker.tokenizer.save(path)
    return path


def test_split_characters_come_out_whole(tokenizer: Tokenizer) -> None:
    text = "龘 means 龍行龘龘 😀 — é, done 苹果"
    ids = tokenizer.encode(text)
    assert len(ids) > len(text), "the text must be split below characters for this test to mean anything"
    pieces = list(whole_characters(ids, tokenizer))
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert len(pieces) > 10


def test_a_cut_character_is_shown_at_the_end_and_specials_never(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("好龘")[:-1]
    assert "".join(whole_characters(ids, tokenizer)) == tokenizer.decode(ids)
    assert "".join(whole_characters(ids, tokenizer)).startswith("好\ufffd")
    assert "".join(whole_characters([*tokenizer.encode("a"), tokenizer.special("end")], tokenizer)) == "a"


def test_stream_text_equals_generate(speaker: Speaker) -> None:
    prompt = speaker.tokenizer.encode("the cat")
    ids = generate(speaker.model, [prompt], Sampling(seed=2), speaker.stop_ids, 40)[0].ids
    assert "".join(speaker.stream_text(prompt, Sampling(seed=2), 40)) == speaker.tokenizer.decode(ids)
    assert speaker.tokenizer.special("end") in speaker.stop_ids


def test_turns_follow_the_chat_template(speaker: Speaker) -> None:
    talk = Conversation(speaker, GREEDY, 6, system="be brief")
    first = "".join(talk.reply("hi"))
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    ids = speaker.tokenizer.render_chat(messages, add_generation_prompt=True)
    assert first == speaker.tokenizer.decode(generate(speaker.model, [ids], GREEDY, speaker.stop_ids, 6)[0].ids)
    assert talk.messages == [messages[1], {"role": "assistant", "content": first}]
    assert talk.cut
    talk.reset()
    assert "".join(talk.reply("hi")) == first


def test_without_memory_every_turn_is_the_first(speaker: Speaker) -> None:
    talk = Conversation(speaker, GREEDY, 6, memory=False)
    first = "".join(talk.reply("the cat"))
    list(talk.reply("hi"))
    assert "".join(talk.reply("the cat")) == first
    assert [message["content"] for message in talk.messages] == ["the cat", first]


def test_old_turns_are_left_out_and_counted(speaker: Speaker) -> None:
    talk = Conversation(speaker, GREEDY, 8)
    for _ in range(12):
        list(talk.reply("the cat sat"))
    assert talk.forgotten > 0
    assert talk.forgotten % 2 == 0
    with pytest.raises(AthanorError, match="more than the context"):
        list(talk.reply("x y z " * 60))
    assert talk.messages[-2]["content"] == "the cat sat", "a refused question does not join the conversation"


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_loop_commands(speaker: Speaker, lang: str) -> None:
    texts, out = TEXTS[lang], io.StringIO()  # type: ignore[index]
    lines: Iterator[str] = iter(["hi", "", "/what now", "/help", "/reset", "x " * 200, "/exit", "never read"])
    talk = Conversation(speaker, GREEDY, 4)
    chat_loop(talk, "m", lang, lambda prompt: next(lines), out)  # type: ignore[arg-type]
    said = out.getvalue()
    assert texts["hello"].format(model="m") in said
    assert texts["unknown"].format(command="/what") in said
    for key in ("help", "reset", "bye", "cut"):
        assert texts[key] in said
    assert "more than the context" in said
    assert next(lines) == "never read"
    assert talk.messages == []


def test_language_follows_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LC_ALL", "LC_MESSAGES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    assert ui_language() == "zh"
    assert ui_language("en") == "en"
    monkeypatch.setenv("LANG", "C.UTF-8")
    assert ui_language() == "en"
    with pytest.raises(AthanorError, match="'fr'"):
        ui_language("fr")
    assert TEXTS["en"].keys() == TEXTS["zh"].keys()


def _run(*words: str, stdin: str = "") -> str:
    app = typer.Typer()
    commands.register(app)
    result = CliRunner().invoke(app, list(words), input=stdin, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_chat_command_on_a_pipe(model_dir: Path) -> None:
    said = _run("chat", str(model_dir), "--lang", "zh", "-n", "4", "--device", "cpu", stdin="你好\n/reset\n小明\n")
    assert said.count(TEXTS["zh"]["model"]) == 2
    assert TEXTS["zh"]["you"] + "你好" in said
    assert TEXTS["zh"]["reset"] in said
    assert said.rstrip().endswith(TEXTS["zh"]["bye"])


def test_generate_command(model_dir: Path, speaker: Speaker) -> None:
    prompt = speaker.tokenizer.encode("the cat")
    ids = generate(speaker.model, [prompt], GREEDY, speaker.stop_ids, 5)[0].ids
    text = speaker.tokenizer.decode(ids)
    assert _run("generate", str(model_dir), "-p", "the cat", "-n", "5", "--device", "cpu") == text + "\n"
    assert _run("generate", str(model_dir), "-n", "5", "--device", "cpu", stdin="the cat\n") == text + "\n"
    both = _run("generate", str(model_dir), "-p", "the cat", "-p", "小明", "-n", "5", "--device", "cpu")
    assert f"the cat\n→ {text}\n" in both
    asked = _run("generate", str(model_dir), "--chat", "-p", "the cat", "-n", "5", "--device", "cpu")
    assert asked != text + "\n"
    with pytest.raises(AthanorError, match="the prompt is empty"):
        _run("generate", str(model_dir), stdin="")


def test_what_is_no_utf8_is_said(model_dir: Path) -> None:
    """In a pipe that Python would read strictly, too; the conversation goes on."""

    def asked(*words: str, stdin: bytes) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "athanor", *words, "-n", "3", "--device", "cpu"]
        environment = os.environ | {"PYTHONIOENCODING": "utf-8:strict", "PYTHONUTF8": "0"}
        return subprocess.run(command, input=stdin, capture_output=True, env=environment, check=False)

    talk = asked("chat", str(model_dir), "--lang", "en", stdin=b"a cat\nb\xff\na cat\n/exit\n")
    assert talk.returncode == 0 and talk.stderr == b"" and talk.stdout.count(b"not UTF-8 at character 1") == 1
    assert talk.stdout.count(b"model> ") == 3 and b"Bye" in talk.stdout
    piped = asked("generate", str(model_dir), stdin=b"the \xff")
    assert piped.returncode == 2 and piped.stderr.startswith(b"error: stdin: not UTF-8 at character 4")
    given = asked("generate", str(model_dir), "-p", os.fsdecode(b"the \xff"), stdin=b"")
    assert given.returncode == 2 and b"--prompt: not UTF-8" in given.stderr


def test_what_does_not_fit_is_said(model_dir: Path) -> None:
    app = typer.Typer()
    commands.register(app)
    words = ["generate", str(model_dir), "-p", "the cat", "-n", "500", "--device", "cpu"]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert "room for" in result.stderr
    with pytest.raises(AthanorError, match="no device 'abacus'"):
        _run("generate", str(model_dir), "-p", "a", "--device", "abacus")


def test_tokenizer_of_another_vocabulary_is_refused(model_dir: Path, tmp_path: Path) -> None:
    save_model_dir(small_decoder(), tmp_path / "m")
    Tokenizer.load(model_dir).save(tmp_path / "m")
    with pytest.raises(AthanorError, match="another vocabulary"):
        Speaker.open(tmp_path / "m", device="cpu")
