"""What is settled before any library loads: telemetry, threads, folders and proxies."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from audit.doctor import machine
from audit.machine import environment, homes, telemetry, threads
from tests.machines import NAMELESS, REPOSITORY, fresh_environment, nameless, open_folder

only_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
_ASK = "import json, os, audit; from audit import environment; print(json.dumps([dict(os.environ), environment.take_notices()]))"


def settled(variables: dict[str, str]) -> dict[str, str]:
    """The environment of a process that has imported this package."""
    done = subprocess.run(
        [sys.executable, "-c", _ASK], env=variables, cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    found: dict[str, str] = json.loads(done.stdout)[0]
    return found


# Telemetry


def test_importing_the_package_switches_all_telemetry_off_and_leaves_what_the_user_set() -> None:
    found = settled(fresh_environment())
    assert {name: found[name] for name in telemetry.OFF} == telemetry.OFF
    assert found["ORT_DISABLE_TELEMETRY"] == "1"
    assert settled(fresh_environment(RAY_USAGE_STATS_ENABLED="1"))["RAY_USAGE_STATS_ENABLED"] == "1"


@pytest.mark.parametrize(
    ("name", "value", "library"),
    [
        ("ORT_DISABLE_TELEMETRY", "0", "ONNX Runtime"),
        ("HF_HUB_DISABLE_TELEMETRY", "", "the Hugging Face hub"),
        ("GX_ANALYTICS_ENABLED", "true", "Great Expectations"),
        ("DO_NOT_TRACK", "0", "Prefect"),
    ],
)
def test_a_library_that_may_report_is_named_with_the_variable_that_lets_it(
    name: str, value: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, off in telemetry.OFF.items():
        monkeypatch.setenv(variable, off)
    (finding,) = machine.check_telemetry()
    assert finding.level == "ok" and library in finding.found.split(";")[0]
    monkeypatch.setenv(name, value)
    (finding,) = machine.check_telemetry()
    assert finding.level == "warning"
    assert f"not switched off: {library} ({name}={value})" in finding.found
    assert f"{name}={telemetry.OFF[name]}" in (finding.next_step or "")


def test_a_library_that_is_not_here_is_said_to_be_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = telemetry.Reporter("Chatter", "no_such_module_here", {"CHATTER": "0"})
    monkeypatch.setattr(telemetry, "REPORTERS", (absent,))
    (finding,) = machine.check_telemetry()
    assert (finding.level, finding.found) == ("ok", "off: none; not installed: Chatter")


def test_nudenet_leaves_no_telemetry_file_behind(tmp_path: Path) -> None:
    code = """
import sys
from audit.instruments import detectors
from audit.spec.sections import DetectorSpec
detectors.build(DetectorSpec(name="nude", kind="nudenet"), (), "cpu").self_test()
assert "onnxruntime" in sys.modules
"""
    variables = fresh_environment(HOME=str(tmp_path))
    subprocess.run([sys.executable, "-c", code], env=variables, cwd=REPOSITORY, check=True, timeout=120)
    left = [str(path) for path in tmp_path.rglob("*") if "deviceid" in path.name or "Microsoft" in str(path)]
    assert left == []


# Threads


def groups(tmp_path: Path, membership: str, files: dict[str, str]) -> float | None:
    (tmp_path / "cgroup").write_text(membership)
    for name, text in files.items():
        path = tmp_path / "mount" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return threads.cpu_quota(tmp_path / "cgroup", tmp_path / "mount")


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "400000 100000\n"}, 2.0),
        ("0::/a/b\n", {"cpu.max": "max 100000\n", "a/b/cpu.max": "max 100000\n"}, None),
        ("0::/../../seen-from-outside\n", {"cpu.max": "300000 100000\n"}, 3.0),
        (
            "3:cpu,cpuacct:/docker/x\n0::/\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "50000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
            0.5,
        ),
        ("2:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("2:cpuset:/\n", {"cpu.max": "100000 100000\n"}, None),
        ("nonsense", {"cpu.max": "nonsense"}, None),
        ("0::/\n", {"cpu.max": "100000 0\n"}, None),
    ],
)
def test_the_quota_of_a_control_group_is_read(
    membership: str, files: dict[str, str], quota: float | None, tmp_path: Path
) -> None:
    assert groups(tmp_path, membership, files) == quota


def test_without_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert threads.cpu_quota(tmp_path / "nowhere", tmp_path) is None


@pytest.mark.parametrize(("quota", "count"), [(0.1, 1), (1.4, 1), (1.5, 2), (2.0, 2), (7.6, 8)])
def test_a_quota_is_rounded_to_threads(quota: float, count: int) -> None:
    assert threads.threads_for(quota) == count


def settle_threads(
    monkeypatch: pytest.MonkeyPatch, quota: float | None = None, running: int = 0, **given: str
) -> dict[str, str]:
    """What is set for threads on a machine with eight cores, on which `running` other tasks run."""
    for name in (threads.COUNT, *threads.POLICIES):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(threads, "_settled", set())
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
    monkeypatch.setattr(threads, "affinity", lambda: 8)
    monkeypatch.setattr(threads, "running_elsewhere", lambda: running)
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 8)
    threads.settle()
    return {name: os.environ[name] for name in (threads.COUNT, *threads.POLICIES) if name in os.environ}


def test_on_a_free_machine_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settle_threads(monkeypatch) == {}
    assert threads.count() == threads.Setting("8", "the cores that this process may use")
    assert threads.waiting() == threads.Setting("spinning", "the default, as cores were free when this process began")


def test_threads_follow_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settle_threads(monkeypatch, quota=2.0) == {"OMP_NUM_THREADS": "2"}
    assert threads.count() == threads.Setting("2", "the control group's quota, 2 cores")
    assert settle_threads(monkeypatch, quota=64.0) == {}


@pytest.mark.parametrize(
    ("running", "quota", "expected"),
    [(0, None, {}), (1, None, {"OMP_WAIT_POLICY": "PASSIVE"}), (6, 2.0, {"OMP_NUM_THREADS": "2"})],
)
def test_threads_sleep_while_they_wait_where_cores_are_taken(
    running: int, quota: float | None, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert settle_threads(monkeypatch, quota, running) == expected
    if not expected.get("OMP_WAIT_POLICY"):
        return
    assert threads.waiting() == threads.Setting("OMP_WAIT_POLICY=PASSIVE", "cores were taken when this process began")
    assert settle_threads(monkeypatch, None, running, OMP_NUM_THREADS="1") == {"OMP_NUM_THREADS": "1"}  # none waits


@pytest.mark.parametrize("name", threads.POLICIES)
def test_what_the_user_says_about_threads_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"OMP_NUM_THREADS": "3", name: "7"}
    assert settle_threads(monkeypatch, quota=2.0, running=8, **given) == given
    assert threads.count() == threads.Setting("3", "OMP_NUM_THREADS is set")
    assert threads.waiting() == threads.Setting(f"{name}=7", "set in the environment")


@pytest.mark.parametrize(
    ("processes", "quota", "given", "expected"),
    [
        (2, None, {}, 4),
        (3, None, {}, 2),
        (16, None, {}, 1),
        (2, 6.0, {}, 3),  # the quota has set the variable
        (1, None, {}, None),
        (2, None, {"OMP_NUM_THREADS": "8"}, None),
    ],
)
def test_processes_share_the_cores_unless_the_user_says_otherwise(
    processes: int, quota: float | None, given: dict[str, str], expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle_threads(monkeypatch, quota, **given)
    assert threads.share(processes) == expected


def test_running_tasks_are_counted_without_this_one(tmp_path: Path) -> None:
    (tmp_path / "loadavg").write_text("0.52 0.58 0.59 4/467 11206\n")
    assert threads.running_elsewhere(tmp_path / "loadavg") == 3
    (tmp_path / "loadavg").write_text("nonsense")
    assert threads.running_elsewhere(tmp_path / "loadavg") == 0
    assert threads.running_elsewhere(tmp_path / "nowhere") == 0


def test_scripts_that_torch_computes_in_meet_settled_threads() -> None:
    code = "import sys, audit.testbed; from audit.machine import threads; print('torch' in sys.modules, threads.waiting().value)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=fresh_environment(OMP_WAIT_POLICY="active"), cwd=REPOSITORY,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["False", "OMP_WAIT_POLICY=active"]


def test_doctor_shows_threads_and_warns_where_cores_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    settle_threads(monkeypatch)
    (finding,) = machine.check_threads()
    assert finding.level == "ok"
    assert "(the cores that this process may use); waiting: spinning" in finding.found
    settle_threads(monkeypatch, running=3)
    (finding,) = machine.check_threads()
    assert finding.level == "warning" and "3 other tasks are running on 8 cores" in finding.found
    assert "OMP_WAIT_POLICY=PASSIVE (cores were taken when this process began)" in finding.found
    assert "OMP_NUM_THREADS=1" in (finding.next_step or "")


# Folders


@only_root
@pytest.mark.parametrize("home", [None, "", "/nowhere/at/all"])
def test_a_user_without_name_and_home_gets_a_private_temporary_one(home: str | None) -> None:
    with open_folder() as folder:
        variables = fresh_environment(TMPDIR=str(folder), **({} if home is None else {"HOME": home}))
        done = nameless(["-c", _ASK], variables, folder)
        assert done.returncode == 0, done.stderr
        found, said = json.loads(done.stdout)
        other = folder / f"erasure-audit-{NAMELESS}"
        assert found["HOME"] == str(other)
        assert stat.S_IMODE(other.stat().st_mode) == 0o700 and other.stat().st_uid == NAMELESS
        why = "there is no /nowhere/at/all" if home else "HOME is not set and this user has no home folder"
        assert said == [f"{why}: caches and Prefect's records go to {other}"]


@only_root
@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["db", "runs"], ["plan", "nowhere.yaml"], pytest.param(["doctor"], marks=pytest.mark.slow)],
)
def test_commands_work_without_name_and_home(arguments: list[str]) -> None:
    with open_folder() as folder:
        done = nameless(["-m", "flows.cli", *arguments], fresh_environment(TMPDIR=str(folder)), folder)
        assert "unexpected" not in done.stderr and "Traceback" not in done.stderr
        assert done.returncode == (2 if "plan" in arguments else 0), done.stdout + done.stderr
        assert done.stderr.count("HOME is not set and this user has no home folder") == 1
        assert "~" not in {path.name for path in folder.iterdir()}


def test_without_any_folder_to_write_to_nothing_breaks_before_something_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unknown(number: int) -> None:
        raise KeyError(number)

    for name in ("HOME", "XDG_CACHE_HOME", "PREFECT_HOME"):
        monkeypatch.setenv(name, "")  # so that they are put back
        monkeypatch.delenv(name)
    monkeypatch.setattr(homes, "temporary_folder", lambda: None)
    monkeypatch.setattr(homes.pwd, "getpwuid", unknown)
    assert homes.settle() == [
        "HOME is not set and this user has no home folder, and no temporary folder can be written: set HOME, or TMPDIR"
    ]
    assert homes.cache_folder() == Path("/.cache")
    assert homes.prefect_home() == Path("/.prefect")


def test_a_home_that_cannot_be_written_moves_only_what_is_written() -> None:
    with open_folder() as folder:
        home = folder / "home"
        (home / ".prefect").mkdir(parents=True)
        (home / ".prefect" / "profiles.toml").write_text("")
        for path in (home / ".prefect", home):
            path.chmod(0o555)
        done = nameless(["-c", _ASK], fresh_environment(HOME=str(home), TMPDIR=str(folder)), folder)
        found, said = json.loads(done.stdout)
        (other,) = folder.glob("erasure-audit-*")
        assert found["HOME"] == str(home)  # what lies there is still read, the Hugging Face cache for one
        assert found["PREFECT_HOME"] == str(other / "prefect")
        assert found["PREFECT_PROFILES_PATH"] == str(home / ".prefect" / "profiles.toml")
        assert said == [f"{home}/.prefect cannot be written: Prefect's records go to {other}/prefect"]
        home.chmod(0o755)


def test_prefects_home_as_the_user_set_it_stays() -> None:
    with open_folder() as folder:
        variables = fresh_environment(HOME="/proc", TMPDIR=str(folder), PREFECT_HOME="/somewhere")
        done = nameless(["-c", _ASK], variables, folder)
        found, said = json.loads(done.stdout)
        assert found["PREFECT_HOME"] == "/somewhere" and said == []


def test_caches_go_where_they_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(homes, "temporary_folder", lambda: tmp_path / "private")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert homes.cache_folder() == tmp_path / "cache"
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "cache"))
    assert homes.cache_folder() == tmp_path / "private" / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the specification says to ignore it
    monkeypatch.setenv("HOME", str(tmp_path))
    assert homes.cache_folder() == tmp_path / ".cache"


def test_a_temporary_folder_of_somebody_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(homes.tempfile, "tempdir", str(tmp_path))
    make: Any = homes.temporary_folder.__wrapped__
    taken = tmp_path / f"erasure-audit-{os.getuid()}"
    (tmp_path / "elsewhere").mkdir()
    taken.symlink_to(tmp_path / "elsewhere")
    assert make() != taken
    taken.unlink()
    taken.mkdir(mode=0o777)
    taken.chmod(0o777)
    assert make() != taken
    taken.chmod(0o700)
    assert make() == taken


def test_doctor_says_which_folder_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    (finding,) = machine.check_folders()
    assert finding.level == "ok" and f"Prefect's records in {tmp_path}/prefect" in finding.found
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "file" / "prefect"))
    (finding,) = machine.check_folders()
    assert (finding.level, finding.found) == ("problem", f"cannot be written: {tmp_path}/file/prefect")
    assert "PREFECT_HOME" in (finding.next_step or "")


# Proxies

_HERE = "127.0.0.1,localhost,::1"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"HTTP_PROXY": "http://p:1"}, {"NO_PROXY": _HERE, "no_proxy": _HERE}),
        (
            {"https_proxy": "http://p:1", "NO_PROXY": "a.b, .c"},
            dict.fromkeys(("NO_PROXY", "no_proxy"), f"a.b,.c,{_HERE}"),
        ),
        ({"ALL_PROXY": "socks5://p", "no_proxy": "x"}, dict.fromkeys(("NO_PROXY", "no_proxy"), f"x,{_HERE}")),
        ({"HTTP_PROXY": "p", "no_proxy": "x", "NO_PROXY": "Y"}, {"NO_PROXY": f"Y,{_HERE}", "no_proxy": f"x,{_HERE}"}),
        ({"HTTP_PROXY": "p", "NO_PROXY": "*"}, {"NO_PROXY": "*", "no_proxy": "*"}),
        (
            {"HTTP_PROXY": "p", "NO_PROXY": "localhost"},
            dict.fromkeys(("NO_PROXY", "no_proxy"), "localhost,127.0.0.1,::1"),
        ),
        ({"NO_PROXY": "x"}, {"NO_PROXY": "x"}),  # no proxy, nothing to spare
        ({}, {}),
    ],
)
def test_loopback_is_spared_from_proxies(
    given: dict[str, str], expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name in ("NO_PROXY", "no_proxy"):  # so that they are put back
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    environment.spare_loopback()
    assert {name: value for name, value in os.environ.items() if name.lower() == "no_proxy"} == expected
    environment.spare_loopback()  # children do it again
    assert {name: value for name, value in os.environ.items() if name.lower() == "no_proxy"} == expected


def test_doctor_shows_proxies_and_a_loopback_that_is_not_spared(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    assert list(machine.check_proxies()) == []
    monkeypatch.setenv("HTTP_PROXY", "http://user:secret@127.0.0.1:9")
    (finding,) = machine.check_proxies()
    assert finding.level == "problem" and "secret" not in finding.found
    monkeypatch.setenv("no_proxy", _HERE)
    (finding,) = machine.check_proxies()
    assert (finding.level, finding.found) == (
        "ok", "HTTP_PROXY set; requests to this machine itself do not go there",
    )  # fmt: skip
