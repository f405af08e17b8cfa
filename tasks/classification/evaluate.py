"""Score a ticket: python evaluate.py TICKET [CONFIG.yaml] [--dotted.key value ...] [--out metrics.json]."""

from supertickets import cli

if __name__ == "__main__":
    cli.evaluate("classification")
