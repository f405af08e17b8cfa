"""Score a ticket: python -m supertickets_segmentation.evaluate TICKET [RECIPE] [--dotted.key value ...] [--out FILE.json]."""

from __future__ import annotations

from collections.abc import Sequence

from supertickets import cli


def main(argv: Sequence[str] | None = None) -> None:
    """Score a ticket as the command line says."""
    cli.evaluate("segmentation", argv)


if __name__ == "__main__":
    main()
