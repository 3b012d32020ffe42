"""What `show stats` and `top` say of the health of streams, and of the time that datagrams take: in words. Pure."""

from __future__ import annotations

from typing import Any

from mcrelay.commands.table import bit_rate, digits

Row = dict[str, Any]
HEADER = ["HEALTH OF", "AS", "PACKETS", "LOST", "DUPLICATED", "REORDERED", "ERRORS", "JITTER", "MOST", "RATE"]
NUMBERS = ["PACKETS", "LOST", "DUPLICATED", "REORDERED", "ERRORS", "JITTER", "MOST", "RATE"]
COUNTED = (  # what has no column, and is said in words where it is not 0
    ("rtp", "ssrc_changes", "SSRC changes"),
    ("rtp", "restarts", "restarts of the sequence"),
    ("rtp", "foreign", "of another SSRC"),
    ("ts", "sync_errors", "sync errors"),
    ("ts", "transport_errors", "packets marked as damaged"),
    ("ts", "pcr_gaps", "PCR gaps"),
)


def rows(rule: Row) -> list[list[str]]:
    """A line for what its stream is looked at as; none for a rule that does not ask."""
    health = rule.get("health")
    if not health:
        return []
    found = []
    if rtp := health["rtp"]:
        counts = [digits(rtp[key]) for key in ("packets", "lost", "duplicated", "reordered")]
        jitter = [_milliseconds(rtp["jitter_seconds"]), _milliseconds(rtp["jitter_max_seconds"])]
        found.append([rule["name"], "rtp", *counts, "-", *jitter, "-"])
    if ts := health["ts"]:
        jitter = [_milliseconds(ts["pcr_jitter_seconds"]), _milliseconds(ts["pcr_jitter_max_seconds"])]
        rate = "-" if ts["bit_rate"] is None else bit_rate(ts["bit_rate"])
        counts = [digits(ts["packets"]), "-", "-", "-", digits(ts["continuity_errors"])]
        found.append(["" if found else rule["name"], "ts", *counts, *jitter, rate])
    return found


def notes(rule: Row) -> list[str]:
    """What is wrong and has no column, in one sentence; none where nothing is."""
    health = rule.get("health")
    if not health:
        return []
    said = []
    if health["silences"]:
        seconds = digits(health["silence_seconds"], 1)
        said.append(f"silences {digits(health['silences'])}, {seconds} s in all")
    if health["unrecognised"]:
        said.append(f"unrecognised datagrams {digits(health['unrecognised'])}")
    for part, key, words in COUNTED:
        if health[part] and health[part][key]:
            said.append(f"{words} {digits(health[part][key])}")
    if health["ts"] and health["ts"]["continuity_errors_by_pid"]:
        by_pid = (f"PID {pid} {digits(n)}" for pid, n in health["ts"]["continuity_errors_by_pid"].items())
        said.append(f"continuity errors of {', '.join(by_pid)}")
    return [f"{rule['name']}: health: {'; '.join(said)}"] if said else []


def summary(health: Row | None) -> str:
    """What was found, in one line; empty for a rule that does not ask."""
    if not health:
        return ""
    said = []
    if rtp := health["rtp"]:
        counts = ", ".join(f"{key} {digits(rtp[key])}" for key in ("lost", "duplicated", "reordered"))
        said.append(f"rtp {counts}, jitter {_milliseconds(rtp['jitter_seconds'])}")
    if ts := health["ts"]:
        rate = "" if ts["bit_rate"] is None else f", {bit_rate(ts['bit_rate'])}"
        said.append(f"ts continuity errors {digits(ts['continuity_errors'])}, PCR gaps {digits(ts['pcr_gaps'])}{rate}")
    if health["unrecognised"]:
        said.append(f"unrecognised {digits(health['unrecognised'])}")
    if health["silences"]:
        said.append(f"silences {digits(health['silences'])}")
    return "; ".join(said)


def within(times: Row | None, share: float = 0.99) -> str:
    """The time in which that share of the datagrams were sent, as a cell: the bound of a bucket."""
    if not times or not times["count"]:
        return "-"
    bounds = list(times["buckets"])
    for bound, count in times["buckets"].items():
        if count >= share * times["count"]:
            return f"<= {_milliseconds(float(bound))}" if bound != "+Inf" else f"> {_milliseconds(float(bounds[-2]))}"
    return "-"


def _milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1e3:.3g} ms" if seconds < 0.9995 else f"{seconds:.3g} s"
