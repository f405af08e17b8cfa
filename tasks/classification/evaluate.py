"""The same as `python -m supertickets_classification.evaluate`, for a clone."""

from supertickets_classification.evaluate import main

if __name__ == "__main__":
    main()
