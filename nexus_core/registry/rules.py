"""What a schema cannot say: references between rows, and numbers that make sense together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nexus_core.registry.problems import Problem
from nexus_core.registry.sources import Merged, RawRow
from nexus_core.suggest import did_you_mean


def check_rules(merged: Merged) -> list[Problem]:
    """Every rule that the merged rows break."""
    return [
        *_defaults(merged),
        *(problem for row in merged.each("capabilities") for problem in _capability(merged, row)),
        *_aliases(merged),
        *(problem for row in merged.each("teachers") for problem in _teacher(merged, row)),
        *_names(merged),
    ]


def _defaults(merged: Merged) -> Iterator[Problem]:
    assert merged.project is not None
    document = merged.project.document
    for direction, fraction in merged.defaults["retain_fraction"].items():
        message, hint = _fraction(fraction, direction)
        if message:
            yield document.problem(("defaults", "retain_fraction", direction), message, hint)
    caps = merged.defaults["rank_caps"]
    for tier, row in merged.defaults["tiers"].items():
        if row["rank_cap"] not in caps:
            message = f'tier {tier} names an unknown rank cap "{row["rank_cap"]}"{did_you_mean(row["rank_cap"], caps)}'
            yield document.problem(("defaults", "tiers", tier, "rank_cap"), message, f"known: {', '.join(caps)}")
    for name, thresholds in merged.defaults["thresholds"].items():
        if thresholds["non_negotiable"] <= thresholds["recoverable"]:
            yield document.problem(("defaults", "thresholds", name), *_ORDER)
    weights = document.data.get("profiling", {}).get("loss_weight", {"least": 0, "most": 0})
    if weights["least"] > weights["most"]:
        message = f"the least loss weight, {weights['least']}, is above the most, {weights['most']}"
        yield document.problem(("profiling", "loss_weight"), message, "exchange the two")


_ORDER = ("non_negotiable must be larger than recoverable", "a component that costs more is the stronger class")


def _capability(merged: Merged, row: RawRow) -> Iterator[Problem]:
    towers = merged.rows["towers"]
    for key in [("tower",), *(("also_towers", i) for i in range(len(row.data.get("also_towers", ()))))]:
        name = row.data["tower"] if key == ("tower",) else row.data["also_towers"][key[1]]
        yield from _reference(row, key, name, towers, "tower")
    yield from _reference(row, ("tier",), str(row.data["tier"]), merged.defaults["tiers"], "tier")
    thresholds = row.data["thresholds"]
    if isinstance(thresholds, str):
        yield from _reference(row, ("thresholds",), thresholds, merged.defaults["thresholds"], "thresholds")
    elif thresholds["non_negotiable"] <= thresholds["recoverable"]:
        yield row.problem(("thresholds",), *_ORDER)
    yield from _contract(merged, row, ("contract",), row.data["contract"])


def _contract(merged: Merged, row: RawRow, key: tuple[str, ...], contract: Mapping[str, Any]) -> Iterator[Problem]:
    direction = contract["direction"]
    fraction = contract.get("retain_fraction", merged.defaults["retain_fraction"][direction])
    if fraction is not None and "retain_fraction" in contract:
        message, hint = _fraction(fraction, direction)
        if message:
            yield row.problem((*key, "retain_fraction"), message, hint)
    if contract.get("minimum") is not None and direction == "lower":
        message = "minimum is a floor, and this metric is better when lower"
        yield row.problem((*key, "minimum"), message, "use retain_fraction, which is a ceiling for such a metric")
    if fraction is None and contract.get("minimum") is None:
        message = f"the contract of {row.id} demands nothing: neither retain_fraction nor minimum"
        yield row.problem(key, message, "give one of the two a number")


def _fraction(fraction: float, direction: str) -> tuple[str, str]:
    """What is wrong with a retain fraction in its direction, or two empty texts."""
    if direction == "higher" and fraction > 1:
        return f"retain_fraction {fraction} asks the student to beat its teacher", "at most 1 where higher is better"
    if direction == "lower" and fraction < 1:
        return f"retain_fraction {fraction} asks the student to beat its teacher", "at least 1 where lower is better"
    return "", ""


def _aliases(merged: Merged) -> Iterator[Problem]:
    owners = {row.id: row.id for row in merged.each("capabilities")}
    for row in merged.each("capabilities"):
        for index, alias in enumerate(row.data.get("aliases", ())):
            holder = owners.setdefault(alias, row.id)
            if holder != row.id:
                message = f'the alias "{alias}" of {row.id} already means {holder}'
                yield row.problem(("aliases", index), message, "choose another alias")


def _teacher(merged: Merged, row: RawRow) -> Iterator[Problem]:
    data = row.data
    capabilities = merged.rows["capabilities"]
    if data["tower"] is not None:
        yield from _reference(row, ("tower",), data["tower"], merged.rows["towers"], "tower")
    elif not data.get("unmapped"):
        yield row.problem(("tower",), f"{row.id} has no tower", "name its primary tower, or say `unmapped: true`")
    if not data["capabilities"] and not data.get("unmapped") and data.get("role", "teacher") == "teacher":
        hint = "name them, or say `role: backbone`, `role: interpretability` or `unmapped: true`"
        yield row.problem(("capabilities",), f"{row.id} carries no capability", hint)
    for index, name in enumerate(data["capabilities"]):
        yield from _reference(row, ("capabilities", index), name, capabilities, "capability")
    for name, override in data.get("contracts", {}).items():
        yield from _override(merged, row, name, override)
    if data["category"] == "refinement" and "mode" not in data:
        message = f"{row.id} is a refinement teacher without a mode"
        yield row.problem((), message, "add `mode: streamed` or `mode: blackbox`")
    if "fate" in data:
        yield from _fate(merged, row, data["fate"])


def _fate(merged: Merged, row: RawRow, fate: Mapping[str, Any]) -> Iterator[Problem]:
    """What a merged teacher would have taught is another's to teach: nothing may get lost on the way."""
    key, into = ("fate", "into"), fate.get("into")
    if (role := row.data.get("role", "teacher")) != "teacher":
        yield row.problem(("fate",), f"{row.id} teaches nothing that could end: its role is {role}", "take it out")
    if (fate["action"] == "merge") != (into is not None):
        message = f"{row.id} is {'merged into nobody' if into is None else f'dropped, and into {into}'}"
        yield row.problem(("fate",), message, "`action: merge` has an `into:`, and `action: drop` has none")
        return
    if into is None:
        return
    if into == row.id:
        yield row.problem(key, f"{row.id} is merged into itself", "name another teacher, or drop it")
        return
    if into not in merged.rows["teachers"]:
        yield from _reference(row, key, into, merged.rows["teachers"], "teacher")
        return
    other = merged.rows["teachers"][into].document.data["teachers"][into]
    if "fate" in other:
        yield row.problem(key, f"{row.id} is merged into {into}, which is set aside itself", "name one that teaches")
    elif lost := [name for name in row.data["capabilities"] if name not in other["capabilities"]]:
        message = f"{row.id} is merged into {into}, which does not carry {', '.join(lost)}"
        yield row.problem(key, message, f"drop it, or take {lost[0]} out of its `capabilities:`")


def _override(merged: Merged, row: RawRow, name: str, override: Mapping[str, Any]) -> Iterator[Problem]:
    key = ("contracts", name)
    if name not in row.data["capabilities"]:
        message = f"{row.id} has a contract for {name}, which it does not carry"
        yield row.problem(key, message + did_you_mean(name, row.data["capabilities"]), "add it to `capabilities:`")
        return
    if name not in merged.rows["capabilities"]:
        return  # said above, as an unknown capability
    base = merged.rows["capabilities"][name].document.data["capabilities"][name]["contract"]
    yield from _contract(merged, row, key, {**base, **override})


def _names(merged: Merged) -> Iterator[Problem]:
    """A teacher stands in the registry once, whatever its id."""
    seen: dict[str, RawRow] = {}
    for row in merged.each("teachers"):
        first = seen.setdefault(row.data["name"].casefold(), row)
        if first is not row:
            message = f'the teacher "{row.data["name"]}" is listed twice: as {first.id} and as {row.id}'
            where = f"{first.origin.path}:{first.origin.line}"
            yield row.problem(("name",), message, f"remove one of the two rows (the first is at {where})")


def _reference(
    row: RawRow, key: tuple[str | int, ...], name: str, known: Mapping[str, Any], kind: str
) -> Iterator[Problem]:
    if name not in known:
        message = f'{row.id} names an unknown {kind} "{name}"{did_you_mean(name, known)}'
        yield row.problem(key, message, f"known: {', '.join(known)}")
