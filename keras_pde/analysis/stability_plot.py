import numpy as np

from keras_pde import figures


def draw(report, path=None):
    """One panel a scheme: the region where a step does not grow, and h times each spectrum."""
    by_scheme = {}
    for row in report.rows:
        by_scheme.setdefault(row.scheme, []).append(row)
    figure, panels = figures.new(4.4 * len(by_scheme), 4.6, panels=len(by_scheme))
    for axes, rows in zip(panels, by_scheme.values(), strict=True):
        panel(axes, rows)
    figure.suptitle(report.name)
    return figures.done(figure, path)


def panel(axes, rows):
    scheme = rows[0].integrator
    points = [row.step_size * row.spectrum for row in rows]
    reach = 1.1 * max(3.0, *(abs(z).max() for z in points))
    x, y = np.linspace(-reach, reach / 2, 201), np.linspace(-reach, reach, 241)
    growth = scheme.amplification(x + 1j * y[:, None])
    axes.contourf(x, y, growth, levels=[0, 1], colors=["0.88"])
    axes.contour(x, y, growth, levels=[1], colors=["0.5"], linewidths=0.8)
    # Of schemes that neither damp nor amplify, the region is a piece of the axis.
    limit = min(scheme.imaginary_limit, reach)
    axes.plot([0, 0], [-limit, limit], color="0.88", linewidth=8, solid_capstyle="butt", zorder=0)
    for row, z in zip(rows, points, strict=True):
        # Real equations: the conjugates are eigenvalues too.
        z = np.concatenate([z, z.conj()])
        marker = "." if row.stable else "x"
        axes.plot(z.real, z.imag, marker, markersize=3, label=row.name)
    axes.axvline(0, color="0.8", linewidth=0.6, zorder=0)
    axes.axhline(0, color="0.8", linewidth=0.6, zorder=0)
    axes.set(xlabel="Re h lambda", ylabel="Im h lambda", title=scheme.name, aspect="equal")
    axes.legend(loc="upper left", fontsize="small")
