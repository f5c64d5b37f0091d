"""A GPU suite's record in a few lines for a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from anatobench.bench.energy import in_words


def table(record: Mapping[str, Any]) -> str:
    """Compile times, every part's figures, what is missing and why, and what disturbed."""
    lines = list(_compilation(record["compile"]))
    for name, part in record["parts"].items():
        why = f": {part['error']}" if part["error"] else ""
        lines.append(f"{name}: {part['status']} in {part['seconds']:.0f} s{why}")
        records = part["record"] if isinstance(part["record"], list) else [part["record"]]
        for found in filter(None, records):
            lines += [f"  {line}" for line in _figures(name, found)]
    lines += [f"warning: {warning}" for warning in record["warnings"]]
    return "\n".join(lines)


def _compilation(found: Mapping[str, Any]) -> Iterator[str]:
    arms = found["arms"]
    if not arms:
        return
    ready = sum(arm["status"] == "done" for arm in arms.values())
    yield f"compile: {ready} of {len(arms)} arms in {found['seconds']:.0f} s, {found['at_a_time']} at a time"
    for name, arm in arms.items():
        if arm["status"] != "done":
            yield f"  {name:40} {arm['status']}: {arm['error']}"
            continue
        again = (
            "not started again from a cache"
            if arm["from_cache_s"] is None
            else f"from the cache {arm['from_cache_s']:.1f} s"
        )
        before = " (its cache held something)" if arm["compile_cache"] == "filled" else ""
        yield f"  {name:40} first step {arm['compile_s']:6.1f} s{before}, {again}"


def _figures(part: str, record: Mapping[str, Any]) -> Iterator[str]:
    if record.get("kind") == "step":
        yield from _step(part, record)
    elif record.get("kind") == "memory":
        smallest = record["smallest_not_fitting"]
        yield (
            f"{record['model']} {record['name']} {record['precision']}: batch {record['largest_batch']} fits, "
            f"{'no larger one was tried' if smallest is None else f'{smallest} does not'}, "
            f"{record['bytes_per_case'] / 2**20:.0f} MiB per case"
        )
    elif "max_rel_error" in record:
        errors = ", ".join(f"{k} {e:.0e}" for k, e in record["max_rel_error"].items() if e is not None)
        verdict = "equal" if record["passed"] else f"DIFFERENT at {record['first_failure']}"
        yield f"{record['model']} {record['dtype']}: {verdict if record['tolerance'] else 'reported'} ({errors})"


def _step(part: str, record: Mapping[str, Any]) -> Iterator[str]:
    for arm in record["arms"]:
        low, high = (1000 * bound for bound in arm["ci95_s"])
        sheet = "" if arm["mfu_data_sheet"] is None else f"{100 * arm['mfu_data_sheet']:5.1f} % MFU,"
        yield (
            f"{record['model']} b{record['batch_size']} {arm['name']:28} {arm['precision']} "
            f"{1000 * arm['median_s']:8.1f} ms [{low:.1f}, {high:.1f}] {arm['samples_per_s']:7.2f}/s {sheet}"
            f"{100 * arm['mfu_measured']:5.1f} % of a product, {arm['peak_memory_bytes'] / 2**30:6.2f} GiB"
            f"{', ' if arm.get('energy') else ''}{in_words(arm.get('energy'))}"
        )
    for ratio in record["ratios"]:
        if part == "head" and ratio["of"] == f"{ratio['to']} without head":
            low, high = (1 - bound for bound in reversed(ratio["ci95"]))
            share = f"{100 * (1 - ratio['ratio']):.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
            yield f"the head's share of {ratio['to']}'s step: {share}"
        elif part != "head" and ratio["to"] == record["arms"][0]["name"]:
            low, high = ratio["ci95"]
            yield f"{ratio['of']} / {ratio['to']}: {ratio['ratio']:.3f} [{low:.3f}, {high:.3f}]"
    for name, failure in record["failed"].items():
        yield f"{name} failed: {failure['error']}"
