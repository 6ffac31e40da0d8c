"""Starting ranks, joining them, and telling who failed: plain processes where torch is not needed, as that is quick."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import athanor.parallel.launch as launch
from athanor.cli import app
from athanor.commands.launch import _logs as logs_of
from athanor.errors import AthanorError
from athanor.parallel.supervise import Node, how_it_ended, start_processes
from tests.parallel.ranks import run_ranks

ROOT = Path(__file__).parents[2]


PRELUDE = """
import os, signal, sys, time
R = int(os.environ['RANK'])
def path(rank): return FOLDER + f'/pid-{rank}'
def here():
    with open(path(R) + '.new', 'w') as f: f.write(str(os.getpid()))
    os.rename(path(R) + '.new', path(R))
def wait_for(rank):
    while not os.path.exists(path(rank)): time.sleep(0.02)
def after(rank):  # until it is gone: a busy machine may start ranks in any order
    wait_for(rank)
    try:
        while True: os.kill(int(open(path(rank)).read()), 0); time.sleep(0.02)
    except ProcessLookupError: time.sleep(0.1)
"""


def start(code, tmp_path, nproc=3, grace_s=60.0, **node):
    """Run Python text as every rank after the prelude; how it ended, and seconds since any file of it was written."""
    text = PRELUDE.replace("FOLDER", repr(str(tmp_path))) + code
    ended = start_processes([sys.executable, "-S", "-c", text], Node(nproc, grace_s=grace_s, **node), tmp_path / "logs")
    stamps = [file.stat().st_mtime for file in tmp_path.glob("pid-*")]
    return ended, time.time() - max(stamps, default=0)


# --- starting and watching -------------------------------------------------------------------------------------------


def test_ranks_know_their_place_and_rank_0_has_the_terminal(tmp_path, capfd, monkeypatch):
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "of another launcher")
    names = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE OMP_NUM_THREADS OMP_WAIT_POLICY TORCHELASTIC_RUN_ID"
    ended, _ = start(f"print(*[os.environ.get(n) for n in '{names}'.split()])", tmp_path, nproc=64)
    assert (ended.status, ended.message) == (0, None)
    assert capfd.readouterr().out == "0 0 64 64 1 PASSIVE None\n"
    assert (tmp_path / "logs/rank-63.log").read_text() == "63 63 64 64 1 PASSIVE None\n"
    assert not (tmp_path / "logs/rank-0.log").exists()


def test_what_the_person_set_wins(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    start("print(os.environ['OMP_NUM_THREADS'])", tmp_path, nproc=1)
    assert capfd.readouterr().out == "7\n"


def test_the_second_of_three_machines(tmp_path):
    names = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE GROUP_RANK MASTER_ADDR MASTER_PORT ATHANOR_STORE_FD"
    code = f"print(*[os.environ.get(n) for n in '{names}'.split()])"
    start(code, tmp_path, nproc=2, nnodes=3, node_rank=1, rendezvous=("10.0.0.1", 29500))
    assert (tmp_path / "logs/rank-2.log").read_text() == "2 0 6 2 1 10.0.0.1 29500 None\n"
    assert (tmp_path / "logs/rank-3.log").read_text() == "3 1 6 2 1 10.0.0.1 29500 None\n"


def test_a_failing_rank_is_named_with_its_status_and_last_lines(tmp_path, capfd):
    code = "here()\nfor i in range(50): print('line', i)\nif R == 1: sys.exit(7)\nafter(1); sys.exit(1)"
    ended, _ = start(code, tmp_path)
    assert ended.status == 1
    assert ended.message.startswith("rank 1 failed with exit status 7\n")
    assert f"last lines of {tmp_path}/logs/rank-1.log:\n    line 30\n" in ended.message
    assert ended.message.endswith("    line 49\n  then ranks 0 and 2 failed with exit status 1")
    assert "rank" not in capfd.readouterr().out


def test_ranks_that_go_on_after_a_failure_are_ended(tmp_path):
    """Those that listen by SIGTERM, after the grace period."""
    ended, took = start("here(); R == 2 and os.kill(os.getpid(), 9)\ntime.sleep(60)", tmp_path, grace_s=0.2)
    assert took < 20
    assert ended.status == 1
    assert ended.message.startswith("rank 2 was ended by SIGKILL (is memory short?")
    assert "(it wrote nothing)" in ended.message
    assert ended.message.endswith("then ranks 0 and 1 still ran 0.2 s later and had to be ended")


def test_deaf_ranks_are_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("athanor.parallel.supervise._LAST_CHANCE_S", 0.2)
    code = "signal.signal(signal.SIGTERM, signal.SIG_IGN); here()\nif R == 1: wait_for(0); sys.exit(3)\ntime.sleep(60)"
    ended, took = start(code, tmp_path, nproc=2, grace_s=0.2)
    assert took < 20
    assert ended.message.startswith("rank 1 failed with exit status 3")


def test_a_failing_rank_0_has_said_why(tmp_path):
    ended, _ = start("R == 0 and sys.exit(1)", tmp_path)
    assert ended.message == "rank 0 failed with exit status 1\n  its output is above\n  then ranks 1 and 2 ended well"


def test_bad_input_on_all_ranks_is_told_once(tmp_path, capfd):
    ended, _ = start("print('error: no such file\\n  → another', file=sys.stderr); sys.exit(2)", tmp_path)
    assert (ended.status, ended.message) == (2, None)
    assert capfd.readouterr().err == "error: no such file\n  → another\n"


def test_bad_input_on_one_rank_is_taken_from_its_log(tmp_path):
    code = "here()\nif R == 1: print('noise\\nerror: a.yaml:3: no\\n  → yes'); sys.exit(2)\nafter(1); sys.exit(R == 0)"
    ended, _ = start(code, tmp_path)
    assert (ended.status, ended.message) == (2, "rank 1: a.yaml:3: no\n  → yes")


@pytest.mark.parametrize("seen", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_goes_to_every_rank_once_and_their_status_comes_back(tmp_path, seen):
    code = """
got = []
for n in (signal.SIGINT, signal.SIGTERM): signal.signal(n, lambda n, f: got.append(n))
here()
while not got: time.sleep(0.01)
time.sleep(0.2)
print(got)
sys.exit(128 + got[0])
"""
    # a process that does not load torch, which takes seconds
    text = (
        "import signal, sys; from pathlib import Path\n"
        "from athanor.parallel.supervise import Node, start_processes\n"
        f"command = [sys.executable, '-S', '-c', {PRELUDE.replace('FOLDER', repr(str(tmp_path))) + code!r}]\n"
        f"sys.exit(start_processes(command, Node(3), Path({str(tmp_path / 'logs')!r})).status)\n"
    )
    words = [sys.executable, "-c", text]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, process_group=0)
    while not all((tmp_path / f"pid-{rank}").exists() for rank in range(3)):
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, seen)  # as a terminal does: to the whole group of the launcher
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + seen
    assert out == f"[{int(seen)}]\n" == (tmp_path / "logs/rank-2.log").read_text()


def test_how_ranks_end_in_words():
    assert how_it_ended(-signal.SIGSEGV) == "was ended by SIGSEGV"
    assert how_it_ended(-63) == "was ended by signal 63"


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--nproc 2", "Missing argument"),
        ("--nproc 0 -- pretrain r.yaml", "greater than or equal to 1"),
        ("--nproc 2 --nnodes 2 -- pretrain r.yaml", "--rdzv HOST:PORT, the same on all"),
        ("--nnodes 2 --node-rank 2 --rdzv h:1 -- pretrain r.yaml", "--node-rank 2 of 2 machines\n  → 0 to 1"),
        ("--nnodes 2 --rdzv host -- pretrain r.yaml", "--rdzv: 'host' is no HOST:PORT"),
        ("--nnodes 2 --rdzv host:70000 -- pretrain r.yaml", "--rdzv: 'host:70000' is no HOST:PORT"),
        ("--nproc 2 -- launch pretrain", "launch cannot launch itself"),
    ],
)
def test_bad_command_lines(words, says):
    result = CliRunner().invoke(app, ["launch", *words.split()], env={"NO_COLOR": "1", "COLUMNS": "120"})
    assert result.exit_code == 2
    assert says in result.output


def test_the_command_starts_athanor_and_passes_its_options_on(tmp_path):
    words = ["launch", "--nproc", "2", "recipe", "schema", "--out", str(tmp_path / "s.json")]
    done = subprocess.run(
        [sys.executable, "-m", "athanor", *words], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"wrote {tmp_path}/s.json\n"


def test_logs_lie_in_the_folder_of_the_run():
    assert logs_of(["pretrain", "r.yaml", "--out", "runs/x"]) == Path("runs/x/logs")
    assert logs_of(["sft", "r.yaml", "-o", "runs/x", "--model", "m"]) == Path("runs/x/logs")
    assert logs_of(["rl", "--out=runs/x", "r.yaml"]) == Path("runs/x/logs")
    for command in (["pretrain", "r.yaml"], ["report", "runs/x", "--out", "page.html"], ["rl", "--out"]):
        assert logs_of(command).name == f"athanor-launch-{os.getpid()}"


def test_a_bad_recipe_is_told_once(tmp_path):
    words = ["launch", "--nproc", "2", "--", "recipe", "show", str(tmp_path / "none.yaml")]
    done = subprocess.run(
        [sys.executable, "-m", "athanor", *words], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert done.stderr.count("no such recipe file") == 1
    assert "Traceback" not in done.stderr


# --- joining ---------------------------------------------------------------------------------------------------------

DIES = """
import torch, torch.distributed as dist
from athanor.parallel.launch import agree, join
assert join()
agree({"seed": 3})
assert torch.get_num_threads() == 1
x = torch.ones(4)
dist.all_reduce(x)
print(x.tolist(), flush=True)
if R == 1:
    print("about to die", flush=True)
    here()
    os.kill(os.getpid(), signal.SIGKILL)
dist.all_reduce(x)
time.sleep(60)
"""


def test_a_rank_that_dies_in_a_collective_ends_all_and_is_named(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    text = PRELUDE.replace("FOLDER", repr(str(tmp_path))) + DIES
    ended = start_processes([sys.executable, "-c", text], Node(3, timeout_s=60), tmp_path)
    assert time.time() - (tmp_path / "pid-1").stat().st_mtime < 30
    assert ended.status == 1
    assert ended.message.startswith("rank 1 was ended by SIGKILL")
    assert "    about to die\n" in ended.message
    assert capfd.readouterr().out == "[3.0, 3.0, 3.0, 3.0]\n"


def in_environment(monkeypatch, **values):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))


def test_a_process_on_its_own_joins_nothing(monkeypatch):
    in_environment(monkeypatch)
    assert launch.join() is False
    assert not torch.distributed.is_initialized()
    launch.agree({"seed": 1})
    launch.leave()


def test_a_rank_that_never_comes_is_named(monkeypatch):
    in_environment(monkeypatch, RANK=0, WORLD_SIZE=3, MASTER_ADDR="127.0.0.1", MASTER_PORT=0, OMP_NUM_THREADS=1)
    with pytest.raises(AthanorError, match="rank 0: ranks 1, 2 did not come within 0.5 s"):
        launch.join(timeout_s=0.5)
    assert not torch.distributed.is_initialized()


def test_a_rank_that_cannot_reach_rank_0_says_where(monkeypatch):
    in_environment(monkeypatch, RANK=1, WORLD_SIZE=2, MASTER_ADDR="127.0.0.1", MASTER_PORT=1, OMP_NUM_THREADS=1)
    with pytest.raises(AthanorError, match="rank 1: the group did not .*\n  → .* must reach 127.0.0.1:1, where rank 0"):
        launch.join(timeout_s=1)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"RANK": 0}, "WORLD_SIZE, MASTER_ADDR, MASTER_PORT not set beside RANK"),
        ({"RANK": 2, "WORLD_SIZE": 2, "MASTER_ADDR": "h", "MASTER_PORT": 1}, "RANK 2 of WORLD_SIZE 2"),
        ({"RANK": "x", "WORLD_SIZE": 2, "MASTER_ADDR": "h", "MASTER_PORT": 1}, "RANK is 'x'"),
    ],
)
def test_an_environment_that_does_not_fit(monkeypatch, values, says):
    in_environment(monkeypatch, **values)
    with pytest.raises(AthanorError, match=says):
        launch.join()


def told(recipes, code_of_rank_2=None):
    """What `agree` says on this rank; "" where it agrees."""
    rank = torch.distributed.get_rank()
    if rank == 2 and code_of_rank_2:
        launch._version = lambda: code_of_rank_2  # this process ends with the test
    try:
        launch.agree(recipes[rank])
    except AthanorError as error:
        return str(error)
    return ""


def test_ranks_with_one_recipe_agree():
    assert run_ranks(3, told, [{"seed": 1, "train": {"steps": 3}}] * 3) == [""] * 3


def test_different_recipes_are_told_on_every_rank():
    one, other, third = ({"seed": s, "train": {"steps": n, "lr": 1e-3}} for s, n in ((1, 3), (1, 4), (2, 5)))
    messages = run_ranks(4, told, [one, other, one, third])
    assert len(set(messages)) == 1
    assert messages[0].startswith("ranks 1, 3: not all ranks run the same. Different from rank 0: ")
    assert "rank 1 (rank 0 → rank 1): train.steps: 3 → 4 | rank 3 (" in messages[0]
    assert "rank 3 (rank 0 → rank 3): seed: 1 → 2; train.steps: 3 → 5\n  → start every rank with" in messages[0]


def test_different_code_is_told_on_every_rank():
    messages = run_ranks(3, told, [{"seed": 1}] * 3, {"athanor": "older", "torch": torch.__version__})
    assert len(set(messages)) == 1
    assert messages[0].startswith("rank 2: not all ranks run the same.")
    assert 'version.athanor: "' in messages[0] and '→ "older"' in messages[0]


@pytest.mark.slow
def test_torchrun_restarts_meet_again(tmp_path):
    """The agent's store outlives a restart; with one prefix an attempt the new ranks do not call dead ones."""
    script = tmp_path / "rank.py"
    script.write_text(
        "import os, torch, torch.distributed as dist\n"
        "from athanor.parallel.launch import join, leave\n"
        "assert join(timeout_s=200)\n"
        "x = torch.ones(1); dist.all_reduce(x)\n"
        "if os.environ['TORCHELASTIC_RESTART_COUNT'] == '0' and dist.get_rank() == 1: os._exit(1)\n"
        "dist.all_reduce(x); print('sum', x.item()); leave()\n"
    )
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*words, "--max-restarts", "1", str(script)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("sum 4.0") == 2
