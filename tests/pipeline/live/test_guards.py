"""The guards: real disks (a tmpfs that really fills), real memory, and a thermometer that the test moves."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from nexus_core.errors import NexusError
from nexus_core.pipeline import guards
from nexus_core.pipeline.events import Events, read_events
from nexus_core.pipeline.guards import Limits, Needs, check_plan, guarded
from nexus_core.pipeline.live import watching
from nexus_core.pipeline.signals import signals

A_RUN = Path(__file__).with_name("a_run.py")
ON_A_SMALL_DISK = """
mount -t tmpfs -o size=6m none "$1" || exit
"$2" "$3" run "$1/run" fills plain
echo status $?
cat "$1/run/saved"
df -B1024 --output=avail "$1" | tail -1
"""


def may_mount():
    asked = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs none /mnt"]
    return shutil.which("unshare") is not None and subprocess.run(asked, capture_output=True).returncode == 0


def at_work(tmp_path, limits):
    """Work, watched with these limits, that would take ten seconds; what ends it comes out."""
    with watching("plain", tmp_path) as events, signals(events), guarded(events, limits):
        try:
            time.sleep(10)
        except Exception as error:
            raise AssertionError("a unit's own clause caught it") from error
    raise AssertionError("nobody ended it")


@pytest.mark.skipif(not may_mount(), reason="no tmpfs of one's own: needs root or user namespaces")
def test_a_disk_that_fills_ends_the_run_while_there_is_room_to_save(tmp_path):
    """A tmpfs of 6 MiB, in a mount namespace of its own, which also looks at what is left on it."""
    asked = ["unshare", "-rm", "sh", "-c", ON_A_SMALL_DISK, "sh", str(tmp_path), sys.executable, str(A_RUN)]
    ended = subprocess.run(asked, capture_output=True, text=True, timeout=30)
    assert re.search(r"error: the disk of .*/run is nearly full: \d MiB are free, 2 MiB are kept free\n", ended.stderr)
    assert "hint:  make room on it; then: nexus run (it goes on)" in ended.stderr
    status, left = re.fullmatch(r'status (\d)\n{"status": 1} *(\d+)\n', ended.stdout).groups()
    assert status == "1"
    assert 1024 < int(left) <= 2048


def test_too_little_room_ends_work_that_would_have_gone_on(tmp_path):
    before = threading.enumerate()
    begun = time.monotonic()
    with pytest.raises(NexusError, match=rf"the disk of {tmp_path} is nearly full") as error:
        at_work(tmp_path, Limits((tmp_path,), 1, shutil.disk_usage(tmp_path).free / (1 << 20) + 4096))
    assert time.monotonic() - begun < 3
    assert error.value.exit_code == 1
    assert threading.enumerate() == before
    assert [event.kind for event in read_events(tmp_path / "events.jsonl")] == []
    assert signal.getsignal(signal.SIGURG) == signal.SIG_DFL


def test_too_little_memory_ends_it_before_the_system_does(tmp_path):
    with pytest.raises(NexusError, match=r"the memory is nearly full: [\d,]+ MiB are free, [\d,]+ MiB are kept free"):
        at_work(tmp_path, Limits((tmp_path,), psutil.virtual_memory().total / (1 << 20), 1))


def test_a_directory_that_is_deleted_under_a_run_is_watched_at_its_parent(tmp_path):
    place = tmp_path / "run" / "deep"
    place.mkdir(parents=True)
    with watching("plain", tmp_path) as events, signals(events), guarded(events, Limits((place,), 1, 1, every=0.02)):
        shutil.rmtree(tmp_path / "run")
        time.sleep(0.2)
    assert read_events(tmp_path / "events.jsonl") == []


def test_a_machine_with_room_is_left_alone(tmp_path):
    before = threading.enumerate()
    with watching("plain", tmp_path) as events, signals(events), guarded(events, Limits((tmp_path,), 1, 1, every=0.02)):
        assert len(threading.enumerate()) == len(before) + 3
        time.sleep(0.3)
    assert threading.enumerate() == before


# --- heat --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def degrees(tmp_path):
    """`degrees(N)` is what the run's thermometer says from now on."""
    (tmp_path / "run").mkdir()

    def say(number):
        (tmp_path / "run" / "degrees.tmp").write_text(str(number))
        (tmp_path / "run" / "degrees.tmp").replace(tmp_path / "run" / "degrees")

    say(60)
    return say


def test_heat_holds_the_run_until_it_is_cool_and_not_only_below_the_limit(start, degrees):
    running = start("heat")
    degrees(83)
    running.until("unit_progress")
    degrees(84.2)
    reason = "k10temp is at 84 C, over 83 C; until it is below 75 C"
    assert running.until("paused").facts == {"reason": reason}
    for warm in (82, 75):
        degrees(warm)
        told = len(running.events())
        time.sleep(0.3)
        assert len(running.events()) == told
    degrees(74.9)
    running.until("resumed")
    running.until("unit_progress", after=len(running.events()))
    running.signal(signal.SIGINT)
    assert running.end()[0] == 130


def test_heat_and_a_person_hold_it_each_until_they_let_go(start, degrees):
    running = start("heat")
    running.signal(signal.SIGUSR1)
    running.until("paused")
    degrees(90)
    both = running.until(lambda event: event.kind == "paused" and "90 C" in event.facts["reason"])
    assert both.facts["reason"].startswith("by nexus pause; k10temp")
    running.signal(signal.SIGUSR2)
    only = running.until(lambda event: event.kind == "paused" and event.facts["reason"].startswith("k10temp"))
    assert "by nexus pause" not in only.facts["reason"]
    assert "resumed" not in [event.kind for event in running.events()]
    degrees(60)
    running.until("resumed")


def test_a_thermometer_that_breaks_ends_the_run_instead_of_letting_it_burn(start, degrees, tmp_path):
    running = start("heat")
    (tmp_path / "run" / "degrees").unlink()
    status, _, err = running.end()
    assert status == 1
    assert "error: the machine cannot be watched any more ([Errno 2]" in err


def test_the_hottest_counts_and_chips_with_limits_of_their_own_do_not(monkeypatch):
    reading = type("Reading", (), {})
    chips = {}
    for name, temperatures in {"coretemp": (50, 71), "nvme": (90,), "amdgpu": (64,), "k10temp": ()}.items():
        chips[name] = [type("One", (reading,), {"current": degrees})() for degrees in temperatures]
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: chips, raising=False)
    assert guards.processor_temperatures() == {"coretemp": 71, "amdgpu": 64}
    monkeypatch.delattr(psutil, "sensors_temperatures")
    assert guards.processor_temperatures() == {}


NVML = """
NVML_TEMPERATURE_GPU = 0
class NVMLError(Exception): pass
class Broken: readings, driver, calls = 2, True, []
def nvmlInit():
    if not Broken.driver: raise NVMLError("no driver")
    Broken.calls.append("on")
def nvmlShutdown(): Broken.calls.append("off")
def nvmlDeviceGetCount(): return 2
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetTemperature(handle, sensor):
    if not Broken.readings: raise NVMLError("GPU is lost")
    Broken.readings -= 1
    return 70 + handle
"""


def test_gpus_are_read_where_nvml_is(tmp_path, monkeypatch):
    """A stand-in with the names of nvidia-ml-py; there is no GPU where this runs."""
    (tmp_path / "pynvml.py").write_text(NVML)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    with guards.gpu_temperatures() as read:
        assert read() == {"GPU 0": 70.0, "GPU 1": 71.0}
        with pytest.raises(OSError, match="GPU is lost"):
            read()
    broken = sys.modules["pynvml"].Broken
    assert broken.calls == ["on", "off"]
    broken.driver = False
    with guards.gpu_temperatures() as read:
        assert read() == {}
    monkeypatch.delitem(sys.modules, "pynvml")


# --- memory of a container, and plans ----------------------------------------------------------------------------------


def group(path, limit, used, cache=0):
    path.mkdir(parents=True, exist_ok=True)
    (path / "memory.max").write_text(f"{limit}\n")
    (path / "memory.current").write_text(f"{used}\n")
    (path / "memory.stat").write_text(f"anon 5\ninactive_file {cache}\n")


def left_in_groups(root, membership):
    return min(map(guards._left_in, guards._groups(root, membership)))


def test_the_tightest_of_a_containers_groups_counts(tmp_path):
    mib = 1 << 20
    root, membership = tmp_path / "root", tmp_path / "membership"
    membership.write_text("1:name=systemd:/\n0::/user.slice/docker-1\n")
    group(root / "user.slice", 300 * mib, 250 * mib, 20 * mib)
    group(root / "user.slice" / "docker-1", 200 * mib, 100 * mib, 10 * mib)
    assert guards._groups(root, membership) == [root / "user.slice" / "docker-1", root / "user.slice", root]
    assert left_in_groups(root, membership) == 70
    group(root / "user.slice", "max", 250 * mib)
    assert left_in_groups(root, membership) == 110


def test_the_margin_in_a_small_container_is_a_tenth_of_it(tmp_path, monkeypatch):
    (tmp_path / "membership").write_text("0::/\n")
    group(tmp_path, 2000 << 20, 0)
    monkeypatch.setattr(guards, "CGROUPS", tmp_path)
    monkeypatch.setattr(guards, "MEMBERSHIP", tmp_path / "membership")
    assert Limits().memory_mb == 200
    assert 0 < guards.free_memory_mb() <= 2000


@pytest.mark.parametrize("membership", ["0::/\n", "1:memory:/x\n", "", None])
def test_no_limit_where_no_group_has_one(tmp_path, membership):
    if membership is not None:
        (tmp_path / "membership").write_text(membership)
    assert left_in_groups(tmp_path, tmp_path / "membership") == float("inf")


def test_a_plan_that_fits_and_one_that_does_not(tmp_path):
    limits = Limits((tmp_path / "not" / "there", tmp_path), 100, 100)
    assert check_plan(Needs(1, 1), limits) == []
    free = psutil.virtual_memory().total / (1 << 20)
    memory, disk = check_plan(Needs(free, 1e9), limits)
    assert memory.startswith(f"it needs about {free:,.0f} MiB of memory, and 100 MiB that stay free; ")
    assert re.search(rf"^it needs about 1,000,000,000 MiB of disk, .*; [\d,]+ MiB are free at {tmp_path}", disk)


def test_two_guards_that_end_it_at_once_end_it_once():
    events = Events([])
    events.brake.end(NexusError("first"))
    events.brake.end(NexusError("second"))
    with pytest.raises(BaseException, match="first"):
        events.brake.obey()
    events.brake.obey()
