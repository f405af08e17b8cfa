"""Draw a ticket: accelerate launch train.py [CONFIG.yaml] [--dotted.key value ...]; without a config, from drawn scenes."""

from supertickets import cli

if __name__ == "__main__":
    cli.train("segmentation")
