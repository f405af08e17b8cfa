"""The same as `python -m supertickets_transfer.transfer`, for a clone."""

from supertickets_transfer.transfer import main

if __name__ == "__main__":
    main()
