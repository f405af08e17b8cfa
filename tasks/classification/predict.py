"""Classify images with a ticket: python predict.py TICKET IMAGE... [--out DIR]."""

from supertickets import cli

if __name__ == "__main__":
    cli.predict("classification")
