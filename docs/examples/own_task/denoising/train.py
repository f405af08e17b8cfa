"""Draw a ticket: accelerate launch -m denoising.train [RECIPE] [--dotted.key value ...]."""

from supertickets import cli

if __name__ == "__main__":
    cli.train("denoising")
