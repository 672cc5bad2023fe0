import http.client
import socket
import threading
import time
from base64 import b64encode
from contextlib import contextmanager

import pytest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from jobmeter_exporters import server as server_module
from jobmeter_exporters.errors import ExporterError, PortInUse
from jobmeter_exporters.server import ExporterServer, Gate, read_password, write_port_file
from jobmeter_exporters.settings import Settings

DEADLINE_S = 20.0


class Seven:
    def __init__(self, name="seven_bytes"):
        self.name = name

    def collect(self):
        yield GaugeMetricFamily(self.name, "", value=7)


class Blocked:
    """A scrape that is in progress until it is let go."""

    def __init__(self):
        self.entered = threading.Event()
        self.go_on = threading.Event()

    def collect(self):
        self.entered.set()
        assert self.go_on.wait(DEADLINE_S)
        yield GaugeMetricFamily("blocked_bytes", "", value=1)


@contextmanager
def serving(settings, **collectors):
    with ExporterServer(settings, collectors or {"seven": Seven()}) as server:
        loop = threading.Thread(target=server.serve_forever, args=(0.01,))
        loop.start()
        try:
            yield server
        finally:
            server.shutdown()
            loop.join()


def get(server, path="/metrics", user=None, method="GET", **headers):
    if user is not None:
        headers["Authorization"] = "Basic " + b64encode(user.encode()).decode()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE_S)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()
    finally:
        connection.close()


@pytest.fixture
def password_file(tmp_path):
    path = tmp_path / "password"
    path.write_text("s3cret wörd\n")
    return path


def test_everything_and_one_collector():
    with serving(Settings(run_id="r1"), seven=Seven(), eight=Seven("eight_bytes")) as server:
        status, headers, text = get(server)
        assert status == 200
        assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
        for line in ('jobmeter_run_info{run_id="r1"} 1.0', "seven_bytes 7.0", "eight_bytes 7.0"):
            assert line in text.splitlines()
        assert "process_cpu_seconds_total" in text
        assert "python_" not in text
        _, _, text = get(server, "/metrics/seven?x=1")
        assert "seven_bytes 7.0" in text
        assert 'jobmeter_run_info{run_id="r1"} 1.0' in text
        assert "eight" not in text
        assert "process_" not in text


def test_other_paths_and_methods():
    with serving(Settings(run_id="r1")) as server:
        assert get(server, "/")[2] == "jobmeter exporters: /metrics /metrics/seven\n"
        assert get(server, "/metrics/nine")[0] == 404
        assert get(server, method="HEAD")[2] == ""
        assert get(server, method="POST")[0] == 501


@pytest.mark.parametrize("version", ["0.0.1", "1.0.0"])
def test_openmetrics_by_accept_header(version):
    with serving(Settings(run_id="r1")) as server:
        accept = f"application/openmetrics-text;version={version},text/plain;q=0.5"
        _, headers, text = get(server, Accept=accept)
    if version == "1.0.0":
        assert headers["Content-Type"].startswith("application/openmetrics-text")
        names = [family.name for family in text_string_to_metric_families(text)]
        assert len(names) == len(set(names))
    else:
        assert headers["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize(
    "accept", ["application/openmetrics-text;version=x", "text/plain;version=", "\xe9"]
)
def test_an_odd_accept_header_gets_plain_text(accept):
    with serving(Settings(run_id="r1")) as server:
        status, headers, _ = get(server, Accept=accept)
        assert (status, headers.get_content_type()) == (200, "text/plain")


@pytest.mark.parametrize(
    "user", [None, "", "jobmeter:", "jobmeter:wrong", "other:s3cret wörd", "jobmeter:s3cret wörd\n"]
)
@pytest.mark.parametrize("path", ["/", "/metrics", "/metrics/seven", "/nowhere"])
def test_401_without_the_right_password(password_file, path, user):
    with serving(Settings(run_id="r1", password_file=password_file)) as server:
        status, headers, text = get(server, path, user)
    assert status == 401
    assert headers["WWW-Authenticate"].startswith("Basic realm=")
    assert "bytes" not in text


def test_the_right_password(password_file):
    with serving(Settings(run_id="r1", password_file=password_file)) as server:
        assert get(server, user="jobmeter:s3cret wörd")[0] == 200


@pytest.mark.parametrize(
    "header", ["Basic", "Basic ???", "Basic \xe9", "Bearer Sm9lOng=", "Bas ic"]
)
def test_no_odd_header_opens_the_gate(header):
    assert not Gate("Joe", "x").opens(header)


def test_the_scheme_is_case_insensitive_and_must_be_basic():
    encoded = b64encode(b"Joe:x").decode()
    assert Gate("Joe", "x").opens(f"basic {encoded}")
    assert not Gate("Joe", "x").opens(f"Bearer {encoded}")


@pytest.mark.parametrize("header", [None, "Basic Sm9lOng=", "Bearer Sm9lOng=", "Basic ???"])
def test_every_answer_goes_through_the_constant_time_comparison(header, monkeypatch):
    compared = []

    def compare(given, expected):
        compared.append((given, expected))
        return given == expected

    monkeypatch.setattr(server_module.hmac, "compare_digest", compare)
    Gate("Joe", "x").opens(header)
    assert [expected for _, expected in compared] == [b"Joe:x"]


@pytest.mark.parametrize("host", ["", "0.0.0.0", "192.0.2.1", "::"])
def test_without_a_password_only_loopback(host):
    with pytest.raises(ExporterError, match=r"listen on .* or give --password-file"):
        ExporterServer(Settings(run_id="r1", host=host), {})


def test_with_a_password_every_interface(password_file):
    with serving(Settings(run_id="r1", host="", password_file=password_file)) as server:
        assert get(server)[0] == 401


def test_an_address_of_another_machine(password_file):
    settings = Settings(run_id="r1", host="192.0.2.1", password_file=password_file)
    with pytest.raises(ExporterError, match=r"cannot listen on 192\.0\.2\.1:0"):
        ExporterServer(settings, {})


def test_a_host_that_is_none():
    with pytest.raises(ExporterError, match="cannot resolve 'no such host'"):
        ExporterServer(Settings(run_id="r1", host="no such host"), {})


def test_port_in_use():
    with serving(Settings(run_id="r1")) as server:
        with pytest.raises(PortInUse, match="is in use; try another port") as caught:
            ExporterServer(Settings(run_id="r1", port=server.port), {})
        assert caught.value.exit_code == 98


def test_password_file_that_cannot_serve(tmp_path):
    with pytest.raises(ExporterError, match="cannot read the password file"):
        read_password(tmp_path / "absent")
    (tmp_path / "empty").write_text("\nsecret\n")
    with pytest.raises(ExporterError, match="empty first line"):
        read_password(tmp_path / "empty")


def test_port_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "port"
    path.write_text("old")
    kept = path.open()
    write_port_file(path, 9400)
    with kept:
        assert kept.read() == "old"
    assert path.read_text() == "9400\n"
    assert list(tmp_path.iterdir()) == [path]


def test_port_file_that_cannot_be_written(tmp_path):
    with pytest.raises(ExporterError, match="cannot write the port file"):
        write_port_file(tmp_path / "absent" / "port", 1)


def test_a_half_open_client_blocks_nobody_and_is_cut(monkeypatch):
    monkeypatch.setattr(server_module, "LONGEST_CONNECTION_S", 0.05)
    with (
        serving(Settings(run_id="r1")) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_S) as half_open,
    ):
        half_open.sendall(b"GET /metrics HTTP/1.1\r\nHost:")
        assert get(server)[0] == 200
        assert half_open.recv(1) == b""


def test_a_client_that_sends_a_little_now_and_then_is_cut(monkeypatch):
    monkeypatch.setattr(server_module, "LONGEST_CONNECTION_S", 0.05)
    with (
        serving(Settings(run_id="r1")) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=0.005) as slow,
    ):
        deadline = time.monotonic() + DEADLINE_S
        alive = True
        while alive:
            assert time.monotonic() < deadline
            try:
                slow.sendall(b"G")
                alive = slow.recv(1) != b""
            except TimeoutError:
                continue
            except ConnectionError:
                alive = False


def test_idle_connections_make_room_for_a_new_one(monkeypatch):
    monkeypatch.setattr(server_module, "MOST_CONNECTIONS", 1)
    with serving(Settings(run_id="r1")) as server:
        address = ("127.0.0.1", server.port)
        with (
            socket.create_connection(address, timeout=DEADLINE_S) as first,
            socket.create_connection(address, timeout=DEADLINE_S) as second,
        ):
            assert first.recv(1) == b""
            second.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert second.recv(12) == b"HTTP/1.0 200"


def test_finish_waits_for_the_answer_in_progress_and_not_longer():
    blocked = Blocked()
    with serving(Settings(run_id="r1"), blocked=blocked) as server:
        answers = []
        client = threading.Thread(target=lambda: answers.append(get(server)))
        client.start()
        assert blocked.entered.wait(DEADLINE_S)
        assert not server.finish(0.01)
        blocked.go_on.set()
        assert server.finish(DEADLINE_S)
        client.join()
        assert "blocked_bytes 1.0" in answers[0][2]


def test_a_bug_while_answering_is_logged_and_serving_goes_on(caplog, monkeypatch):
    with serving(Settings(run_id="r1")) as server:
        with monkeypatch.context() as patch:
            patch.setattr(server_module, "_encoder", lambda accept: 1 / 0)
            with pytest.raises(http.client.RemoteDisconnected):
                get(server)
        assert "an answer failed" in caplog.text
        assert get(server)[0] == 200
