"""The same as `python -m supertickets_classification.predict`, for a clone."""

from supertickets_classification.predict import main

if __name__ == "__main__":
    main()
