"""One capability is taught again, alone, and takes the place of its one file in a bundle. All else stays, to the byte.

The work is done beside the run, in RUN/distill/.update-NAME: the adapter is taught there, a copy of the student with it goes
before the gate with every capability, and a draft of the bundle is compared with the bundle that it replaces. Only what has
passed all of that is taken over: by the run first, and by the bundle last. So a failure changes nothing, and a command that
was killed goes on where it was when it is given again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexus_core.atomic import make_directory, sync_tree, write_atomic, writing
from nexus_core.bundle.digest import student_digest
from nexus_core.bundle.manifest import MANIFEST, NAME, README, REPORT, SHARD_LIMIT, Manifest
from nexus_core.bundle.shards import files_of
from nexus_core.distill.material import WORK
from nexus_core.distill.run import CHECKPOINTS, STUDENT, journal_files
from nexus_core.errors import ContractFailed, DataError, UsageError
from nexus_core.gate.isolation import restore
from nexus_core.gate.report import Report, check_report, read_report, write_report
from nexus_core.gate.verify import GateOrder, verify_subject
from nexus_core.pipeline.package import PackageOrder, bundle_parts
from nexus_core.pipeline.rollback import KEEP, Versions, versions_of
from nexus_core.plugins import Plugins
from nexus_core.registry import Registry
from nexus_core.student.files import ADAPTERS, PART

if TYPE_CHECKING:
    from nexus_core.bundle.writer import BundleParts
    from nexus_core.student.files import Student

BEGUN = "begun.json"
UPDATED = Path(WORK, "updated")
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, eq=False)
class UpdateOrder:
    """What to teach again, and how. `anew`: from new weights, not from those it has; `out`: where the bundle goes, else it
    replaces `bundle`, of which the last `keep` versions stay; `steps`: at most so many in each phase."""

    run: Path
    capability: str
    registry: Registry
    plugins: Plugins
    bundle: Path | None = None
    out: Path | None = None
    anew: bool = False
    steps: int | None = None
    seed: int | None = None
    workers: int = 0
    device: str = "cpu"
    keep: int = KEEP
    shard_limit: int = SHARD_LIMIT
    say: Say = field(default=lambda text: None)

    @property
    def name(self) -> str:
        return self.registry.capability(self.capability).id

    @property
    def source(self) -> Path:
        """The bundle that is there."""
        return self.bundle or self.run / NAME

    @property
    def target(self) -> Path:
        return self.out or self.source

    @property
    def desk(self) -> Path:
        """Where the work is done."""
        return self.run / WORK / f".update-{self.name}"

    @property
    def adapter(self) -> Path:
        """The file in a student's directory."""
        return Path(ADAPTERS, f"{self.name}{PART}")


@dataclass(frozen=True, slots=True)
class Updated:
    """The new bundle, the files in which it differs from the one before, and the number that one has among the versions
    (None: nothing was replaced)."""

    manifest: Manifest
    report: Report
    changed: tuple[str, ...]
    replaced: int | None


def update(order: UpdateOrder) -> Updated:
    """The bundle with this capability taught again, or `ContractFailed` and everything as it was."""
    restore(order.run)
    with versions_of(order.target, order.say) as versions:
        before = check_source(order)
        seed = _begin(order)
        if not _passed(order):
            if not (order.desk / STUDENT).is_dir():
                _teach(order, seed)
            _verify(order)
        return _take_over(order, versions, before)


def check_source(order: UpdateOrder) -> Manifest:
    """The bundle's manifest, if all of it but this one adapter is the run's student as it is now."""
    from nexus_core.bundle.golden import findings
    from nexus_core.bundle.reader import open_bundle
    from nexus_core.bundle.stored import as_stored, to_store
    from nexus_core.student.files import read_student

    bundle, student = open_bundle(order.source), read_student(order.run / STUDENT)
    if order.name not in bundle.manifest.capabilities or order.name not in student.model.adapters:
        raise UsageError(
            f'"{order.name}" is not in both {order.source} and {order.run / STUDENT}',
            f"what is new takes a new bundle (nexus bundle build); it has: {', '.join(bundle.manifest.capabilities)}",
        )
    stored = as_stored(student, *to_store(student, bundle.manifest.quantisation.kind))
    ours, theirs = findings(stored, {})["weights"], findings(bundle.student(), {})["weights"]
    own = f'the adapter of "{order.name}"'
    if other := [part for part in sorted({*ours, *theirs} - {own}) if ours.get(part) != theirs.get(part)]:
        raise DataError(
            f"{order.source} is not the bundle of {order.run / STUDENT}: {other[0]} is another one",
            f"build it anew: nexus bundle build {order.run} --out {order.source} (what updates have replaced in the run is "
            f"in {order.run / WORK}/CAPABILITY/before_update_N{PART})",
        )
    return bundle.manifest


def updated_adapters(run: Path) -> dict[str, Path]:
    """The adapters that were taught again after the run's own training, by capability."""
    return {path.name.removesuffix(PART): path for path in sorted((run / UPDATED).glob(f"*{PART}"))}


# --- beside the run -----------------------------------------------------------------------------------------------------


def _begin(order: UpdateOrder) -> int:
    """Go on with what was begun in the same words on the same student, or start; the seed of the training."""
    student, desk = order.run / STUDENT, order.desk
    adapter = student / order.adapter
    adapter.with_name(f".{adapter.name}.tmp").unlink(missing_ok=True)  # of a command that was killed while it took over
    present = _sha256(adapter)
    asked = {"rest": _rest(order), "anew": order.anew, "steps": order.steps, "seed": order.seed, "device": order.device}
    begun = _read_begun(desk / BEGUN)
    if begun and begun["asked"] == asked and present in (begun["before"], _sha256(desk / STUDENT / order.adapter)):
        order.say(f"going on with the update of {order.name} that was begun")
        return int(begun["seed"])
    with writing(desk):
        _clear(order)
        make_directory(desk)
    seed = _seed(order)
    content = {"asked": asked, "before": present, "seed": seed}
    write_atomic(desk / BEGUN, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())
    return seed


def _clear(order: UpdateOrder) -> None:
    """An update is over when nothing says any more that it was begun; what is left of its files says nothing."""
    (order.desk / BEGUN).unlink(missing_ok=True)
    shutil.rmtree(order.desk, ignore_errors=True)


def _seed(order: UpdateOrder) -> int:
    """Anew: the student's own. Taught on: another one each time, or it would be shown the same rows in the same order."""
    from nexus_core.student.arch import ARCH, read_arch

    if order.seed is not None:
        return order.seed
    own = read_arch(order.run / STUDENT / ARCH).seed
    earlier = len(list((order.run / WORK / order.name).glob(f"before_*{PART}")))
    return own if order.anew else own + 1 + earlier


def _rest(order: UpdateOrder) -> str:
    """The student without this adapter."""
    place = order.run / STUDENT
    student_digest(place)  # no link, no pipe
    files = sorted(path.relative_to(place) for path in place.rglob("*") if path.is_file())
    lines = [f"{path.as_posix()} {_sha256(place / path)}\n" for path in files if path != order.adapter]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def _read_begun(path: Path) -> Mapping[str, Any] | None:
    """None where nothing was begun, or nobody can say what."""
    try:
        found = json.loads(path.read_bytes())
        return {"asked": dict(found["asked"]), "before": str(found["before"]), "seed": int(found["seed"])}
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _teach(order: UpdateOrder, seed: int) -> None:
    """Stage 4 for this adapter; the student with it lies on the desk then."""
    from nexus_core.distill.material import Gatherer
    from nexus_core.distill.recovery import DistillFailed
    from nexus_core.distill.report import SUMMARY, DistillReport, write_report
    from nexus_core.distill.run import Distiller, Order, gather
    from nexus_core.distill.settings import read_teaching

    started = time.perf_counter()
    student = _student(order)
    settings = read_teaching(student.arch.preset)
    if order.steps is not None:
        most = order.steps
        settings = replace(settings, phases=tuple(replace(p, steps=min(p.steps, most)) for p in settings.phases))
    gatherer = Gatherer(order.run, order.registry, order.plugins, settings.data)
    materials = gather(gatherer, student, [order.name])
    gathered = time.perf_counter()
    asked = Order(
        order.desk,
        adapter=order.name,
        fresh=False,
        further=not order.anew,
        workers=order.workers,
        device=order.device,
        seed=seed,
    )
    try:
        (taught,) = Distiller(asked, student, settings, materials, order.say).distill()
    except DistillFailed:
        _clear(order)
        raise
    seconds = {"rows": gathered - started, "teaching": time.perf_counter() - gathered}
    _put_on_desk(order, student)
    if (order.run / SUMMARY).exists():
        make_directory((order.desk / SUMMARY).parent)
        shutil.copyfile(order.run / SUMMARY, order.desk / SUMMARY)
    parts = {name: round(spent, 1) for name, spent in seconds.items()}
    write_report(order.desk, DistillReport((taught,), _sizes(student), parts), alone=True)


def _student(order: UpdateOrder) -> Student:
    """The run's, with this adapter as it is, or as it is before any training."""
    from nexus_core.distill.run import Order, placed, renewed_student
    from nexus_core.student.arch import ARCH, read_arch
    from nexus_core.student.files import read_student

    if order.anew:
        arch = read_arch(order.run / STUDENT / ARCH)
        return renewed_student(Order(order.run, device=order.device), order.name, arch)
    student = read_student(order.run / STUDENT)
    return replace(student, model=placed(student.model, order.device))


def _sizes(student: Student) -> Mapping[str, int]:
    from nexus_core.architect.sizes import sizes

    return sizes(student.arch).parts


def _put_on_desk(order: UpdateOrder, student: Student) -> None:
    """Whole or not at all: where the directory is, the teaching is done."""
    from nexus_core.student.files import write_adapter

    draft = order.desk / f".{STUDENT}.draft"
    with writing(draft):
        shutil.rmtree(draft, ignore_errors=True)
        shutil.copytree(order.run / STUDENT, draft)
        write_adapter(draft, student.model, order.name)
        sync_tree(draft)
        draft.rename(order.desk / STUDENT)


def _verify(order: UpdateOrder) -> None:
    """The gate, with every capability of the student on the desk."""
    gate = GateOrder(order.desk / STUDENT, order.run, order.registry, order.plugins, device=order.device, say=order.say)
    report = verify_subject(gate)
    if not report.passed:
        raise _failed(order, "; ".join(report.body["reasons"]))
    write_report(order.desk / REPORT, report)


def _failed(order: UpdateOrder, reasons: str) -> ContractFailed:
    """Nothing of a failed update is gone on with."""
    _clear(order)
    return ContractFailed(
        f"nothing was changed: with {order.name} taught again, the student does not pass: {reasons}",
        "teach it longer (--steps), from new weights (--anew), or from more signals (nexus profile)",
    )


def _passed(order: UpdateOrder) -> bool:
    """Whether the student on the desk has been before the gate, by this registry's contracts."""
    student, path = order.desk / STUDENT, order.desk / REPORT
    if not (student.is_dir() and path.is_file()):
        return False
    report = read_report(path)
    return report.passed and not check_report(report, order.registry, student_digest(student))


# --- taken over ---------------------------------------------------------------------------------------------------------


def _take_over(order: UpdateOrder, versions: Versions, before: Manifest) -> Updated:
    """The draft of the bundle, then the run, and last the bundle."""
    from nexus_core.bundle.golden import check_reload
    from nexus_core.bundle.writer import write_files

    parts = _parts(order, before)
    order.say("writing, and reading back in a fresh process")
    with versions.draft() as draft:
        with writing(order.target):
            manifest, expected = write_files(draft, parts)
        check_reload(draft, expected, {name: own.prompts for name, own in parts.capabilities.items()})
        changed = changes(before, manifest, order.name)
        report = read_report(order.desk / REPORT)
        _adopt(order, report)
        there = order.target / MANIFEST
        same = there.is_file() and there.read_bytes() == manifest.to_bytes()  # a killed command had got as far as this
        replaced = None if same else versions.accept(order.keep)
    _clear(order)
    return Updated(manifest, report, changed, replaced)


def _parts(order: UpdateOrder, before: Manifest) -> BundleParts:
    """A bundle of the same kind and name. A quantised one is verified as it will be stored."""
    package = PackageOrder(
        run=order.run,
        out=order.target,
        registry=order.registry,
        plugins=order.plugins,
        quantisation=before.quantisation.kind,
        name=before.name,
        shard_limit=order.shard_limit,
        device=order.device,
        say=order.say,
        place=order.desk,
    )
    try:
        return bundle_parts(package)
    except ContractFailed as error:
        raise _failed(order, error.message) from error


def changes(before: Manifest, after: Manifest, capability: str) -> tuple[str, ...]:
    """The files that differ; more than the one adapter and the texts about it is an error."""
    names = sorted({*before.files, *after.files})
    differ = [name for name in names if before.files.get(name) != after.files.get(name)]
    own = {name for one in (before, after) for name in files_of(one.capabilities[capability].adapter, one.files)}
    if others := [name for name in differ if name not in {*own, README, REPORT}]:
        raise DataError(
            f"{others[0]} would change too, and an update replaces one adapter",
            "give the same --shard-limit as when it was built, or build it anew: nexus bundle build",
        )
    return tuple(differ)


def _adopt(order: UpdateOrder, report: Report) -> None:
    """The run's student and what tells of it. Given again after a kill, it does the same."""
    from nexus_core.distill.report import SUMMARY

    desk, run, name = order.desk, order.run, order.name
    old, new = run / STUDENT / order.adapter, desk / STUDENT / order.adapter
    journal = run / WORK / name
    make_directory(journal)
    make_directory(run / UPDATED)
    kept = list(journal.glob(f"before_update_*{PART}"))
    if _sha256(old) not in (_sha256(new), *map(_sha256, kept)):
        write_atomic(journal / f"before_update_{len(kept) + 1}{PART}", old.read_bytes())
    for place in (old, run / UPDATED / f"{name}{PART}"):
        write_atomic(place, new.read_bytes())
    write_report(run / REPORT, report)
    write_atomic(run / SUMMARY, (desk / SUMMARY).read_bytes())
    made = list(journal_files(desk / WORK / name))
    with writing(journal):
        for path in journal_files(journal):
            path.unlink()
        for path in made:
            shutil.copyfile(path, journal / path.name)
        checkpoints = CHECKPOINTS / "adapters" / name
        shutil.rmtree(run / checkpoints, ignore_errors=True)
        shutil.copytree(desk / checkpoints, run / checkpoints)
