"""The same as `python -m supertickets_segmentation.train`, for a clone."""

from supertickets_segmentation.train import main

if __name__ == "__main__":
    main()
