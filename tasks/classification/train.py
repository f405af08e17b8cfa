"""The same as `python -m supertickets_classification.train`, for a clone."""

from supertickets_classification.train import main

if __name__ == "__main__":
    main()
