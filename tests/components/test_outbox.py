"""What waits to be sent: whole after a kill or a power cut at any byte, sent in order, and taken away once."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from waiting import HANG_S, eventually

from csm_components import outbox
from csm_components.outbox import Courier, Delivered, Entry, Outbox

ENTRIES = [{"number": number, "text": "ä\n\ud800" * number} for number in range(4)]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "AGAIN_S", 0.0)


def test_entries_come_back_in_order_and_an_empty_file_is_none(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "run" / "waits.jsonl")
    assert box.read() == ([], [])
    assert not box.path.exists()
    box.put(*ENTRIES[:2])
    box.put(*ENTRIES[2:])
    entries, parts = box.read()
    assert entries == ENTRIES
    box.take(parts[0], later=[{"again": 1}])
    assert box.read()[0] == [*ENTRIES[1:], {"again": 1}]
    box.take(parts[0])
    assert len(box.read()[0]) == 4, "what another has taken is not taken twice"
    box.take(b"".join(box.read()[1]))
    assert not box.path.exists()
    box.take(b"x")
    assert not box.path.exists()


def test_what_is_long_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "_MOST_BYTES", 50)
    box, service = Outbox(tmp_path / "waits"), Service()
    box.put(*ENTRIES)
    box.path.write_bytes(bytes(200) + b"\n" + box.path.read_bytes())
    box.put(*ENTRIES)
    assert len(box.read()[0]) < 4
    courier = Courier(box, service.deliver, warn=lambda reason: None)
    assert courier.flush(HANG_S)
    assert service.got == [*ENTRIES, *ENTRIES]


def test_what_a_power_cut_leaves_costs_the_entry_that_it_hit(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "waits.jsonl")
    box.put(*ENTRIES)
    data = box.path.read_bytes()
    ends = [number + 1 for number, byte in enumerate(data) if byte == ord("\n")]
    for cut in range(len(data) + 1):
        for left in (data[:cut], data[:cut] + bytes(len(data) - cut)):
            box.path.write_bytes(left)
            box.put({"new": 1})
            entries, parts = box.read()
            whole = sum(end <= cut for end in ends)
            if not left[cut:] and cut + 1 in ends:
                whole += 1  # a line without its end is one all the same
            assert entries == [*ENTRIES[:whole], {"new": 1}]
            assert b"".join(parts) == box.path.read_bytes()


class Service:
    """What a courier brings entries to."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self.got: list[Entry] = []
        self.away = False
        self.rng = rng
        self.gate = threading.Event()
        self.gate.set()

    def deliver(self, entries: Sequence[Entry]) -> Delivered:
        self.gate.wait(HANG_S)
        done = Delivered()
        for entry in entries:
            if self.away or (self.rng and self.rng.random() < 0.3):
                done.error = OSError("away\nand more")
                return done
            if entry.get("big") and self.rng and self.rng.random() < 0.5:
                done.later.append(entry)
                done.error = OSError("too big for now")
            else:
                self.got.append(entry)
            done.taken += 1
        return done


@pytest.mark.parametrize("seed", range(5))
def test_all_is_sent_once_by_a_courier_that_fails_at_random(tmp_path: Path, seed: int) -> None:
    service, said = Service(random.Random(seed)), []
    courier = Courier(Outbox(tmp_path / "waits"), service.deliver, warn=said.append)
    asked = [{"number": number, "big": number % 7 == 0} for number in range(60)]
    for entry in asked:
        courier.put(entry)
    eventually(lambda: courier.flush(HANG_S))
    assert sorted(entry["number"] for entry in service.got) == list(range(60))
    small = [entry["number"] for entry in service.got if not entry["big"]]
    assert small == sorted(small), "in order, but for what was to come later"
    assert said in (["away"], ["too big for now"]), "it is said once, in one line"
    assert not courier.outbox.path.exists()


def test_nobody_waits_for_a_service_that_is_away_or_hangs(tmp_path: Path) -> None:
    service, said = Service(), []
    courier = Courier(Outbox(tmp_path / "waits"), service.deliver, warn=said.append)
    assert courier.flush(HANG_S), "nothing waits"
    assert courier._thread is None
    service.away = True
    courier.put({"number": 1})
    assert not courier.flush(HANG_S), "one failure is enough"
    service.gate.clear()
    courier.put({"number": 2})
    assert not courier.flush(0.05)
    assert said == ["away"]
    service.away = False
    service.gate.set()
    eventually(lambda: courier.flush(HANG_S))
    assert [entry["number"] for entry in service.got] == [1, 2]


def test_of_two_couriers_one_sends_at_a_time(tmp_path: Path) -> None:
    service, inside = Service(), []

    def deliver(entries: Sequence[Entry]) -> Delivered:
        inside.append(1)
        assert len(inside) == 1
        done = service.deliver(entries[:3])
        inside.pop()
        return done

    box = Outbox(tmp_path / "waits")
    box.put(*({"number": number} for number in range(60)))
    couriers = [Courier(box, deliver, warn=lambda reason: None) for _ in range(4)]
    with ThreadPoolExecutor(len(couriers)) as pool:
        assert all(pool.map(lambda courier: courier.flush(HANG_S), couriers))
    assert [entry["number"] for entry in service.got] == list(range(60))


def test_what_one_process_leaves_another_sends(tmp_path: Path) -> None:
    path = tmp_path / "waits"
    program = "import sys; from pathlib import Path; from csm_components.outbox import Outbox"
    program += (
        "\nbox = Outbox(Path(sys.argv[1]))\nfor number in range(40): box.put({'from': sys.argv[2], 'number': number})"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(path), name]) for name in ("a", "b")]
    service = Service()
    courier = Courier(Outbox(path), service.deliver, warn=lambda reason: None)
    eventually(lambda: courier.put({"from": "c"}) or all(writer.poll() == 0 for writer in writers), every_s=0.05)
    assert courier.flush(HANG_S)
    assert not path.exists()
    for name in ("a", "b"):
        assert [entry["number"] for entry in service.got if entry["from"] == name] == list(range(40))


def test_a_disk_that_takes_nothing_costs_a_warning(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "file").write_text("")
    courier = Courier(Outbox(tmp_path / "file" / "waits"), Service().deliver, warn=said.append)
    courier.put({"number": 1})
    courier.put({"number": 2})
    assert len(said) == 1
