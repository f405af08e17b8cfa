"""The same as `python -m supertickets_keypoint.train`, for a clone."""

from supertickets_keypoint.train import main

if __name__ == "__main__":
    main()
