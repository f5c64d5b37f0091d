"""The page of all benchmark records: what was measured, where, and how sure it is."""

from __future__ import annotations

import html
from collections.abc import Sequence

from anatobench import __version__
from anatobench.bench.arms import WITHOUT_HEAD
from anatobench.report.benchmark_plots import NEUTRAL, OURS, Bar, bars, colour_of, interval_of, ratios, scaling_plot
from anatobench.report.benchmark_records import BenchmarkRecords, Record, arm_label, arm_name, device_name, step_arms
from anatobench.report.html_parts import folded, html_page, paragraph, pictures, table

GIB = 2**30
MFU = ("mfu", "mfu_data_sheet", "mfu_measured")
INTERVALS = "Black lines are 95 % bootstrap intervals of the median, over steps or over rounds measured in turns."
RATES = (
    "Volumes per second and core are per second of processor time: other work on the machine disturbs them less than "
    "it does the wall clock."
)
EFFICIENCY = (
    "Efficiency of weak scaling is the single process's step time over that of N with N times the cases; of strong "
    "scaling, a N-th of the single process's over that of N with the same cases."
)
PANEL_REM = 26
"""Least width of a plot beside others."""


def build_benchmark_page(records: BenchmarkRecords, title: str = "AnatoBench: benchmarks") -> str:
    """Return the whole page as text; a section for each kind of figure that some record has."""
    sections = {
        "Training steps": "".join(map(_step, records.of("step"))),
        "Largest batch": _largest_batches(records.of("memory")),
        "Loading against demand": "".join(map(_loading, records.of("load"))),
        "Loading beside others": "".join(map(_beside_peers, records.of("load_beside_peers"))),
        "Ways to store a case": "".join(map(_formats, records.of("storage_formats"))),
        "Preparation": "".join(map(_preparation, records.of("prepare"))),
        "Training end to end": "".join(map(_training, records.of("train"))),
        "Scaling": "".join(map(_scaling, records.of("scaling"))),
        "How to read this": _reading(records),
    }
    found = [record for kind in records.by_kind.values() for record in kind]
    devices = ", ".join(sorted({device_name(record) for record in found}))
    count = _count(len(found), "record", "no records")
    return html_page(title, sections, f"{count}, measured on {devices}. AnatoBench {__version__}")


def _reading(records: BenchmarkRecords) -> str:
    loaded = any(records.of(kind) for kind in ("load", "load_beside_peers", "prepare"))
    return paragraph(INTERVALS, RATES if loaded else "", EFFICIENCY if records.of("scaling") else "", *records.skipped)


def _step(record: Record) -> str:
    """Return one record: what every arm took, its share of the peak, its memory, and the ratios."""
    arms = step_arms(record)
    if not arms:
        return ""
    # Old records have one share of the peak and name it; newer ones have it of the data sheet's and of a measured one.
    old = [arm for arm in arms if not any(arm.get(name) for name in ("mfu_data_sheet", "mfu_measured"))]
    peaks = {str(arm["mfu_of"]) for arm in old if arm.get("mfu") and arm.get("mfu_of")}
    named = f"the {' or '.join(sorted(peaks))}" if peaks else "peak"
    share = "model FLOP utilisation"
    plots = [
        _bars_of(arms, "median_s", "time of a step", "seconds"),
        ratios(_step_ratios(record), "ratio of step times, log scale"),
        _bars_of(arms, "mfu_data_sheet", share, "% of the data sheet", 100),
        _bars_of(arms, "mfu_measured", share, "% of a measured matrix product", 100),
        _bars_of(old, "mfu", share, f"% of {named}", 100),
        _bars_of(arms, "peak_memory_bytes", "peak memory", "GiB", 1 / GIB),
        _bars_of(arms, "compile_s", "compilation, apart from the steps", "seconds"),
    ]
    same = record.get("same_first_loss")
    losses = "the same loss" if same else "different losses: compare none"
    began = f"Arms that do the same work began with {losses}." if isinstance(same, bool) else ""
    return _heading(record) + pictures(plots, PANEL_REM) + paragraph(began, _beyond_peak(arms))


def _bars_of(arms: Sequence[Record], name: str, what: str, unit: str, scale: float = 1) -> str:
    """Return a bar for each of the arms that has such a figure; times have an interval, memory says whose it is."""
    entries = []
    for arm in arms:
        if isinstance(arm.get(name), int | float):
            of = f" ({arm.get('peak_memory_of', 'device')})" if name == "peak_memory_bytes" else ""
            interval = interval_of(arm.get("ci95_s")) if name == "median_s" else None
            entries.append(Bar(arm_name(arm) + of, scale * arm[name], interval, colour_of(arm)))
    return bars(entries, what, unit)


def _beyond_peak(arms: Sequence[Record]) -> str:
    """Say why a share of the peak can be above 100 %, where one is."""
    above = "; ".join(arm_name(arm) for arm in arms if any((arm.get(name) or 0) > 1 for name in MFU))
    said = (
        f"Above 100 % ({above}): the measured matrix product is no limit of the hardware. A convolution that "
        "multiplies less often than is counted (as Winograd's) goes beyond it, and so does a step on a machine that "
        "was quieter than when the product was measured."
    )
    return said if above else ""


def _heading(record: Record) -> str:
    """Model, crop and batch; below it the device, the file, and what was set that changes timings."""
    crop = "x".join(str(length) for length in record.get("crop_size") or [])
    batch = f"batch {record['batch_size']}" if record.get("batch_size") else ""
    words = [record.get("model"), _geometry(record), crop, batch]
    environment = (record.get("machine") or {}).get("environment") or {}
    commit = (record.get("code") or {}).get("commit")
    when = [f"commit {str(commit)[:12]}" if commit else "", str(record.get("started") or "")[:10]]
    details = [device_name(record), *when, record.get("file"), *(f"{k}={v}" for k, v in environment.items())]
    title, detail = (", ".join(str(word) for word in some if word) for some in (words, details))
    warnings = [f"Warning: {warning}" for warning in record.get("warnings") or []]
    return (f"<h3>{html.escape(title)}</h3>" if title else "") + paragraph(detail, *warnings)


def _geometry(record: Record) -> str:
    return " ".join(str(record[name]) for name in ("geometry", "size") if record.get(name))


def _largest_batches(records: Sequence[Record]) -> str:
    entries = []
    for record in records:
        if record.get("largest_batch"):
            limit = f", in {record['limit_bytes'] / GIB:.3g} GiB" if record.get("limit_bytes") else ""
            label = f"{arm_label(record)}, {_geometry(record)}{limit}"
            entries.append(Bar(label, record["largest_batch"], None, colour_of(record)))
    devices = ", ".join(sorted({device_name(record) for record in records}))
    return bars(entries, "largest batch that fits", "cases") + paragraph(f"On {devices}." if entries else "")


def _step_ratios(record: Record) -> list[Bar]:
    """Return the ratios of arms that did the same work, and of each with and without the segmentation head."""
    rows = []
    for found in record.get("ratios") or []:
        of, to = str(found.get("of")), str(found.get("to"))
        heads = [name.endswith(WITHOUT_HEAD) for name in (of, to)]
        comparable = heads[0] == heads[1] or of.removesuffix(WITHOUT_HEAD) == to.removesuffix(WITHOUT_HEAD)
        if comparable and isinstance(found.get("ratio"), int | float):
            rows.append(Bar(f"{of} / {to}", float(found["ratio"]), interval_of(found.get("ci95"))))
    return rows


def _loading(record: Record) -> str:
    loaders = record["loaders"]
    entries = [_rate(_count(entry["workers"], "worker", "no workers"), entry, OURS) for entry in loaders]
    entries.append(_rate("plain copy of as many bytes", record["plain_copy"]))
    entries += [_rate(f"{e['workers']} at once", e["plain_copies"]) for e in loaders if e.get("plain_copies")]
    demand, memory, share = record.get("demand"), record.get("memory"), record["share_of_plain_copy"]
    line = (demand["volumes_per_s"], f"what one device consumes ({demand['source']})") if demand else None
    low, high = share["ci95"]
    return bars(entries, "loading", "volumes per second", line) + paragraph(
        f"{_store_of(record)} on {device_name(record)}: {record['volumes_per_s_per_core']:.0f} volumes per second and "
        f"core, {share['ratio']:.2f} of a plain copy's speed (95 %: {low:.2f} to {high:.2f}).",
        f"Over {memory['batches']} batches memory grew by {memory['growth_bytes'] / 2**20:+.1f} MiB by its trend, at "
        f"{memory['median_bytes'] / 2**20:.0f} MiB."
        if memory
        else "",
    )


def _rate(name: str, entry: Record, colour: str = NEUTRAL, figure: str = "volumes_per_s") -> Bar:
    return Bar(name, entry[figure], interval_of(entry[f"{figure}_ci95"]), colour)


def _count(number: int, what: str, none: str) -> str:
    plural = what + ("es" if what.endswith("s") else "s")
    return none if number == 0 else f"{number} {what if number == 1 else plural}"


def _store_of(record: Record) -> str:
    store = record["store"]
    crop = "x".join(str(length) for length in store["crop_size"])
    return f"Crops of {crop} in batches of {record['batch_size']} from {store['training_cases']} cases"


def _beside_peers(record: Record) -> str:
    entries, times = [], []
    for name, entry in record["per_core"].items():
        if name != "memory copy":
            entries.append(_rate(name, entry, OURS if name == "anatobench" else NEUTRAL, "volumes_per_s_per_core"))
        if name != "anatobench":
            longer = entry["times_as_long_as_ours"]
            times.append(Bar(name, longer["ratio"], interval_of(longer["ci95"])))
    return (
        bars(entries, "loading", "volumes per second and core")
        + ratios(times, "processor time per volume, times AnatoBench's, log scale")
        + paragraph(f"{_store_of(record)} on {device_name(record)}.", record.get("note", ""))
    )


def _formats(record: Record) -> str:
    rows = [
        (entry["name"], f"{entry['bytes'] / 1e6:.1f} MB", f"{entry['cpu_ms_per_crop']:.2f} ms",
         "{:.2f} [{:.2f}, {:.2f}]".format(entry["times_present"]["ratio"], *entry["times_present"]["ci95"]))
        for entry in record["formats"]
    ]  # fmt: skip
    columns = ("format", "on disk", "processor time per crop", "times the present one [95 %]")
    scan = f"{record.get('scan', '')} on {device_name(record)}."
    return table(columns, rows) + paragraph(scan, record.get("note", ""))


def _preparation(record: Record) -> str:
    data, results = record["data"], record["results"]
    entries = [_rate(_count(entry["workers"], "process", "no other process"), entry, OURS) for entry in results]
    return bars(entries, "preparation", "volumes per second") + paragraph(
        f"{data['volumes']} scans and masks of {'synthetic ' if data['synthetic'] else ''}{data['dataset']} "
        f"({data['size']}) on {device_name(record)}: {record['volumes_per_s_per_core']:.2f} per second and core."
    )


def _training(record: Record) -> str:
    names = {"with_loading": "with loading", "same_batch": "same batch", "loading_alone": "loading alone"}
    entries = [
        Bar(label, record[name]["seconds_per_step"], interval_of(record[name]["ci95_s"]),
            NEUTRAL if name == "loading_alone" else colour_of(record))
        for name, label in names.items()
    ]  # fmt: skip
    slowdown = record["slowdown"]
    low, high = slowdown["ci95"]
    return bars(entries, "time of a step", "seconds") + paragraph(
        f"{arm_label(record)}, {_geometry(record)}, on {device_name(record)}: with loading a step takes "
        f"{slowdown['ratio']:.3f} times as long (95 %: {low:.3f} to {high:.3f}); the slower side is the "
        f"{record['bottleneck']}."
    )


def _scaling(record: Record) -> str:
    assumed = (record.get("prediction") or {}).get("assumptions", [])
    listed = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in assumed)
    return (
        scaling_plot(record)
        + paragraph(f"{arm_label(record)}, {_geometry(record)}, on {device_name(record)}.", *_links(record))
        + folded("Assumptions of the prediction", f"<ul>{listed}</ul>" if assumed else "")
    )


def _links(record: Record) -> list[str]:
    """Return what was measured of the links, in words."""
    sums = record.get("all_reduce") or []
    largest = {(row["nodes"], row["processes"]): row for row in sorted(sums, key=lambda row: row["bytes"])}
    said = [
        f"All-reduce of {row['bytes'] / 1e6:.3g} MB by {processes} processes on {nodes} node(s): "
        f"{1e3 * row['median_s']:.3g} ms, {row['bus_bandwidth'] / 1e9:.3g} GB/s of a link."
        for (nodes, processes), row in largest.items()
    ]
    measured = ", ".join(record.get("measured_links") or []).replace("_", " ")
    return [*said, *([f"Of the prediction's inputs these were measured: {measured}."] if measured else [])]
