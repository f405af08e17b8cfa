"""Draw a ticket: accelerate launch -m supertickets_classification.train [RECIPE] [--dotted.key value ...].

RECIPE is a YAML file or the name of one of the package's recipes; without one, the data are drawn scenes.
"""

from __future__ import annotations

from collections.abc import Sequence

from supertickets import cli


def main(argv: Sequence[str] | None = None) -> None:
    """Draw a ticket as the command line says."""
    cli.train("classification", argv)


if __name__ == "__main__":
    main()
