"""`tandem diff` when the cluster cannot be asked: real connections to what is no API server, or to one that says no."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from tandem.cli.app import run

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "torch-agg.yaml"


def kubeconfig(tmp_path: Path, server: str) -> Path:
    path = tmp_path / "config"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "a",
        "clusters": [{"name": "c", "cluster": {"server": server, "insecure-skip-tls-verify": True}}],
        "contexts": [{"name": "a", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {"token": "hunter2"}}],
    }
    path.write_text(yaml.safe_dump(document))
    return path


def diff(path: Path, *arguments: str) -> int:
    return run(["diff", "-f", str(EXAMPLE), "--kubeconfig", str(path), *arguments])


@contextmanager
def answering(status: int, document: dict) -> Iterator[str]:
    """An HTTP server that answers every request so."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_kubeconfig_that_does_not_exist(tmp_path, capsys):
    assert diff(tmp_path / "nope") == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/nope: this kubeconfig does not exist. Check the path.\n"


def test_a_port_where_nobody_listens(tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        server = f"https://127.0.0.1:{taken.getsockname()[1]}"
        assert diff(kubeconfig(tmp_path, server)) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {server}: it cannot be reached: ")
    assert "Check that the cluster runs" in said
    assert "Connector" not in said


def test_a_server_without_tls_behind_https(tmp_path, capsys):
    with answering(200, {}) as url:
        assert diff(kubeconfig(tmp_path, url.replace("http:", "https:"))) == 2
    assert "it cannot be reached over TLS" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "document", "told"),
    [
        (
            401,
            {"kind": "Status", "reason": "Unauthorized", "message": "Unauthorized"},
            "does not accept these credentials",
        ),
        (
            403,
            {"kind": "Status", "reason": "Forbidden", "message": 'User "x" cannot get resource'},
            'User "x" cannot get resource. Ask for the right',
        ),
        (500, {"kind": "Status", "reason": "InternalError", "message": "etcd is gone"}, "etcd is gone"),
    ],
)
def test_an_api_server_that_says_no(status, document, told, tmp_path, capsys):
    with answering(status, document) as url:
        assert diff(kubeconfig(tmp_path, url)) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.startswith(f"error: {url}: ")
    assert "hunter2" not in said


def test_with_json_it_is_json(tmp_path, capsys):
    assert diff(tmp_path / "nope", "-o", "json") == 2
    (problem,) = json.loads(capsys.readouterr().err)["problems"]
    assert problem["path"] == f"{tmp_path}/nope"
    assert problem["fix"]
