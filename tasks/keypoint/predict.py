"""Find poses in images with a ticket: python predict.py TICKET IMAGE... --out DIR [--boxes FILE.json]."""

from supertickets import cli

if __name__ == "__main__":
    cli.predict("keypoint")
