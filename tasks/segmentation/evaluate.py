"""The same as `python -m supertickets_segmentation.evaluate`, for a clone."""

from supertickets_segmentation.evaluate import main

if __name__ == "__main__":
    main()
