"""Classify images with a ticket: python -m supertickets_classification.predict TICKET IMAGE... [--out DIR]."""

from __future__ import annotations

from collections.abc import Sequence

from supertickets import cli


def main(argv: Sequence[str] | None = None) -> None:
    """Predict as the command line says."""
    cli.predict("classification", argv)


if __name__ == "__main__":
    main()
