"""The streaming loader beside plain `orjson` line parsing: speed and peak memory over one JSON-lines file, in one run.

    python benchmarks/data_loader.py [--size 2G] [--rounds 3] [--words 90] [--csv curve.csv] [--png curve.png]

Makes the file in a temporary directory. Every measurement is a process of its own; rounds alternate between the ways,
so that what else the machine does falls on all of them. Ratios are taken round by round: 1.0 is as fast as the peer.

    plain      for line in open(path, "rb"): orjson.loads(line)
    loader     for record in StreamingDataLoader(path)
    seeded     for record in StreamingDataLoader(path, seed=42)
    batches    for batch in StreamingDataLoader(path, batch_size=32).batches()
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
WAYS = ("plain", "loader", "seeded", "batches")
MIB = 1 << 20


def write_file(path: Path, size: int, words: int) -> int:
    """Rows like those of a question-and-answer set: two texts of uneven length and two small fields."""
    draw = random.Random(42)
    vocabulary = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(4000)]
    texts = [
        json.dumps(" ".join(draw.choices(vocabulary, k=draw.randint(words // 4, words * 3 // 4)))) for _ in range(5000)
    ]
    written = rows = 0
    with path.open("w", buffering=MIB) as stream:
        while written < size:
            question, answer = draw.choice(texts), draw.choice(texts)
            written += stream.write(f'{{"id": {rows}, "question": {question}, "answer": {answer}, "level": "easy"}}\n')
            rows += 1
    return rows


def run_way(way: str, path: str) -> int:
    """Go through the whole file; nothing but the way itself is in the loop."""
    count = 0
    if way == "plain":
        import orjson

        loads = orjson.loads
        with Path(path).open("rb") as stream:
            for line in stream:
                loads(line)
                count += 1
        return count
    from nexus_core.data import StreamingDataLoader

    if way == "batches":
        for batch in StreamingDataLoader(path, batch_size=32).batches():
            count += len(batch)
        return count
    for _ in StreamingDataLoader(path, seed=42 if way == "seeded" else None):
        count += 1
    return count


def worker(way: str, path: str) -> None:
    started = time.perf_counter()
    count = run_way(way, path)
    wall, used = time.perf_counter() - started, psutil.Process().cpu_times()
    print(json.dumps({"records": count, "wall": wall, "cpu": used.user + used.system, "peak": high_water()}))


def high_water() -> int:
    """This process's peak as the kernel saw it, in bytes; 0 where it does not say, and samples must do."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def curve_worker(path: str, every: int) -> None:
    """Resident memory over the stream, outside the timed runs."""
    from nexus_core.data import StreamingDataLoader

    process = psutil.Process()
    for n, _ in enumerate(StreamingDataLoader(path), 1):
        if n % every == 0:
            print(n, process.memory_info().rss)


def measure(way: str, path: Path) -> dict[str, float]:
    """One process; its peak memory is the larger of what was sampled every 10 ms and what the kernel noted."""
    command = [sys.executable, __file__, "--worker", way, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        watched, peak = psutil.Process(process.pid), 0
        while process.poll() is None:
            try:
                peak = max(peak, watched.memory_info().rss)
            except psutil.NoSuchProcess:
                break
            time.sleep(0.01)
        assert process.stdout is not None
        output = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{way} failed with status {process.returncode}")
    result: dict[str, float] = json.loads(output)
    result["peak"] = max(result["peak"], peak)
    return result


def spread(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def report(results: dict[str, list[dict[str, float]]], size: int) -> None:
    """Medians with the smallest and the largest value."""
    print(f"{'':8} {'wall s':>24} {'CPU s':>24} {'MB/s':>6} {'peak MiB':>22}")
    for way, rounds in results.items():
        wall, cpu, peak = ([r[key] for r in rounds] for key in ("wall", "cpu", "peak"))
        rate = size / statistics.median(wall) / 1e6
        peaks = spread([p / MIB for p in peak], ".1f")
        print(f"{way:8} {spread(wall, '.2f'):>24} {spread(cpu, '.2f'):>24} {rate:6.0f} {peaks:>22}")
    for way in WAYS[1:]:
        for key, label in (("wall", "wall"), ("cpu", "CPU")):
            pairs = zip(results["plain"], results[way], strict=True)
            ratios = [plain[key] / other[key] for plain, other in pairs]
            print(f"{way:8} is {spread(ratios, '.2f')} times as fast as plain orjson ({label})")


def memory_curve(path: Path, rows: int) -> list[tuple[int, int]]:
    command = [sys.executable, __file__, "--curve", str(max(1, rows // 40)), str(path)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [(int(n), int(rss)) for n, rss in (line.split() for line in lines)]


def draw_png(curve: list[tuple[int, int]], target: Path) -> None:
    from PIL import Image, ImageDraw

    width, height, edge = 640, 320, 40
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    top = max(200 * MIB, max(rss for _, rss in curve))
    points = [
        (edge + n / curve[-1][0] * (width - 2 * edge), height - edge - rss / top * (height - 2 * edge))
        for n, rss in curve
    ]
    limit = height - edge - 200 * MIB / top * (height - 2 * edge)
    draw.rectangle((edge, edge, width - edge, height - edge), outline="grey")
    draw.line([(edge, limit), (width - edge, limit)], fill="red")
    draw.line(points, fill="blue", width=2)
    draw.text((edge, 12), "resident memory over records; red: 200 MiB", fill="black")
    draw.text((edge, height - 28), f"0 to {curve[-1][0]:,} records; last {curve[-1][1] / MIB:.1f} MiB", fill="black")
    image.save(target)


def show_curve(curve: list[tuple[int, int]], arguments: argparse.Namespace) -> None:
    print("memory curve (records: resident MiB)")
    for n, rss in curve[:: max(1, len(curve) // 10)]:
        print(f"{n:>12,}: {rss / MIB:6.1f} {'#' * round(rss / MIB / 2)}")
    if arguments.csv:
        text = "records,resident_bytes\n" + "".join(f"{n},{rss}\n" for n, rss in curve)
        Path(arguments.csv).write_text(text, encoding="utf-8")
    if arguments.png:
        draw_png(curve, Path(arguments.png))


def size_of(text: str) -> int:
    unit = UNITS.get(text[-1:].upper())
    return int(float(text[:-1]) * unit) if unit else int(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=size_of, default=size_of("2G"), help="bytes, or 500M, or 2G")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--words", type=int, default=90, help="words in a row, on average")
    parser.add_argument("--csv", help="write the memory curve to this file")
    parser.add_argument("--png", help="draw the memory curve into this file")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--curve", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(*arguments.worker)
        return
    if arguments.curve:
        curve_worker(arguments.curve[1], int(arguments.curve[0]))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        rows = write_file(path, arguments.size, arguments.words)
        size = path.stat().st_size
        print(f"{size / 1e9:.2f} GB, {rows:,} rows of {size / rows:.0f} bytes, {arguments.rounds} rounds")
        results: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(arguments.rounds):
            for way in WAYS:
                results[way].append(measure(way, path))
        if any(r["records"] != rows for rounds in results.values() for r in rounds):
            raise SystemExit("a way did not give every record")
        report(results, size)
        show_curve(memory_curve(path, rows), arguments)


if __name__ == "__main__":
    main()
