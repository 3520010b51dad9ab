"""A node of its own with something in it, and a browser."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Chromium, Page

LIMIT_S = 60


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--corelog", required=True, help="the binary")
    parser.addoption("--chromium", required=True, help="the browser")
    parser.addoption("--scratch", required=True, help="a folder on a real disk")
    parser.addoption("--pictures", help="a folder for pictures of each view")


class Node:
    """A node in a process of its own, and `corelog` against it."""

    def __init__(self, binary: str, folder: Path, listen: str = "127.0.0.1:0", http: str = "127.0.0.1:0") -> None:
        self.binary = binary
        self.folder = folder
        environment = {
            **os.environ,
            "CORELOG_GROUPS_INITIAL_REBALANCE_DELAY_MS": "0",
            "CORELOG_GROUPS_OFFSETS_TOPIC_PARTITIONS": "4",
        }
        self.process = subprocess.Popen(
            [binary, "serve", "--listen", listen, "--http", http, "--shards", "2", "--data-dir", folder / "data"],
            stdout=subprocess.PIPE,
            stderr=(folder / "log").open("ab"),
            text=True,
            env=environment,
        )
        line = self.process.stdout.readline()
        assert line.startswith("listening on "), (folder / "log").read_text()
        addresses = (folder / "data/corelog.addresses").read_text()
        self.bootstrap = re.search(r"^kafka=(.*)$", addresses, re.MULTILINE)[1]
        self.http = re.search(r"^http=(.*)$", addresses, re.MULTILINE)[1]
        self.url = f"http://{self.http}/console"

    def run(self, *arguments: str, given: bytes = b"") -> str:
        done = subprocess.run(
            [self.binary, *arguments, "--bootstrap", self.bootstrap],
            input=given,
            capture_output=True,
            timeout=LIMIT_S,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://{self.http}{path}", timeout=LIMIT_S) as answer:
            return answer.read()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            assert self.process.wait(LIMIT_S) == 0
        self.process.stdout.close()


@pytest.fixture
def binary(request: pytest.FixtureRequest) -> str:
    return request.config.getoption("--corelog")


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=request.config.getoption("--scratch")) as folder:
        yield Path(folder)


@pytest.fixture
def node(binary: str, folder: Path) -> Iterator[Node]:
    node = Node(binary, folder)
    yield node
    node.stop()


@pytest.fixture(scope="session")
def browser(request: pytest.FixtureRequest) -> Iterator[Chromium]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Chromium(request.config.getoption("--chromium"), Path(profile))
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Chromium) -> Iterator[Page]:
    page = browser.page()
    yield page
    page.close()


@pytest.fixture
def pictures(request: pytest.FixtureRequest) -> Path | None:
    folder = request.config.getoption("--pictures")
    return Path(folder) if folder else None
