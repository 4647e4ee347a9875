"""A picture of what a model needs: memory by part, over the batch and over the length of sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tandem.api.problems import refuse
from tandem.blueprint.card import shown_name
from tandem.blueprint.fits import GIB, Room, judge
from tandem.blueprint.gpus import GPUS
from tandem.blueprint.memory import Load, Parts
from tandem.blueprint.model import Blueprint
from tandem.blueprint.split import tensor_parallel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".png", ".svg", ".pdf")
_STEP = 8192
# Colours that people with any eyesight, and grey printers, tell apart.
_PARTS = (("weights", "#0072b2"), ("KV cache", "#e69f00"), ("activation", "#56b4e9"), ("runtime", "#999999"))
_LIMIT_COLOUR = "#c1272d"
_POINTS_PER_DOUBLING = 4


def draw(path: Path, blueprint: Blueprint, load: Load, *, gpu: str | None, gpus: int) -> None:
    """Writes the picture, with a line for what one of `gpus` GPUs has; raises `Refused`.

    Without a `gpu`, lines show those of the common ones that are near.
    """
    if path.suffix.lower() not in FORMATS:
        raise refuse("--plot", str(path), "the picture's format is not known", f"End the name in {', '.join(FORMATS)}.")
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        fix = "Install it: pip install 'tandem-operator[plot]'."
        raise refuse("--plot", str(path), "drawing needs matplotlib, which is not installed", fix) from None
    figure = Figure(figsize=(12, 5), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    longest = max(2, load.length, blueprint.max_seq_len or load.length)
    batches, lengths = _steps(4 * max(load.batch, 16)), _steps(longest, low=min(256, longest // 2))
    panels = (
        (left, "sequences at once", "batch", f"sequences of {load.length:,} tokens", batches),
        (right, "tokens per sequence", "length", f"{load.batch:,} at once", lengths),
    )
    for axes, label, name, title, values in panels:
        parts = [_parts(blueprint, load, gpus, **{name: value}) for value in values]
        _stack(axes, values, parts)
        _limits(axes, parts, gpu)
        axes.set(xlabel=label, title=title, xlim=(values[0], values[-1]))
        axes.axvline(getattr(load, name), color="black", linewidth=1, linestyle=":", label="asked")
    left.set_ylabel(f"GiB on {'the GPU' if gpus == 1 else f'each of {gpus} GPUs'}")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(_title(blueprint), parse_math=False)
    try:
        figure.savefig(path)
    except OSError as error:
        reason = f"it cannot be written: {error.strerror}"
        raise refuse("--plot", str(path), reason, "Give a writable place.") from None


def _title(blueprint: Blueprint) -> str:
    params = f", {blueprint.total_params / 1e9:,.1f} billion parameters" if blueprint.total_params else ""
    form = blueprint.quantisation.method if blueprint.quantisation else blueprint.dtype
    return f"{shown_name(blueprint)}{params}{f', {form}' if form else ''}"


def _steps(high: int, *, low: int = 1) -> list[int]:
    """Whole numbers from `low` to `high`, as dense at each size."""
    found = {low, high}
    value = float(low)
    while value < high:
        found.add(round(value))
        value *= 2 ** (1 / _POINTS_PER_DOUBLING)
    return sorted(found)


def _parts(
    blueprint: Blueprint, load: Load, gpus: int, *, batch: int | None = None, length: int | None = None
) -> Parts:
    batch, length = batch or load.batch, length or load.length
    asked = replace(load, batch=batch, length=length, step=min(_STEP, batch * length))
    return judge(blueprint, asked, tensor_parallel(gpus), Room(memory=2**62)).parts


def _stack(axes: Axes, values: Sequence[int], parts: Sequence[Parts]) -> None:
    rows = [[getattr(each, name) / GIB for each in parts] for name in ("weights", "kv", "activation", "reserve")]
    names, colours = zip(*_PARTS, strict=True)
    axes.stackplot(values, rows, labels=names, colors=colours)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(axis="y", alpha=0.3)


def _limits(axes: Axes, parts: Sequence[Parts], gpu: str | None) -> None:
    """Lines for what GPUs have, and a little room above the highest of all."""
    most = max(each.total for each in parts)
    shown = [gpu] if gpu else _near(min(each.total for each in parts), most)
    room = max([most, *(Room(memory=GPUS[name]).available for name in shown)])
    axes.set_ylim(0, 1.08 * room / GIB)
    for index, name in enumerate(shown):
        height = Room(memory=GPUS[name]).available / GIB
        axes.axhline(height, color=_LIMIT_COLOUR, linewidth=1.5, linestyle="--", label="" if index else "usable memory")
        axes.annotate(
            f"90 % of {name}",
            (0, height),
            xycoords=("axes fraction", "data"),
            xytext=(6, 4),
            textcoords="offset points",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
            color=_LIMIT_COLOUR,
            fontsize="small",
        )


def _near(least: int, most: int) -> list[str]:
    """GPUs of different size, from the first that has room for the least to the first that has it for everything."""
    found: list[str] = []
    for name, memory in sorted(GPUS.items(), key=lambda each: each[1]):
        if Room(memory=memory).available < least or (found and memory < 1.4 * GPUS[found[-1]]):
            continue
        found.append(name)
        if Room(memory=memory).available >= most:
            break
    return found[:4]
