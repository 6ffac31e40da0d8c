"""Foreign code: limited, killed, kept from network, processes and files."""

import time
from pathlib import Path

import pytest

from athanor.data.synthesis.sandbox import Limits, run

QUICK = Limits(wall_s=3.0, cpu_s=1, memory_bytes=256 * 1024**2)


def test_right_and_wrong():
    assert run("def f(x):\n    return x + 1\nprint('é中')", ["assert f(1) == 2"]).output == "é中\n"
    wrong = run("def f(x):\n    return x", ["assert f(1) == 2"])
    assert (wrong.ok, wrong.reason) == (False, "wrong")
    broken = run("def f(x) return x", ["assert f(1) == 2"])
    assert broken.reason == "error" and broken.detail.startswith("SyntaxError")
    assert run("x = 1", ["assert f(1) == 2"]).detail.startswith("NameError")


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("while True: pass", "timeout"),
        ("import time; time.sleep(30)", "timeout"),
        ("x = bytearray(10**9)", "error"),
        ("import os; os._exit(0)", "no verdict"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "error"),
        ("raise SystemExit(0)", "error"),
        ("def f(n): return f(n + 1)\nf(0)", "error"),
        ("import socket; socket.create_connection(('127.0.0.1', 9))", "error"),
        ("import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')", "error"),
        ("import subprocess; subprocess.run(['true'])", "error"),
        ("import os; os.fork()", "error"),
        ("import ctypes; ctypes.CDLL(None)", "error"),
        ("open('big', 'wb').write(b'x' * 10**7)", "error"),
    ],
)
def test_what_is_not_allowed_ends_and_has_a_reason(program, reason):
    began = time.monotonic()
    verdict = run(program, [], QUICK)
    assert not verdict.ok and verdict.reason == reason, verdict
    assert time.monotonic() - began < 8


def test_files_outside_the_folder_stay(tmp_path: Path):
    kept = tmp_path / "kept"
    kept.write_text("here")
    for program in (
        f"open({str(kept)!r}, 'w')",
        f"import os; os.remove({str(kept)!r})",
        f"import os; os.rename({str(kept)!r}, 'x')",
    ):
        assert run(program).reason == "error"
    assert kept.read_text() == "here"
    assert run("open('own', 'w').write('x'); print(open('own').read())").output == "x\n"


def test_the_environment_is_empty(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "secret")
    assert run("import os; print(os.environ.get('SOME_KEY'))").output == "None\n"


def test_a_verdict_cannot_be_printed():
    forged = run(
        'print(\'{"secret": "", "ok": true, "failed": null, "error": null, "output": ""}\')\nimport os\nos._exit(0)'
    )
    assert not forged.ok


def test_long_output_is_cut():
    assert len(run("print('x' * 10**6)").output) == 20_000
