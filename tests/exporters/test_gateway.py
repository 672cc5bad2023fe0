"""The gateway between real sockets: HTTP services behind it, the exporters' server in front."""

import gzip
import http.client
import json
import os
import socket
import socketserver
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest
from prometheus_client import CollectorRegistry

from jobmeter_exporters import gateway as gateway_module
from jobmeter_exporters.errors import ExporterError
from jobmeter_exporters.gateway_endpoints import EndpointFolder, parse_endpoint
from jobmeter_exporters.gateway_upstream import upstream
from jobmeter_exporters.routes import Routes
from jobmeter_exporters.server import ExporterServer
from jobmeter_exporters.settings import Settings
from jobmeter_exporters.watched import NoData

DEADLINE_S = 20.0
TEXT = b"# TYPE up gauge\nup 1\n"
LENGTH = b"Content-Length: %d\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n"


@contextmanager
def service(*said, hold=None):
    """A service that reads one request, says its parts and closes. Yields its port and requests.

    With ``hold`` it waits for that event before it closes.
    """
    requests = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                request += self.rfile.readline()
            requests.append(request.decode())
            with suppress(ConnectionError):
                for part in said:
                    for piece in [part] if isinstance(part, bytes) else part:
                        self.wfile.write(piece)
            if hold is not None:
                assert hold.wait(DEADLINE_S)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Handler) as server:
        loop = threading.Thread(target=server.serve_forever, args=(0.01,))
        loop.start()
        try:
            yield server.server_address[1], requests
        finally:
            if hold is not None:
                hold.set()
            server.shutdown()
            loop.join()


@contextmanager
def serving(password_file=None, **options):
    options = {f"gateway_{name}": value for name, value in options.items()}
    settings = Settings(run_id="r1", password_file=password_file, options=options)
    collector = gateway_module.from_settings(settings)
    with ExporterServer(settings, {"gateway": collector}) as server:
        loop = threading.Thread(target=server.serve_forever, args=(0.01,))
        loop.start()
        try:
            yield server, collector
        finally:
            server.shutdown()
            assert server.finish(DEADLINE_S)
            loop.join()


@contextmanager
def behind_the_gateway(*said, hold=None, **options):
    with (
        service(*said, hold=hold) as (port, requests),
        serving(upstream=[("db", f"http://127.0.0.1:{port}/metrics?a=1")], **options) as (
            server,
            _,
        ),
    ):
        yield server, requests


def get(server, path="/metrics/db", method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE_S)
    try:
        connection.request(
            method, path, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def value(collector, name, **labels):
    registry = CollectorRegistry()
    registry.register(collector)
    return registry.get_sample_value(name, labels)


def test_the_exposition_is_passed_on_as_it_is():
    with behind_the_gateway(OK, LENGTH % len(TEXT), b"Set-Cookie: a\r\n\r\n", TEXT) as (server, _):
        status, headers, body = get(server)
        assert (status, body) == (200, TEXT)
        assert headers["Content-Type"] == "text/plain; version=0.0.4"
        assert headers["Content-Length"] == str(len(TEXT))
        assert "Set-Cookie" not in headers
        status, headers, body = get(server, method="HEAD")
        assert (status, headers["Content-Length"], body) == (200, str(len(TEXT)), b"")


def test_only_two_headers_reach_the_service(tmp_path):
    password = tmp_path / "password"
    password.write_text("secret\n")
    with behind_the_gateway(OK, b"\r\n", TEXT, password_file=password) as (server, requests):
        basic = "Basic am9ibWV0ZXI6c2VjcmV0"
        wanted = {"Accept": "text/plain", "Accept_Encoding": "gzip", "Cookie": "c", "X_Own": "x"}
        assert get(server, **wanted)[0] == 401
        assert requests == []
        assert get(server, Authorization=basic, Connection="X-Own", **wanted)[0] == 200
    lines = requests[0].split("\r\n")
    assert lines[0] == "GET /metrics?a=1 HTTP/1.1"
    names = sorted(line.partition(":")[0].lower() for line in lines[1:] if line)
    assert names == ["accept", "accept-encoding", "connection", "host"]
    assert "am9ib" not in requests[0]


def test_a_service_that_asks_for_a_token_gets_it_and_nobody_else(tmp_path):
    (tmp_path / "key").write_text("t0ken\n")
    with (
        service(OK, b"\r\n", TEXT) as (port, requests),
        serving(endpoints_dir=tmp_path) as (server, collector),
    ):
        told = {"service": "db", "url": f"http://127.0.0.1:{port}/"}
        told["bearer_file"] = str(tmp_path / "key")
        (tmp_path / "db.json").write_text(json.dumps(told))
        assert get(server, Authorization="Basic eDp5")[2] == TEXT
        assert "authorization: Bearer t0ken\r\n" in requests[0]
        assert "Basic" not in requests[0]
        shown = get(server, "/metrics/gateway")[2] + repr(collector._services()).encode()
        assert b"t0ken" not in shown


def test_a_compressed_answer_stays_compressed():
    packed = gzip.compress(TEXT)
    head = OK + b"Content-Encoding: gzip\r\n\r\n"
    with behind_the_gateway(head, packed) as (server, requests):
        status, headers, body = get(server, Accept_Encoding="gzip")
        assert (status, headers["Content-Encoding"], body) == (200, "gzip", packed)
        get(server, Accept_Encoding="identity")
    assert "accept-encoding: gzip" in requests[0]
    assert "accept-encoding: identity" in requests[1]


def test_chunks_are_passed_on():
    head = OK + b"Transfer-Encoding: chunked\r\n\r\n"
    with behind_the_gateway(head, b"5\r\nup 1\n\r\n", b"0\r\n\r\n") as (server, _):
        status, headers, body = get(server)
    assert (status, body) == (200, b"up 1\n")
    assert headers["Transfer-Encoding"] == "chunked"


@pytest.mark.parametrize(
    ("said", "reason", "why"),
    [
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "bad_status", "it answers 404 Not Found"),
        (b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n", "bad_status", "302 Found"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "bad_status", "204"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "bad_answer", "does not answer in HTTP"),
        (b"\x00\xff" * 50_000, "bad_answer", "does not answer in HTTP"),
        (b"", "bad_answer", "does not answer in HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>", "bad_answer", "text/html"),
        (OK + b"X: y\r\n" * 200 + b"\r\n", "bad_answer", "does not answer in HTTP"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "broken_off", "broke off"),
    ],
)
def test_what_is_no_exposition_is_502_with_the_reason(said, reason, why):
    with service(said) as (port, requests):
        upstreams = [("db", f"http://127.0.0.1:{port}/metrics")]
        with serving(upstream=upstreams) as (server, collector):
            status, _, body = get(server)
            assert status == 502
            assert body.startswith(f"db at http://127.0.0.1:{port}/metrics: ".encode())
            assert why in body.decode()
            assert len(requests) == 1
            labels = {"service": "db", "reason": reason}
            assert value(collector, "jobmeter_gateway_failures_total", **labels) == 1


def test_a_service_that_is_down_is_502():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with serving(upstream=[("db", f"http://127.0.0.1:{port}/")]) as (server, collector):
        status, _, body = get(server)
        assert status == 502
        assert b"cannot be reached: Connection refused; is the service up?" in body
        labels = {"service": "db", "reason": "unreachable"}
        assert value(collector, "jobmeter_gateway_failures_total", **labels) == 1


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\n", OK + b"Content-Length: 9\r\n\r\n"])
def test_a_service_that_hangs_before_its_body_is_504(said):
    hold = threading.Event()
    with behind_the_gateway(said, hold=hold, timeout=0.05) as (server, _):
        status, _, body = get(server)
    assert status == 504
    assert b"no whole answer in 0.05 s" in body


def test_a_service_that_hangs_in_its_body_gives_a_broken_answer():
    hold = threading.Event()
    said = OK + LENGTH % 200_000 + b"\r\n" + b"x" * 100_000
    with (
        behind_the_gateway(said, hold=hold, timeout=0.2) as (server, _),
        pytest.raises(http.client.IncompleteRead),
    ):
        get(server)


def test_a_service_that_sends_a_byte_now_and_then_is_504():
    """Each byte comes in time, the answer does not."""
    stop = threading.Event()

    def dribble():
        yield OK
        while not stop.wait(0.001):
            yield b"x"

    with behind_the_gateway(dribble(), timeout=0.1) as (server, _):
        status, _, body = get(server)
        stop.set()
    assert status == 504
    assert b"no whole answer in 0.1 s" in body


@pytest.mark.parametrize(
    "said",
    [
        OK + LENGTH % 50 + b"\r\nup 1\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n20000\r\n" + b"up 1\n" * 20_000,
        OK + b"\r\nup 1\nseconds_to",
    ],
)
def test_an_answer_that_breaks_off_is_never_a_short_one(said):
    with service(said) as (port, _):
        upstreams = [("db", f"http://127.0.0.1:{port}/metrics")]
        with serving(upstream=upstreams) as (server, collector):
            with pytest.raises(http.client.IncompleteRead):
                get(server)
            assert server.finish(DEADLINE_S)
            labels = {"service": "db", "reason": "broken_off"}
            assert value(collector, "jobmeter_gateway_failures_total", **labels) == 1


def test_fifty_megabytes_need_no_memory():
    line = b"x_total 1\n" * 6554
    parts = [OK, b"\r\n", *[line] * 800]
    with behind_the_gateway(*parts) as (server, _):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE_S)
        connection.request("GET", "/metrics/db")
        answer = connection.getresponse()
        tracemalloc.start()
        size = 0
        while part := answer.read(65536):
            size += len(part)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        connection.close()
    assert size == 800 * len(line) > 50e6
    assert most < 2e6


def test_a_client_that_leaves_frees_the_service():
    with behind_the_gateway(OK, b"\r\n", *[b"x 1\n" * 16384] * 2000) as (server, _):
        with socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_S) as client:
            client.sendall(b"GET /metrics/db HTTP/1.1\r\nHost: x\r\n\r\n")
            client.recv(1000)
        assert server.finish(DEADLINE_S)


def test_nothing_but_the_listed_paths():
    with behind_the_gateway(OK, b"\r\n", TEXT) as (server, requests):
        for path in (
            "/metrics/db/",
            "/metrics/db/../x",
            "/metrics/",
            "/db",
            "/metrics/DB",
        ):
            assert get(server, path)[0] == 404, path
        for method in ("POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE"):
            assert get(server, method=method)[0] == 501, method
        assert requests == []
        assert b"/metrics/gateway /metrics/db" in get(server, "/")[2]


def test_what_is_counted():
    with service(OK, b"\r\n", TEXT) as (port, _):
        upstreams = [("db", f"http://127.0.0.1:{port}/metrics?token=secret")]
        with serving(upstream=upstreams) as (server, collector):
            get(server)
            get(server)
            assert server.finish(DEADLINE_S)
            text = get(server, "/metrics/gateway")[2].decode()
            assert value(collector, "jobmeter_gateway_response_bytes_total", service="db") == 42
    for line in (
        f'jobmeter_gateway_upstream_info{{service="db",url="http://127.0.0.1:{port}/metrics"}} 1.0',
        'jobmeter_gateway_requests_total{service="db"} 2.0',
        'jobmeter_gateway_request_duration_seconds_bucket{le="+Inf",service="db"} 2.0',
        'jobmeter_gateway_request_duration_seconds_count{service="db"} 2.0',
    ):
        assert line in text.splitlines()
    assert "secret" not in text
    assert "failures_total{" not in text


def test_files_come_change_and_go(tmp_path):
    folder = tmp_path / "endpoints"
    with (
        service(OK, b"\r\n", TEXT) as (port, _),
        serving(endpoints_dir=folder) as (server, collector),
    ):
        with pytest.raises(NoData, match="no service has said where it is"):
            list(collector.collect())
        assert get(server)[0] == 404
        folder.mkdir()
        (folder / "one.json").write_text('{"service": "db"')  # not finished
        assert get(server)[0] == 404
        with pytest.raises(ExporterError, match=r"one\.json: is not \{\"service\": NAME"):
            list(collector.collect())
        new = folder / ".new"
        new.write_text(json.dumps({"service": "db", "url": f"http://127.0.0.1:{port}/", "x": 1}))
        new.replace(folder / "one.json")
        assert get(server)[2] == TEXT
        list(collector.collect())
        (folder / "one.json").unlink()
        assert get(server)[0] == 404
        folder.rmdir()
        assert get(server)[0] == 404


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("a.json", "[]", "is not"),
        ("a.json", "[" * 30_000, "is not"),
        ("a.json", '{"service": "db", "url": 7}', "is not"),
        ("a.json", "x" * 70_000, "has over 65536 bytes"),
        (
            "a.json",
            '{"service": "x", "url": "http://127.0.0.1:1/", "bearer_file": 7}',
            "7 is not the path",
        ),
        (
            "a.json",
            '{"service": "x", "url": "http://127.0.0.1:1/", "bearer_file": "/nowhere"}',
            "bearer_file /nowhere cannot be read: No such file",
        ),
        (
            "a.json",
            '{"service": "x", "url": "http://127.0.0.1:1/", "bearer_file": "/dev/null"}',
            "does not hold one word",
        ),
        ("a.json", '{"service": "a/b", "url": "http://127.0.0.1:1/"}', "no name for a service"),
        ("a.json", '{"service": "x", "url": "http://10.0.0.1:1/"}', "not on this machine"),
        ("a.json", '{"service": "cgroup", "url": "http://127.0.0.1:1/"}', "name of an exporter"),
        ("z.json", '{"service": "db", "url": "http://127.0.0.1:1/"}', "has a file already"),
    ],
)
def test_a_file_of_no_use_is_said_and_the_others_count(tmp_path, name, text, why):
    (tmp_path / "good.json").write_text('{"service": "db", "url": "http://127.0.0.1:9/"}')
    (tmp_path / name).write_text(text)
    settings = Settings(run_id="r1", options={"gateway_endpoints_dir": tmp_path})
    collector = gateway_module.from_settings(settings)
    with pytest.raises(ExporterError, match=why):
        list(collector.collect())
    assert collector.paths() == ["/metrics/db"]


def test_files_that_cannot_be_read_as_one_hold_up_nothing(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "gone.json").symlink_to("nowhere")
    (tmp_path / "notes.txt").write_text("no")
    found, problems = EndpointFolder(tmp_path, ()).read()
    assert found == {}
    assert [problem.partition(": ")[0].rpartition("/")[2] for problem in problems] == [
        "folder.json",
        "pipe.json",
    ]
    _, problems = EndpointFolder(tmp_path / "notes.txt", ()).read()
    assert "Not a directory" in problems[0]


def test_a_file_is_read_again_only_when_it_changed(tmp_path, monkeypatch):
    (tmp_path / "one.json").write_text('{"service": "db", "url": "http://127.0.0.1:9/"}')
    texts = []
    monkeypatch.setattr(
        "jobmeter_exporters.gateway_endpoints.parse_endpoint",
        lambda text, hosts: texts.append(text) or parse_endpoint(text, hosts),
    )
    folder = EndpointFolder(tmp_path, ())
    assert folder.read() == folder.read()
    assert len(texts) == 1


@pytest.mark.parametrize(
    ("service", "url", "why"),
    [
        ("", "http://127.0.0.1:1/", "is no name for a service"),
        ("..", "http://127.0.0.1:1/", "is no name for a service"),
        ("a b", "http://127.0.0.1:1/", "is no name for a service"),
        ("db", "https://127.0.0.1:1/", "give http://HOST:PORT/PATH"),
        ("db", "file:///etc/passwd", "give http://HOST:PORT/PATH"),
        ("db", "http://u:p@127.0.0.1:1/", "without a password"),
        ("db", "127.0.0.1:8000", "give http://HOST:PORT/PATH"),
        ("db", "http://127.0.0.1:99999/", "is no URL"),
        ("db", "http://[::1/", "is no URL"),
        ("db", "http://127.0.0.1:1/a b", "odd characters"),
        ("db", "http://10.1.2.3:1/", r"10\.1\.2\.3 is not on this machine"),
        ("db", "http://0.0.0.0:1/", "is not on this machine"),
        ("db", "http://node1:1/", "give --gateway-allow-host node1"),
        ("db", "http://localhost.example:1/", "is not on this machine"),
        ("db", "http://2130706433:1/", "is not on this machine"),
    ],
)
def test_an_upstream_that_is_none(service, url, why):
    with pytest.raises(ExporterError, match=why):
        upstream(service, url)


def test_another_host_by_its_name_only():
    assert upstream("db", "http://node1:1/", {"node1"}).anywhere
    with pytest.raises(ExporterError, match="node2 is not on this machine"):
        upstream("db", "http://node2:1/", {"node1"})


def test_a_local_name_that_leads_elsewhere_is_not_asked(monkeypatch):
    """A stand-in for a name service that says something else of localhost."""
    with service(OK, b"\r\n", TEXT) as (port, requests):
        monkeypatch.setattr("jobmeter_exporters.gateway_upstream._is_loopback", lambda host: False)
        with serving(upstream=[("db", f"http://localhost:{port}/")]) as (server, _):
            status, _, body = get(server)
    assert (status, requests) == (502, [])
    assert b"localhost is not this machine" in body


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "nothing to ask; give --gateway-upstream"),
        ({"upstream": [("db", "http://127.0.0.1:1/")] * 2}, "names 'db' twice"),
        ({"upstream": [("gateway", "http://127.0.0.1:1/")]}, "name of an exporter"),
    ],
)
def test_options_that_cannot_serve(options, why):
    options = {f"gateway_{name}": value for name, value in options.items()}
    with pytest.raises(ExporterError, match=why):
        gateway_module.from_settings(Settings(run_id="r1", options=options))


def test_a_hundred_at_once():
    body = b"x_total 1\n" * 5000
    with (
        behind_the_gateway(OK, LENGTH % len(body), b"\r\n", body) as (server, requests),
        ThreadPoolExecutor(100) as pool,
    ):
        answers = list(pool.map(lambda _: get(server), range(100)))
    assert {(status, got) for status, _, got in answers} == {(200, body)}
    assert len(requests) == 100


def test_it_has_routes():
    options = {"gateway_upstream": [("db", "http://127.0.0.1:1/")]}
    assert isinstance(gateway_module.from_settings(Settings(run_id="r", options=options)), Routes)
