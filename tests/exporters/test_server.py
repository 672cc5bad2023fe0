import http.client
import itertools
import re
import socket
import threading
import time
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress

import pytest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as text_families

from jobmeter_exporters import server as server_module
from jobmeter_exporters.errors import ExporterError, PortInUse
from jobmeter_exporters.routes import Answer, BrokenBody
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
        assert "process_cpu_seconds_total" in text  # the cost of this process is with the first
        assert "process_" not in get(server, "/metrics/eight")[2]


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
            assert second.recv(12) == b"HTTP/1.1 200"


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


class Pages:
    """A collector with pages of its own: whole ones, broken ones, and one that never ends."""

    def __init__(self):
        self.closed = []

    def collect(self):
        return iter(())

    def paths(self):
        return ("/pages/whole", "/pages/parts", "/pages/torn", "/pages/short", "/metrics/pages")

    def answer(self, path, headers):
        def torn():
            yield b"begun"
            raise BrokenBody

        known = {
            "/pages/whole": ((b"whole " + headers.get("x-say", "").encode(),), None),
            "/pages/parts": ((b"a", b"", b"b" * 100_000), None),
            "/pages/torn": (torn(), None),
            "/pages/short": (torn(), 100),
            "/pages/endless": (itertools.repeat(b"x" * 65536), None),
        }
        if path not in known:
            return None
        parts, length = known[path]
        return Answer(200, parts, length, {"X-Own": "1"}, lambda: self.closed.append(path))


def test_a_collector_may_have_pages():
    pages = Pages()
    with serving(Settings(run_id="r1"), pages=pages) as server:
        status, headers, text = get(server, "/pages/whole?x", **{"X-Say": "hello"})
        assert (status, headers["X-Own"], text) == (200, "1", "whole hello")
        _, headers, text = get(server, "/pages/parts")
        assert (headers["Transfer-Encoding"], text) == ("chunked", "a" + "b" * 100_000)
        assert get(server, "/pages/parts", method="HEAD")[2] == ""
        assert get(server, "/pages/other")[0] == 404
        assert get(server, "/metrics/pages")[1].get_content_type() == "text/plain"  # not its own
        assert "/metrics/pages /pages/whole" in get(server, "/")[2]
        assert server.finish(DEADLINE_S)
    assert pages.closed == ["/pages/whole", "/pages/parts", "/pages/parts"]


def test_pages_are_behind_the_password(password_file):
    pages = Pages()
    with serving(Settings(run_id="r1", password_file=password_file), pages=pages) as server:
        assert get(server, "/pages/whole")[0] == 401
    assert pages.closed == []


@pytest.mark.parametrize("path", ["/pages/torn", "/pages/short"])
def test_a_body_that_breaks_off_cannot_be_taken_for_a_whole_one(path):
    pages = Pages()
    with serving(Settings(run_id="r1"), pages=pages) as server:
        with pytest.raises(http.client.IncompleteRead):
            get(server, path)
        assert server.finish(DEADLINE_S)
        assert get(server)[0] == 200
    assert pages.closed == [path]


def test_an_old_client_gets_no_body_of_unknown_length():
    with (
        serving(Settings(run_id="r1"), pages=Pages()) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_S) as old,
    ):
        old.sendall(b"GET /pages/parts HTTP/1.0\r\n\r\n")
        assert b" 505 " in old.makefile("rb").readline()


class Wide:
    """An exposition of about a megabyte, more than the buffers between two sockets."""

    def collect(self):
        family = GaugeMetricFamily("wide_bytes", "", labels=["n"])
        for number in range(40_000):
            family.add_metric([str(number)], number)
        yield family


def assert_whole(status, text):
    assert status == 200
    names = {family.name for family in text_families(text)}
    assert {"jobmeter_run_info", "jobmeter_collector_success"} <= names


def test_a_hundred_scrapes_at_once():
    """All are in an answer at once, and each gets all of it."""
    blocked = Blocked()
    with serving(Settings(run_id="r1"), blocked=blocked, seven=Seven()) as server:
        with ThreadPoolExecutor(100) as pool:
            answers = [pool.submit(get, server) for _ in range(100)]
            assert blocked.entered.wait(DEADLINE_S)
            deadline = time.monotonic() + DEADLINE_S
            while len(server._answering) < 100:  # until then the first one holds all of them up
                assert time.monotonic() < deadline
            blocked.go_on.set()
        for answer in answers:
            status, _, text = answer.result()
            assert_whole(status, text)
        assert server.finish(DEADLINE_S)


def test_clients_that_read_nothing_hold_up_nobody_and_are_cut(monkeypatch):
    """They ask for more than fits between two sockets, and wait."""
    pages = Pages()
    with serving(Settings(run_id="r1"), pages=pages) as server, ExitStack() as clients:
        for _ in range(5):
            slow = clients.enter_context(
                socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_S)
            )
            slow.sendall(b"GET /pages/endless HTTP/1.1\r\nHost: x\r\n\r\n")
        deadline = time.monotonic() + DEADLINE_S
        while len(server._answering) < 5:
            assert time.monotonic() < deadline
        assert_whole(*get(server)[::2])
        assert not server.finish(0)
        monkeypatch.setattr(server_module, "LONGEST_CONNECTION_S", 0.05)
        assert server.finish(DEADLINE_S)
        answer = http.client.HTTPResponse(slow)
        answer.begin()
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            answer.read()
    assert pages.closed == ["/pages/endless"] * 5


def test_a_slow_client_that_reads_gets_all_of_it():
    with (
        serving(Settings(run_id="r1"), wide=Wide()) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_S) as slow,
    ):
        slow.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b"".join(iter(lambda: slow.recv(1000), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", head)
    assert len(body) == int(length[1])
    assert_whole(200, body.decode())


def test_a_client_that_leaves_in_the_middle_is_nobodys_problem(caplog):
    with serving(Settings(run_id="r1"), wide=Wide()) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_S) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            client.recv(1000)
        assert server.finish(DEADLINE_S)
        assert_whole(*get(server)[::2])
    assert caplog.messages == []


def test_wrong_passwords_at_once_and_the_right_one_among_them(password_file):
    settings = Settings(run_id="r1", password_file=password_file)
    users = ["jobmeter:s3cret wörd" if number % 5 == 0 else "jobmeter:no" for number in range(100)]
    with serving(settings) as server, ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda user: get(server, user=user), users))
    for user, (status, _, text) in zip(users, answers, strict=True):
        if user.endswith("wörd"):
            assert_whole(status, text)
        else:
            assert status == 401
            assert "seven" not in text


def test_a_stop_in_the_middle_of_scrapes_breaks_none_of_them():
    """Those in progress are whole; those that came too late get no answer at all."""
    blocked = Blocked()
    with ThreadPoolExecutor(5) as pool, ExitStack() as late:
        with serving(Settings(run_id="r1"), blocked=blocked, wide=Wide()) as server:
            answers = [pool.submit(get, server) for _ in range(5)]
            deadline = time.monotonic() + DEADLINE_S
            while len(server._answering) < 5:
                assert time.monotonic() < deadline
            server.shutdown()
            client = late.enter_context(
                socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_S)
            )
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            blocked.go_on.set()
            assert server.finish(DEADLINE_S)
        for answer in answers:
            status, _, text = answer.result()
            assert_whole(status, text)
        with suppress(ConnectionError):
            assert client.recv(1) == b""


def test_with_everyone_in_an_answer_the_next_one_is_refused(monkeypatch):
    monkeypatch.setattr(server_module, "MOST_CONNECTIONS", 1)
    blocked = Blocked()
    with serving(Settings(run_id="r1"), blocked=blocked) as server, ThreadPoolExecutor() as pool:
        answer = pool.submit(get, server)
        assert blocked.entered.wait(DEADLINE_S)
        with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
            get(server)
        blocked.go_on.set()
        assert_whole(*answer.result()[::2])


@pytest.mark.parametrize(
    "request_text",
    [
        b"\r\n",
        b"\x00\xff\xfe garbage\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /metrics HTTP/9.9\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nno header\r\n\r\n",
        b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"DELETE /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    ],
)
def test_a_request_that_is_none_stops_nobody(request_text, password_file, caplog):
    settings = Settings(run_id="r1", password_file=password_file)
    with serving(settings) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_S) as odd:
            odd.sendall(request_text)
            odd.shutdown(socket.SHUT_WR)
            try:
                said = b"".join(iter(lambda: odd.recv(65536), b""))
            except ConnectionError:
                said = b""
        assert b"seven" not in said
        assert said.count(b"HTTP/1.") <= 1
        assert get(server, user="jobmeter:s3cret wörd")[0] == 200
    assert caplog.messages == []


def test_a_bug_while_answering_is_logged_and_serving_goes_on(caplog, monkeypatch):
    with serving(Settings(run_id="r1")) as server:
        with monkeypatch.context() as patch:
            patch.setattr(server_module, "encoder", lambda accept: 1 / 0)
            with pytest.raises(http.client.RemoteDisconnected):
                get(server)
        assert "an answer failed" in caplog.text
        assert get(server)[0] == 200
