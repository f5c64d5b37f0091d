"""The page of all benchmark records: what was measured, where, and how sure it is."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence

from anatobench import __version__
from anatobench.report.benchmark_plots import (
    OURS,
    Bar,
    bars,
    colour_of,
    interval_of,
    ratios,
    scaling_plot,
)
from anatobench.report.benchmark_records import BenchmarkRecords, Record, arm_label, device_name, step_arms
from anatobench.report.html_parts import html_page, section, table

GIB = 2**30


def build_benchmark_page(records: BenchmarkRecords, title: str = "AnatoBench: benchmarks") -> str:
    """The whole page as text; a section for each kind of figure that some record has."""
    arms = step_arms(records.of("step"))
    sections = [
        _header(records, title),
        section("Seconds per training step", _per_device(arms, _step_times)),
        section("Share of the device's peak", _per_device(arms, _utilisation)),
        section("Ratios of step times", ratios(_step_ratios(records.of("step")), "ratio of step times, log scale")),
        section("Memory", _per_device(arms, _memory) + _largest_batches(records.of("memory"))),
        section("Loading against demand", "".join(map(_loading, records.of("load")))),
        section("Loading beside others", "".join(map(_beside_peers, records.of("load_beside_peers")))),
        section("Ways to store a case", "".join(map(_formats, records.of("storage_formats")))),
        section("Preparation", "".join(map(_preparation, records.of("prepare")))),
        section("Training end to end", "".join(map(_training, records.of("train")))),
        section("Scaling", "".join(map(_scaling, records.of("scaling")))),
        section("How to read this", _reading(records)),
    ]
    return html_page(title, sections)


def _header(records: BenchmarkRecords, title: str) -> str:
    found = [record for kind in records.by_kind.values() for record in kind]
    devices = sorted({device_name(record) for record in found})
    text = f"{len(found)} records, measured on {', '.join(devices)}. AnatoBench {__version__}"
    return f"<header><h1>{html.escape(title)}</h1><p>{html.escape(text)}</p></header>"


def _reading(records: BenchmarkRecords) -> str:
    texts = [
        "Black lines are 95 % bootstrap intervals of the median, over steps or over rounds measured in turns.",
        "Volumes per second and core are per second of processor time: other work on the machine disturbs them less "
        "than it does the wall clock.",
        "Efficiency of weak scaling is the single process's step time over that of N with N times the cases; of strong "
        "scaling, a N-th of the single process's over that of N with the same cases.",
        *records.skipped,
    ]
    return "".join(f'<p class="soft">{html.escape(text)}</p>' for text in texts)


def _note(*texts: str) -> str:
    return "".join(f'<p class="soft">{html.escape(text)}</p>' for text in texts if text)


def _per_device(arms: Sequence[Record], plot: Callable[[Sequence[Record]], str]) -> str:
    """One plot per device and geometry: other bars would not be comparable."""
    places = dict.fromkeys((device_name(arm), _geometry(arm)) for arm in arms)
    parts = []
    for place in places:
        drawn = plot([arm for arm in arms if (device_name(arm), _geometry(arm)) == place])
        if drawn:
            parts.append(f"<p>{html.escape(', '.join(word for word in place if word))}</p>{drawn}")
    return "".join(parts)


def _geometry(record: Record) -> str:
    return " ".join(str(record[name]) for name in ("geometry", "size") if record.get(name))


def _step_times(arms: Sequence[Record]) -> str:
    entries = [Bar(arm_label(arm), arm["median_s"], interval_of(arm.get("ci95_s")), colour_of(arm)) for arm in arms]
    return bars(entries, "time of a step", "seconds")


def _utilisation(arms: Sequence[Record]) -> str:
    entries = [Bar(arm_label(arm), 100 * arm["mfu"], None, colour_of(arm)) for arm in arms if arm.get("mfu")]
    return bars(entries, "model FLOP utilisation", "% of peak")


def _memory(arms: Sequence[Record]) -> str:
    entries = [
        Bar(f"{arm_label(arm)} ({arm.get('peak_memory_of', 'device')})", arm["peak_memory_bytes"] / GIB, None,
            colour_of(arm))
        for arm in arms
        if arm.get("peak_memory_bytes")
    ]  # fmt: skip
    return bars(entries, "peak memory", "GiB")


def _largest_batches(records: Sequence[Record]) -> str:
    entries = [
        Bar(f"{arm_label(record)}, {_geometry(record)}, {device_name(record)}", record["largest_batch"], None,
            colour_of(record))
        for record in records
        if record.get("largest_batch")
    ]  # fmt: skip
    return bars(entries, "largest batch that fits", "cases")


def _step_ratios(records: Sequence[Record]) -> list[tuple[str, float, tuple[float, float] | None]]:
    rows = []
    for record in records:
        for found in record.get("ratios") or []:
            ratio = found.get("ratio")
            if isinstance(ratio, int | float):
                pair = " / ".join(str(found[name]) for name in ("of", "to") if found.get(name))
                label = ", ".join(str(word) for word in (pair, record.get("model"), _geometry(record)) if word)
                rows.append((label, float(ratio), interval_of(found.get("ci95"))))
    return rows


def _loading(record: Record) -> str:
    entries = [
        Bar(_count(entry["workers"], "worker", "no workers"), entry["volumes_per_s"],
            interval_of(entry["volumes_per_s_ci95"]), OURS)
        for entry in record["loaders"]
    ]  # fmt: skip
    copy = record["plain_copy"]
    entries.append(Bar("plain copy of as many bytes", copy["volumes_per_s"], interval_of(copy["volumes_per_s_ci95"])))
    demand, memory, share = record.get("demand"), record.get("memory"), record["share_of_plain_copy"]
    line = (demand["volumes_per_s"], f"what one device consumes ({demand['source']})") if demand else None
    low, high = share["ci95"]
    return bars(entries, "loading", "volumes per second", line) + _note(
        f"{_store_of(record)} on {device_name(record)}: {record['volumes_per_s_per_core']:.0f} volumes per second and "
        f"core, {share['ratio']:.2f} of a plain copy's speed (95 %: {low:.2f} to {high:.2f}).",
        f"Over {memory['batches']} batches memory grew by {memory['growth_bytes'] / 2**20:+.1f} MiB by its trend, at "
        f"{memory['median_bytes'] / 2**20:.0f} MiB."
        if memory
        else "",
    )


def _count(number: int, what: str, none: str) -> str:
    plural = what + ("es" if what.endswith("s") else "s")
    return none if number == 0 else f"{number} {what if number == 1 else plural}"


def _store_of(record: Record) -> str:
    store = record["store"]
    crop = "x".join(str(length) for length in store["crop_size"])
    return f"Crops of {crop} in batches of {record['batch_size']} from {store['training_cases']} cases"


def _beside_peers(record: Record) -> str:
    results = record["per_core"]
    entries = [
        Bar(name, entry["volumes_per_s_per_core"], interval_of(entry["volumes_per_s_per_core_ci95"]),
            OURS if name == "anatobench" else "#5b6670")
        for name, entry in results.items()
        if name != "memory copy"
    ]  # fmt: skip
    times = [
        (name, entry["times_as_long_as_ours"]["ratio"], interval_of(entry["times_as_long_as_ours"]["ci95"]))
        for name, entry in results.items()
        if name != "anatobench"
    ]
    return (
        bars(entries, "loading", "volumes per second and core")
        + ratios(times, "processor time per volume, times AnatoBench's, log scale")
        + _note(f"{_store_of(record)} on {device_name(record)}.", record.get("note", ""))
    )


def _formats(record: Record) -> str:
    rows = []
    for entry in record["formats"]:
        low, high = entry["times_present"]["ci95"]
        rows.append(
            (
                entry["name"],
                f"{entry['bytes'] / 1e6:.1f} MB",
                f"{entry['cpu_ms_per_crop']:.2f} ms",
                f"{entry['times_present']['ratio']:.2f} [{low:.2f}, {high:.2f}]",
            )
        )
    header = ("format", "on disk", "processor time per crop", "times the present one [95 %]")
    return table(header, rows) + _note(f"{record.get('scan', '')} on {device_name(record)}.", record.get("note", ""))


def _preparation(record: Record) -> str:
    entries = [
        Bar(_count(entry["workers"], "process", "no other process"), entry["volumes_per_s"],
            interval_of(entry["volumes_per_s_ci95"]), OURS)
        for entry in record["results"]
    ]  # fmt: skip
    data = record["data"]
    return bars(entries, "preparation", "volumes per second") + _note(
        f"{data['volumes']} scans and masks of {'synthetic ' if data['synthetic'] else ''}{data['dataset']} "
        f"({data['size']}) on {device_name(record)}: {record['volumes_per_s_per_core']:.2f} per second and core."
    )


def _training(record: Record) -> str:
    names = {"with_loading": "with loading", "same_batch": "same batch", "loading_alone": "loading alone"}
    entries = [
        Bar(label, record[name]["seconds_per_step"], interval_of(record[name]["ci95_s"]),
            "#5b6670" if name == "loading_alone" else colour_of(record))
        for name, label in names.items()
    ]  # fmt: skip
    slowdown = record["slowdown"]
    low, high = slowdown["ci95"]
    return bars(entries, "time of a step", "seconds") + _note(
        f"{arm_label(record)}, {_geometry(record)}, on {device_name(record)}: with loading a step takes "
        f"{slowdown['ratio']:.3f} times as long (95 %: {low:.3f} to {high:.3f}); the slower side is the "
        f"{record['bottleneck']}."
    )


def _scaling(record: Record) -> str:
    assumed = (record.get("prediction") or {}).get("assumptions", [])
    listed = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in assumed)
    assumptions = f"<details><summary>Assumptions of the prediction</summary><ul>{listed}</ul></details>"
    return (
        scaling_plot(record)
        + _note(f"{arm_label(record)}, {_geometry(record)}, on {device_name(record)}.")
        + (assumptions if assumed else "")
    )
