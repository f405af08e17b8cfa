"""The same as `python -m supertickets_keypoint.predict`, for a clone."""

from supertickets_keypoint.predict import main

if __name__ == "__main__":
    main()
