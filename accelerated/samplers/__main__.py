"""The table of the samplers in docs/samplers.md: python -m noisestep.accelerated.samplers."""

from . import SAMPLERS


def table() -> str:
    """The samplers as a table in Markdown."""
    lines = ["| name | sampler | order | network calls, n steps | settings | source |", "| --- " * 6 + "|"]
    for sampler in SAMPLERS.values():
        calls = "n" if sampler.correct is None else "2 n − 1"
        settings = ", ".join(f"`{name}` ({default})" for name, default in sampler.settings.items()) or "none"
        cells = (f"`{sampler.name}`", sampler.title, sampler.order, calls, settings, sampler.source)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
