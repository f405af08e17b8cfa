"""The same as `python -m supertickets_keypoint.evaluate`, for a clone."""

from supertickets_keypoint.evaluate import main

if __name__ == "__main__":
    main()
