"""Lines through points, and pictures of them."""

import math
import statistics

# Under load, samples of a process are not independent of their neighbours: the error is that of the means of blocks.
BLOCKS = 8


def fit(points):
    """Least squares. Returns the slope, its standard error, and the standard deviation of the residuals."""
    slope, intercept = line(points)
    residuals = [y - (slope * x + intercept) for x, y in points]
    size = max(len(points) // BLOCKS, 1)
    blocks = range(0, len(points) - size + 1, size)
    means = [statistics.mean(residuals[start : start + size]) for start in blocks]
    middles = [statistics.mean(x for x, _ in points[start : start + size]) for start in blocks]
    middle = statistics.mean(middles)
    width = sum((x - middle) ** 2 for x in middles)
    error = math.sqrt(sum(mean**2 for mean in means) / max(len(means) - 2, 1) / width)
    return slope, error, statistics.pstdev(residuals)


def describe(points):
    slope, error, spread = fit(points)
    return f"{slope:+.2f} ± {error:.2f} MB/h over {len(points)} samples that spread by {spread:.2f} MB around it"


def line(points):
    xs, ys = zip(*points)
    slope, intercept = statistics.linear_regression(xs, ys)
    return slope, intercept


def ascii_plot(points, title, unit, width=72, height=16):
    xs, ys = zip(*points)
    low, high = math.floor(min(ys)), math.ceil(max(ys))
    high = max(high, low + 1)
    cells = [[" "] * width for _ in range(height)]
    for x, y in points:
        column = round((x - xs[0]) / max(xs[-1] - xs[0], 1e-9) * (width - 1))
        row = round((y - low) / (high - low) * (height - 1))
        cells[height - 1 - row][column] = "*"
    rows = [f"{title}"]
    for index, row in enumerate(cells):
        value = high - (high - low) * index / (height - 1)
        rows.append(f"{value:8.1f} |{''.join(row).rstrip()}")
    rows.append(" " * 9 + "+" + "-" * width)
    rows.append(" " * 10 + f"{xs[0]:.2f}".ljust(width - 12) + f"{xs[-1]:.2f} {unit}".rjust(12))
    return "\n".join(rows)


def png(path, samples):
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        return
    minutes = [s["seconds"] / 60 for s in samples]
    figure, axes = pyplot.subplots(4, 1, sharex=True, figsize=(10, 10))
    axes[0].plot(minutes, [s["resident"] / 1e6 for s in samples])
    axes[0].set_ylabel("resident, MB")
    for name in ("connections", "tasks", "descriptors"):
        axes[1].plot(minutes, [s[name] for s in samples], label=name)
    axes[1].legend()
    axes[2].plot(minutes, [s["spilled"] / 1e6 for s in samples], label="spilled bodies")
    axes[2].plot(minutes, [s["blocks"] / 1e6 for s in samples], label="blocks of the file")
    axes[2].set_ylabel("MB")
    axes[2].legend()
    axes[3].plot(minutes, [s["cpu"] for s in samples], label="share of a core")
    axes[3].set_xlabel("minutes")
    axes[3].legend()
    figure.tight_layout()
    figure.savefig(path)
