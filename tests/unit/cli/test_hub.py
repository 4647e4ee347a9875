"""A model's config.json from the hub: its cache, a hub that answers, and one that does not."""

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tandem.cli import hub
from tandem.cli.app import run
from tests.unit.blueprint.configs import GOLDEN

CONFIG = json.dumps(GOLDEN[0].config()).encode()
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SHOW = ["blueprint", "show", "org/model"]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    for name in ("HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    return tmp_path


@pytest.fixture
def served(monkeypatch):
    """A hub that gives one answer: (status, headers, body), or what `body` writes. Keeps what it was asked."""
    servers = []

    def start(status=200, body=CONFIG, **headers):
        asked = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append((self.path, self.headers.get("Authorization")))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                if callable(body):
                    body(self.wfile)
                else:
                    self.wfile.write(body)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        return asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def cache(home, content=CONFIG, ref="main"):
    folder = home / "hub" / "models--org--model"
    for path, text in ((f"refs/{ref}", COMMIT.encode()), (f"snapshots/{COMMIT}/config.json", content)):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(text)


def test_a_repository_is_shown(served, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    asked = served()

    assert run([*SHOW, "--revision", "refs/pr/1"]) == 0
    assert "8,030,261,248" in capsys.readouterr().out
    assert asked == [("/org/model/resolve/refs%2Fpr%2F1/config.json", "Bearer secret")]


def test_the_token_that_the_hubs_own_client_keeps_is_used(served, home):
    (home / "token").write_text("kept\n")
    asked = served()

    assert run(SHOW) == 0
    assert asked[0][1] == "Bearer kept"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"status": 404}, "there is no such repository, or it is not public"),
        ({"status": 401}, "set HF_TOKEN to your access token"),
        ({"status": 404, "X_Error_Code": "RevisionNotFound"}, "the repository has no such revision"),
        ({"status": 404, "X_Error_Code": "EntryNotFound"}, "the repository has no such file"),
        ({"status": 403, "X_Error_Code": "GatedRepo"}, "its owner asks for an agreement first"),
        ({"status": 503}, "the hub answered 503"),
        ({"body": b"{"}, "org/model: config.json:1:2: malformed JSON"),
        ({"body": b"\xff"}, "this is no text in UTF-8"),
        ({"body": b" " * (4 * 2**20 + 1)}, "the file is too large"),
        ({"body": gzip.compress(b" " * 10**8), "Content_Encoding": "gzip"}, "this is no text in UTF-8"),
        ({"Content_Length": "1000000"}, "it cannot be reached"),
        ({"status": 302, "Location": "http://127.0.0.1:1/"}, "it cannot be reached"),
    ],
    ids=range(12),
)
def test_what_the_hub_says_is_told_once_and_at_once(served, capsys, answer, said):
    asked = served(**answer)

    assert run(SHOW) == 1
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == len(asked) == 1


def test_an_answer_without_end_is_not_read_to_the_end(served, capsys):
    def endless(file):
        try:
            while True:
                file.write(b" " * 65536)
        except OSError:
            pass

    served(body=endless)

    assert run(SHOW) == 1
    assert "the file is too large" in capsys.readouterr().err


def test_an_answer_that_does_not_come_ends_in_time(served, capsys, monkeypatch):
    over = threading.Event()
    monkeypatch.setattr(hub, "TOTAL_SECONDS", 0.2)
    served(body=lambda _file: over.wait(60))

    assert run(SHOW) == 1
    over.set()
    assert "no answer in time" in capsys.readouterr().err


def test_without_a_network_it_is_said_what_to_do(capsys):
    assert run(SHOW) == 1
    error = capsys.readouterr().err

    assert "it cannot be reached: connect" in error.lower()
    assert "use a copy of the model's files" in error


def test_without_a_network_the_cache_is_used(home, capsys):
    cache(home)

    assert run(SHOW) == 0
    assert "8,030,261,248" in capsys.readouterr().out


def test_offline_only_the_cache_is_asked(served, home, capsys, monkeypatch):
    asked = served()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    assert run(SHOW) == 1
    assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err
    cache(home)
    assert run(SHOW) == 0
    assert run([*SHOW, "--revision", "other"]) == 1
    assert not asked


def test_a_commit_that_is_cached_is_not_asked_for_again(served, home):
    asked = served()
    cache(home)

    assert run([*SHOW, "--revision", COMMIT]) == 0
    assert not asked


@pytest.mark.parametrize("revision", ["../../../../etc/passwd", "a\0b", "x" * 5000], ids=len)
def test_a_revision_that_is_none_reaches_nothing_on_this_machine(revision, capsys):
    assert run([*SHOW, "--revision", revision]) == 1
    assert "error: org/model" in capsys.readouterr().err
