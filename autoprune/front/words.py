"""Numbers with units and short sentences for the report and the picture of a front. Plain text, not escaped."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from autoprune.devices.latency import Latency
from autoprune.front.front import Front
from autoprune.search.candidate import Candidate
from autoprune.tasks.score import FRACTIONS, Score

__all__ = ["again_sentence", "budget_text", "cut_lines", "difference", "duration", "faster_sentence", "gap_sentence",
           "interval", "latency_notes", "latency_text", "milliseconds", "number", "plural", "scaled", "score_text",
           "share", "shortened", "size", "source_sentence", "source_word", "value_text"]

_MANY = 2000  # samples from which a second decimal of a percentage means something
_SOURCES = {"measured": "measured", "calibrated": "predicted, calibrated", "profile": "predicted"}


def number(value: float, digits: int = 3) -> str:
    """`digits` significant digits, in plain notation between 0.0001 and a million (1230, 18.6, 0.0421)."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    exponent = math.floor(math.log10(abs(value)))
    if not -5 < exponent < 6:
        return f"{value:.{digits - 1}e}".replace("-", "−")
    return f"{value:.{max(0, digits - 1 - exponent)}f}".replace("-", "−")


def milliseconds(value: float) -> str:
    """`value` is in milliseconds."""
    return f"{number(value)} ms"


def interval(latency: Latency) -> str:
    """`p10–p90 3.1–3.4 ms` of a measurement, `80 % within 12–29 ms` of a prediction."""
    what = "p10–p90" if latency.source == "measured" else "80 % within"
    return f"{what} {number(latency.lo_ms)}–{number(latency.hi_ms)} ms"


def source_word(latency: Latency) -> str:
    """"measured" or "predicted" (with "calibrated" where it was)."""
    return _SOURCES.get(latency.source, latency.source)


def value_text(score: Score, value: float | None = None, *, unit: bool = True) -> str:
    """The score's value (or `value`, in the same units) as a reader expects it; fractions are shown in percent."""
    shown = score.value if value is None else value
    if score.metric in FRACTIONS:
        return f"{100 * shown:.{2 if score.n >= _MANY else 1}f}".replace("-", "−") + (" %" if unit else "")
    return number(shown, 4)


def score_text(score: Score) -> str:
    """`97.3 % ± 0.8`: value and standard error."""
    if score.standard_error == 0:
        return value_text(score)
    if score.metric in FRACTIONS:
        return f"{value_text(score)} ± {value_text(score, score.standard_error, unit=False)}"
    return f"{value_text(score)} ± {number(score.standard_error, 2)}"


def difference(score: Score, value: float) -> str:
    """A difference of two values of this score's metric: percentage points for fractions, else the metric's units."""
    if score.metric in FRACTIONS:
        text = value_text(score, value, unit=False)
        return (text if text.strip("−0.") else text.lstrip("−")) + " pp"  # no "−0.0"
    return number(value, 3)


def gap_sentence(front: Front) -> str | None:
    """What `Front.selection_gap` means, in a sentence; None when the test split was not read."""
    gap = front.selection_gap
    if gap is None or front.dense.score is None:
        return None
    better = f"{difference(front.dense.score, abs(gap))} {'better' if gap >= 0 else 'worse'}"
    return (f"on the split that the front was chosen on, its points look {better} than on the test split, compared "
            "with the dense model (a mean; choosing the best of many takes some luck for skill)")


def faster_sentence(front: Front, than: Candidate) -> str | None:
    """That a faster point is as good as this one as far as the search split tells; None when none is."""
    other = front.faster_as_good(than)
    if other is None or other.score is None or than.score is None:
        return None
    return (f"trial {other.number} is {number(than.ms / other.ms)}x as fast as trial {than.number}, and within one "
            f"standard error of it on the {than.score.split} split "
            f"({value_text(other.score)} and {score_text(than.score)})")


def latency_notes(candidates: Iterable[Candidate], limit: int = 6) -> list[str]:
    """What has to be known before the latencies of these candidates are trusted, each note once; "…" for the rest."""
    notes = sorted({note for c in candidates if c.latency is not None for note in c.latency.notes})
    return notes[:limit] + (["…"] if len(notes) > limit else [])


def scaled(count: float) -> str:
    """A count with k, M or G (1.23 M)."""
    for factor, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= factor:
            return number(count / factor) + unit
    return f"{count:g}"


def size(count: float) -> str:
    """`count` bytes, in powers of 1000 (48.2 kB)."""
    return scaled(count) + "B" if count >= 1000 else f"{count:g} B"


def share(part: float, whole: float) -> str:
    """`part` in percent of `whole`, "–" when there is no whole."""
    return f"{100 * part / whole:.0f} %" if whole > 0 else "–"


def plural(count: int, noun: str) -> str:
    """`1 candidate`, `2 candidates`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def latency_text(latency: Latency) -> str:
    """`2.27 ms (measured, p10–p90 2.18–2.41 ms)`, with the percentile unless it is the median."""
    tag = "" if latency.percentile == "p50" else f" {latency.percentile}"
    return f"{milliseconds(latency.ms)}{tag} ({source_word(latency)}, {interval(latency)})"


def duration(seconds: float) -> str:
    """`seconds` as 0.12 s, 12.3 s, 4 min 05 s or 1 h 12 min."""
    if seconds < 100:
        return f"{seconds:.{1 if seconds >= 1 else 2}f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def shortened(text: str, limit: int = 44) -> str:
    """At most `limit` characters, with the middle left out."""
    if len(text) <= limit:
        return text
    head = (limit - 1) // 2
    return f"{text[:head]}…{text[-(limit - 1 - head):]}"


def cut_lines(candidate: Candidate, groups: dict[str, int], limit: int = 12) -> list[str]:
    """The plan's largest cuts (by share of units removed, in percent), one per line: `group: 12 of 32, l1`."""
    whole = [] if candidate.plan.precision == "fp32" else [f"in {candidate.plan.precision}"]
    worn = Counter(f"{m.kept:.0%} of {m.pattern}" for m in candidate.plan.masks.values())
    whole += [f"masks: {kept} stays in {plural(many, 'weight')}" for kept, many in worn.items()]
    whole += [f"without {shortened(name)}" for name in candidate.plan.dropped]
    cuts = sorted(candidate.plan.cuts.items(),
                  key=lambda item: round(100 * item[1].keep / groups.get(item[0], item[1].keep)))
    lines = [f"{shortened(name)}: {cut.keep} of {groups.get(name, '?')}, {cut.method}" for name, cut in cuts[:limit]]
    if len(cuts) > limit:
        lines.append(f"… and {len(cuts) - limit} more")
    return whole + (lines or ["nothing is cut"])


def budget_text(budget: str, ms: float) -> str:
    """`20ms`, or `0.5x = 4.21 ms` where the milliseconds are not in the text itself."""
    in_ms = budget.partition("@")[0].strip().endswith("ms")
    return budget if in_ms else f"{budget} = {milliseconds(ms)}"


def again_sentence(candidate: Candidate, budget_ms: float | None) -> str | None:
    """What a point took when it was measured again before it was recommended; None when it was not."""
    if not candidate.again_ms:
        return None
    times = ", ".join(number(ms) for ms in candidate.again_ms)
    text = f"measured again, each time in a new process: {times} ms"
    over = budget_ms is not None and max(candidate.again_ms) > budget_ms
    return text + (", not each time within the budget; no point was" if over else "")


def source_sentence(device: str, latencies: list[Latency]) -> str:
    """Where the latencies come from, and what the bars around them mean."""
    sources = Counter(x.source for x in latencies)
    where = f"on {device}" if "://" in device else "on this machine (the one that ran the search)"
    bars = "Bars run from p10 to p90 of the timed runs."
    range_ = "Bars are the range that held 80\u00a0% of held-out measurements when the profile was fitted."
    if not sources:
        return "No latency is known."
    if set(sources) == {"measured"}:
        return f"Latencies were measured {where}. {bars}"
    if "measured" not in sources:
        kind = "a profile that was calibrated on the device" if set(sources) == {"calibrated"} else "a profile"
        return f"Latencies are predicted from {kind} – measure before you promise it. {range_}"
    predicted = sum(n for source, n in sources.items() if source != "measured")
    return (f"Latencies come from two sources: {sources['measured']} measured {where}, {predicted} predicted from a "
            "profile – measure before you promise it, and compare only within one source. Bars are p10–p90 of the runs "
            "where measured, and the range that held 80\u00a0% of held-out measurements where predicted.")
