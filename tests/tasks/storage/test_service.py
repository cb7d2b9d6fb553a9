"""Services with real processes: shared, stopped by the last user, and never leaked, whoever is killed when."""

from __future__ import annotations

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.core.errors import ResourceError, ServiceError
from tasks.storage import guard
from tasks.storage.guard import Probe
from tasks.storage.process import Process, alive, gone, identify
from tasks.storage.service import Launch, Service, free_ports, running
from tests import tiny_service
from tests.tiny_service import (
    PATIENCE,
    User,
    alive_anyhow,
    ask,
    next_server_at,
    server_at,
    service,
    starts,
    state_of,
    wait_for,
    wait_until_blocked_on,
)  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> Generator[Path]:
    """A home in which no two instances ever ran together and of which nothing is left running."""
    home = tmp_path / "a home, with {braces}"
    yield home
    assert not (home / "tiny" / "overlap").exists()
    state = guard.read_state(home / "tiny.json")
    assert state is None or gone(state.guard, PATIENCE)
    assert not [pid for pid in starts(home) if alive_anyhow(pid, home)]


@pytest.fixture
def user(home: Path) -> Generator[Callable[[str], User]]:
    users: list[User] = []

    def begin(behaviour: str = "normal") -> User:
        command = [sys.executable, tiny_service.__file__, str(home), behaviour]
        environment = os.environ | {"PYTHONPATH": str(Path(tiny_service.__file__).parents[1])}
        pipe = subprocess.PIPE
        users.append(User(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)))
        return users[-1]

    yield begin
    for each in users:
        each.process.kill()
        each.process.wait()


def test_users_share_one_instance_and_the_last_one_out_stops_it(home: Path) -> None:
    (home / "left folder").mkdir(parents=True)
    (home / "left over").touch()
    with running(service(home)) as first:
        server = server_at(first.ports["http"])
        with running(service(home)) as second:
            assert second == first
            assert first.url("http") == f"http://127.0.0.1:{first.ports['http']}"
        assert server_at(first.ports["http"]) == server
    assert not alive(server)
    assert len(starts(home)) == 1
    assert sorted(path.name for path in home.iterdir()) == ["tiny", "tiny.lock", "tiny.log", "tiny.users"]


def test_an_error_in_the_block_stops_the_service_too(home: Path) -> None:
    seen: list[Process] = []
    with pytest.raises(LookupError, match="the user's own"), running(service(home)) as endpoint:
        seen.append(server_at(endpoint.ports["http"]))
        raise LookupError("the user's own")
    assert not alive(*seen)


def test_its_user_may_go_to_another_folder(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with running(service(home.relative_to(tmp_path))) as endpoint:
        server = server_at(endpoint.ports["http"])
        monkeypatch.chdir("/")
        assert str(endpoint.log) == str(home / "tiny.log")
    assert not alive(server)


def test_processes_that_start_at_once_share_one_instance(home: Path, user: Callable[[], User]) -> None:
    users = [user() for _ in range(4)]
    servers = {each.server() for each in users}
    assert len(servers) == 1
    assert len(starts(home)) == 1
    for each in users[:-1]:
        each.leave()
    assert alive(*servers)
    users[-1].leave()
    assert not alive(*servers)


def test_users_that_come_and_go_and_are_killed_never_overlap(home: Path, user: Callable[[], User]) -> None:
    """The servers themselves notice an overlap: each holds a lock in their common folder."""
    for round in range(4):
        users = [user() for _ in range(3)]
        users[0].kill()  # anywhere: before its locks, in its start, or as a user
        assert alive(users[1].server())
        users[1].kill() if round % 2 else users[1].leave()
        assert alive(users[2].server())
        users[2].kill() if round % 3 else users[2].leave()


def test_the_service_is_gone_after_its_only_user_was_killed(home: Path, user: Callable[[], User]) -> None:
    only = user()
    server = only.server()
    keeper = state_of(home).guard
    only.kill()
    assert gone(server, PATIENCE)
    assert gone(keeper, PATIENCE)
    assert guard.read_state(home / "tiny.json") is None


def test_a_start_is_given_up_when_its_user_was_killed(home: Path, user: Callable[[str], User]) -> None:
    impatient = user("slow")
    wait_for(home / "tiny.json")
    state = state_of(home)
    assert alive(state.server)
    impatient.kill()
    assert gone(state.guard, PATIENCE)
    assert not alive(state.server)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows who waits for a lock")
def test_a_newcomer_takes_over_a_start_whose_user_was_killed(home: Path, user: Callable[[str], User]) -> None:
    impatient = user("slow")
    wait_for(home / "tiny.json")
    newcomer = user("slow")
    wait_until_blocked_on(home / "tiny.lock")
    impatient.kill()
    (home / "tiny" / "go").touch()
    assert newcomer.server() == state_of(home).server
    assert len(starts(home)) == 1


def test_a_killed_server_comes_back_to_its_users_where_it_was(home: Path) -> None:
    with running(service(home)) as endpoint:
        for _ in range(2):
            dead = server_at(endpoint.ports["http"])
            os.kill(dead.pid, signal.SIGKILL)
            assert gone(dead, PATIENCE)
            assert next_server_at(endpoint.ports["http"]) == state_of(home).server != dead
    assert guard.read_state(home / "tiny.json") is None


def test_a_server_that_can_t_live_any_more_is_given_up(home: Path) -> None:
    with running(service(home)) as endpoint:
        before = state_of(home)
        (home / "tiny" / "die").touch()
        os.kill(before.server.pid, signal.SIGKILL)
        assert gone(before.guard, PATIENCE)
        with pytest.raises(OSError, match="refused"):
            ask(endpoint.ports["http"])
        assert guard.read_state(home / "tiny.json") is None


def test_a_killed_server_is_replaced_for_the_next_user(home: Path) -> None:
    with running(service(home)) as before:
        dead = server_at(before.ports["http"])
        os.kill(dead.pid, signal.SIGKILL)
        assert gone(dead, PATIENCE)
        with running(service(home)) as after:
            server = server_at(after.ports["http"])
            assert server != dead
        assert server_at(after.ports["http"]) == server, "the first user still holds the service"
    assert not alive(server)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the next user ends the orphan")
def test_a_server_dies_with_its_killed_guard(home: Path) -> None:
    with running(service(home)) as before:
        server = server_at(before.ports["http"])
        os.kill(state_of(home).guard.pid, signal.SIGKILL)
        assert gone(server, PATIENCE)
        with running(service(home)) as after:
            assert server_at(after.ports["http"]) == state_of(home).server
    assert guard.read_state(home / "tiny.json") is None


def test_an_instance_that_hangs_is_replaced(home: Path) -> None:
    with running(replace(service(home), grace_seconds=0.5)) as before:
        hung = server_at(before.ports["http"])
        os.kill(hung.pid, signal.SIGSTOP)
        with running(replace(service(home), start_seconds=3, grace_seconds=0.5)) as after:
            assert server_at(after.ports["http"]) != hung
        assert not alive(hung)


@pytest.mark.parametrize("running_still", [False, True], ids=["its process is dead", "its number is somebody else's"])
def test_a_stale_state_file_is_no_instance(home: Path, running_still: bool) -> None:
    stranger = subprocess.Popen([sys.executable, "-S", "-c", "import signal; signal.pause()"], process_group=0)
    if not running_still:
        stranger.kill()
        stranger.wait()
    home.mkdir(parents=True)
    (home / "left over").touch()
    other = {"pid": stranger.pid, "started": "17"}
    (home / "tiny.json").write_text(
        json.dumps({"guard": other, "server": other, "ports": {"http": 1}, "probes": [], "leftovers": ["left over"]})
    )
    try:
        with running(service(home)) as endpoint:
            assert server_at(endpoint.ports["http"]) == state_of(home).server
        assert (stranger.poll() is None) == running_still, "a process that only has the number is left alone"
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"guard": {"pid": 1}}', '{"guard": {"pid": 1, "started": "x", "y": 0}}']
)
def test_a_state_file_that_is_none_is_replaced(home: Path, text: str) -> None:
    home.mkdir(parents=True)
    (home / "tiny.json").write_text(text)
    with running(service(home)) as endpoint:
        assert server_at(endpoint.ports["http"]) == state_of(home).server


@contextmanager
def stranger(port: int) -> Generator[list[str]]:
    """Another program that answers there as the service would; the requests that it got."""
    asked = list[str]()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"pid": 0}')

    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield asked
        server.shutdown()


def test_a_port_taken_before_the_server_binds_it_is_exchanged(home: Path, user: Callable[[str], User]) -> None:
    one = user("port taken once")
    port = int(wait_for(home / "tiny" / "port").read_text())
    with stranger(port) as asked:
        while not asked:  # by the guard, which takes this answer for nobody's but its server's own
            time.sleep(0.02)
        (home / "tiny" / "go").touch()
        assert alive(one.server())
        assert state_of(home).ports["http"] != port
        one.leave()
    assert len(starts(home)) == 2


def test_a_usual_port_is_used_where_it_is_free(home: Path) -> None:
    port = free_ports(["any"])["any"]
    wishing = replace(service(home), usual={"http": port})
    with running(wishing) as endpoint:
        assert endpoint.ports == {"http": port}
    with socket.create_server(("127.0.0.1", port)), running(wishing) as endpoint:
        assert endpoint.ports != {"http": port}


def test_a_port_that_is_asked_for_is_used_or_named_as_taken(home: Path) -> None:
    port = free_ports(["any"])["any"]
    with running(replace(service(home), fixed={"http": port})) as endpoint:
        assert endpoint.ports == {"http": port}
        assert ask(port)
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(ServiceError, match=f"port {port}: another program does"),
        running(replace(service(home), fixed={"http": port})),
    ):
        pytest.fail("started on a taken port")


def test_ports_are_free_and_differ() -> None:
    names = [f"port {number}" for number in range(50)]
    ports = free_ports(names)
    assert list(ports) == names
    assert len(set(ports.values())) == 50
    for port in ports.values():
        with socket.create_server(("127.0.0.1", port)):
            pass


def failure(service: Service) -> str:
    with pytest.raises(ServiceError) as caught, running(service):
        pytest.fail("it started")
    return str(caught.value)


def test_a_service_that_dies_says_so_with_the_end_of_its_log(home: Path) -> None:
    said = failure(service(home, "dies"))
    assert "tiny service ended with status 1 before it answered" in said
    assert said.endswith(f"{home / 'tiny.log'} ends with:\n  no such licence: weekdays only")
    assert len(starts(home)) == 1, "a death that no port explains is not tried again"


def test_a_service_that_is_never_ready_is_ended_and_says_so(home: Path) -> None:
    said = failure(replace(service(home, "never ready"), start_seconds=1))
    assert "tiny service did not answer within 1 s" in said
    assert "waiting for something that never comes" in said
    assert len(starts(home)) == 1


def test_a_program_that_is_not_there_is_named(home: Path) -> None:
    absent = replace(service(home), launch=lambda ports: Launch(["/no/such/program"], [Probe(ports["http"])]))
    said = failure(absent)
    assert "could not be started" in said
    assert "/no/such/program" in said


def test_a_home_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "home").touch()
    with pytest.raises(ResourceError, match=str(tmp_path / "home")), running(service(tmp_path / "home")):
        pytest.fail("started in a file")


def test_the_whole_process_group_ends_also_when_it_ignores_sigterm(home: Path) -> None:
    with running(replace(service(home, "stubborn"), grace_seconds=0.3)) as endpoint:
        server = server_at(endpoint.ports["http"])
        child = identify(int((home / "tiny" / "child").read_text()))
        assert alive(child)
    assert not alive(server)
    assert gone(child, PATIENCE)


def test_the_server_gets_none_of_its_first_users_secrets(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    with running(service(home)) as endpoint:
        seen = ask(endpoint.ports["http"])["environment"]
    assert isinstance(seen, dict)
    assert seen["BEHAVIOUR"] == "normal"
    assert seen["PATH"] == os.environ["PATH"]
    assert "AWS_SECRET_ACCESS_KEY" not in seen


def test_a_forked_child_of_a_user_does_not_keep_the_service(home: Path) -> None:
    """As the workers of a data loader do: forked, with all descriptors, and perhaps alive for longer."""
    with running(service(home)) as endpoint:
        server = server_at(endpoint.ports["http"])
        if not (child := os.fork()):
            signal.pause()
    try:
        assert not alive(server)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_nothing_but_the_standard_library_is_imported() -> None:
    """Without site-packages the import works: a command that needs no service pays next to nothing for this."""
    subprocess.run(
        [sys.executable, "-S", "-P", "-c", "import tasks.storage.service, tasks.storage.embedded, flows.server"],
        env={"PYTHONPATH": str(Path(__file__).parents[3])},
        check=True,
    )
