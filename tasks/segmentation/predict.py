"""The same as `python -m supertickets_segmentation.predict`, for a clone."""

from supertickets_segmentation.predict import main

if __name__ == "__main__":
    main()
