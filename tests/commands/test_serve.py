import os
import re
import signal
import subprocess
import sys
import time

import pytest
from served import ask, small_index

from embedrl.cli import main
from embedrl.commands.serve import TOKEN, is_loopback


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0: others can reach it; give --token, or set EMBEDRL_TOKEN"),
        (["--host", "example.org"], "--host example.org: others can reach it"),
        (["--token", "short"], "--token: give 16 or more ASCII characters"),
        (["--limits.queue", "0"], "--limits.queue is 0: give a number above 0"),
        ([], "no index there"),
    ],
)
def test_wrong_flags_are_one_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.delenv(TOKEN, raising=False)
    assert main(["serve", str(tmp_path / "none.lance"), *words]) != 0
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.0.0.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("192.168.0.2", False), ("localhost.example.org", False)],
)  # fmt: skip
def test_what_only_this_machine_reaches(host, expected):
    assert is_loopback(host) is expected


@pytest.mark.slow
def test_the_command_serves_and_a_signal_ends_it(tmp_path):
    index = small_index(tmp_path)
    words = ["serve", index.store.uri, "--port", "0", "--embedder", "embedrl:world_base", "--device", "cpu"]
    log = tmp_path / "log.txt"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "embedrl", *words], stdout=file, stderr=subprocess.STDOUT, env=os.environ
        )
    try:
        for _ in range(1200):
            match = re.search(r"serving .* \(6 items\) at (http://127\.0\.0\.1:\d+); Ctrl-C stops", log.read_text())
            if match or process.poll() is not None:
                break
            time.sleep(0.1)
        assert match, log.read_text()
        for _ in range(100):
            try:
                assert ask(f"{match[1]}/health")[0] == 200
                break
            except OSError:
                time.sleep(0.1)
        assert ask(f"{match[1]}/search", {"text": "a red star", "k": 2})[0] == 200
        assert ask(f"{match[1]}/health", None, {"host": "evil.example"})[0] == 421
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()
